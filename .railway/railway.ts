// Railway's infrastructure as code: what `railway config plan` compares with your project and
// `railway config apply` changes there. It says the same as railway.toml, which Railway no longer
// reads from 2026-12-01 on; deploy/README.md tells how to use either.

import { defineRailway, image, postgres, preserve, project, service, volume } from "railway/iac";

// Where conversations, keys and the mirror's session are kept: on a volume (one process, short
// pause at each deployment), in PostgreSQL (any number of processes), or nowhere.
const STATE = "volume" as "volume" | "postgres" | "nowhere";

// The image of a release, "ghcr.io/OWNER/REPOSITORY:latest" with your own names; empty to build the Dockerfile.
const IMAGE = "" as string;

const built = {
  // No source: connect your GitHub repository in the dashboard, or deploy this folder with `railway up`.
  build: {
    builder: "DOCKERFILE" as const,
    dockerfilePath: "Dockerfile",
    // Other files do not change the image.
    watchPatterns: [
      "/src/**",
      "/migrations/**",
      "/build.rs",
      "/CHANGELOG.md",
      "/Cargo.toml",
      "/Cargo.lock",
      "/Dockerfile",
      "/.dockerignore",
      "/LICENSE",
      "/THIRD_PARTY.md",
    ],
  },
};

export default defineRailway(() => {
  const data = volume("mirrorgate-data", { sizeMB: 500 });
  const database = postgres("Postgres");

  const gateway = service("mirrorgate", {
    ...(IMAGE === "" ? built : { source: image(IMAGE) }),
    deploy: {
      healthcheckPath: "/health",
      healthcheckTimeout: 300,
      restartPolicyType: "ON_FAILURE",
      restartPolicyMaxRetries: 10,
      // The old deployment serves on for this long after the new one is healthy.
      overlapSeconds: 10,
      // From SIGTERM to SIGKILL: running answers have 30 seconds to finish.
      drainingSeconds: 35,
      // Always on, so that no call waits for a start.
      sleepApplication: false,
    },
    env: {
      // Set these in the dashboard: `preserve` keeps what is there, so that no secret stands here.
      GATEWAY_API_KEYS: preserve(),
      ADMIN_KEY: preserve(),
      SECRET_KEY: preserve(),
      UPSTREAM_URL: preserve(),
      UPSTREAM_PROTOCOL: preserve(),
      UPSTREAM_API_KEY: preserve(),
      UPSTREAM_COOKIE: preserve(),
      UPSTREAM_HEADERS: preserve(),
      UPSTREAM_BODY: preserve(),
      MODELS: preserve(),
      DEFAULT_MODEL: preserve(),
      PUBLIC_URL: preserve(),
      ...(STATE === "postgres" ? { DATABASE_URL: database.env.DATABASE_URL } : {}),
      // A volume belongs to root, and the image's own user is not root.
      ...(STATE === "volume" ? { RAILWAY_RUN_UID: "0" } : {}),
    },
    ...(STATE === "volume" ? { volumeMounts: { "/data": data } } : {}),
  });

  const state = { volume: [data], postgres: [database], nowhere: [] };
  return project("mirrorgate", { resources: [gateway, ...state[STATE]] });
});
