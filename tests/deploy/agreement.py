"""Asserts that the deployment files agree with each other and with the program.

Ports, health paths, times and names of variables stand in a dozen files of a dozen formats; no
platform would tell that one of them fell behind. Each line printed is one disagreement.

Usage: agreement.py ROOT RAILWAY_GRAPH RAILWAY_IMAGE_GRAPH, the JSON of what .railway/railway.ts describes, with a
build and with an image.
"""

from __future__ import annotations

import json
import re
import runpy
import sys
import tomllib
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(sys.argv[1])
problems: list[str] = []
asked = 0


def check(good: bool, message: str) -> None:
    """Counts a question, and remembers the message where the answer is no."""
    global asked
    asked += 1
    if not good:
        problems.append(message)


def same(what: str, found: Any, wanted: Any) -> None:
    check(found == wanted, f"{what} is {found!r}, not {wanted!r}")


def text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def one(pattern: str, where: str, what: str) -> str:
    """The one thing that a pattern finds; everything after hangs on it."""
    found = re.findall(pattern, where, re.MULTILINE)
    if len(set(found)) != 1:
        sys.exit(f"{what}: found {len(found)} times, so nothing can be compared with it")
    return found[0]


def toml(path: str) -> dict[str, Any]:
    return tomllib.loads(text(path))


def yaml(source: str) -> Any:
    return YAML(typ="safe").load(source)


# --- the program: what all files must agree with ---

# A test of the program holds these tables equal to its settings.
tables = text("docs/settings.md") + text("docs/limits.md") + text("docs/backup.md")
rows = dict(re.findall(r"^\| `([A-Z][A-Z0-9_]*)` \| `?([^|`]*)", tables, re.MULTILINE))
check(len(rows) > 20, "the tables of settings in docs/settings.md, docs/limits.md and docs/backup.md were not understood")
SETTINGS = set(rows)
PORT = int(rows["PORT"])
HEALTH = one(r'#\[get\("(/health)"\)\]', text("src/api/live.rs"), "the health path in src/api/live.rs")
check(f'"{HEALTH}"' in text("src/api/mod.rs"), f"{HEALTH} is not public in src/api/mod.rs")
DRAIN = int(rows["SHUTDOWN_TIMEOUT_SECONDS"])
KEEP_ALIVE = int(
    one(r"KEEP_ALIVE: Duration = Duration::from_secs\((\d+)\)", text("src/app/server.rs"), "KEEP_ALIVE in src/app/server.rs")
)
platform = text("src/config/platform.rs").split("#[cfg(test)]")[0]
PLATFORM_VARIABLES = set(re.findall(r'"([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+|RENDER|VERCEL)"', platform))
cargo = toml("Cargo.toml")
BINARY = cargo["package"]["name"]
MAIN = next(target["path"] for target in cargo["bin"] if target["name"] == BINARY)

# --- the image ---

dockerfile = text("Dockerfile")
stages = re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)
toolchain = toml("rust-toolchain.toml")["toolchain"]["channel"]
builder, base = (stage.split("@sha256:")[0] for stage in stages)
for stage in stages:
    check(re.search(r"@sha256:[0-9a-f]{64}$", stage) is not None, f"Dockerfile names {stage} without a digest")
same("Dockerfile's first base, by rust-toolchain.toml,", builder, f"rust:{toolchain.rpartition('.')[0]}-bookworm")
oldest = cargo["package"]["rust-version"]
same("rust-version in Cargo.toml, by rust-toolchain.toml,", oldest, toolchain.rpartition(".")[0])
same("the image's base", base, "gcr.io/distroless/cc-debian12:nonroot")
check("--mount=" not in dockerfile, "Dockerfile mounts something while it builds; not all platforms take that")
last = dockerfile.split(f"FROM {stages[-1]}")[1]
environment = dict(re.findall(r"\b([A-Z_]+)=(\S+)", one(r"^ENV ((?:.*\\\n)*.*)$", last, "ENV in Dockerfile")))
same("PORT in Dockerfile", int(environment.get("PORT", 0)), PORT)
same("HOST in Dockerfile", environment.get("HOST"), "0.0.0.0")
DATA = environment.get("XDG_DATA_HOME", "")
check(f"/rootfs{DATA}" in dockerfile, f"Dockerfile makes no folder {DATA}")
same("EXPOSE in Dockerfile", one(r"^EXPOSE (\d+)$", last, "EXPOSE in Dockerfile"), str(PORT))
USER = one(r"^USER (\S+)$", last, "USER in Dockerfile")
same("USER in Dockerfile", USER, "1000:1000")
same("WORKDIR in Dockerfile", one(r"^WORKDIR (\S+)$", last, "WORKDIR in Dockerfile"), "/")
entrypoint = json.loads(one(r"^ENTRYPOINT (\[.*\])$", last, "ENTRYPOINT in Dockerfile"))
HEALTHCHECK = json.loads(one(r"^\s+CMD (\[.*\])$", last, "HEALTHCHECK in Dockerfile"))
same("HEALTHCHECK in Dockerfile", HEALTHCHECK, [*entrypoint, "healthcheck"])
check(f"/rootfs{entrypoint[0]}" in dockerfile, f"Dockerfile does not put the program at {entrypoint[0]}")

context = {line[1:] for line in text(".dockerignore").splitlines() if line.startswith("!")}
copied = {
    source
    for line in re.findall(r"^COPY (?!--from)(.*)$", dockerfile, re.MULTILINE)
    for source in line.split()[:-1]
}
same("what Dockerfile copies, by .dockerignore,", context, copied)
for name in sorted(copied):
    check((ROOT / name).exists(), f"Dockerfile copies {name}, which does not exist")

# --- Railway ---

railway = toml("railway.toml")
graph = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
service = next(item for item in graph["resources"] if item["type"] == "service")
watched = {
    path
    for name in copied | {"Dockerfile", ".dockerignore"}
    for path in [f"/{name}/**" if (ROOT / name).is_dir() else f"/{name}"]
}
same("watchPatterns in .railway/railway.ts", set(service["build"].pop("watchPatterns")), watched)
same("watchPatterns in railway.toml", set(railway["build"].pop("watchPatterns")), watched | {"/railway.toml"})
same("[build] of railway.toml, in .railway/railway.ts,", service["build"], railway["build"])
same("[deploy] of railway.toml, in .railway/railway.ts,", service["deploy"], railway["deploy"])
same("healthcheckPath in railway.toml", railway["deploy"]["healthcheckPath"], HEALTH)
check((ROOT / railway["build"]["dockerfilePath"]).is_file(), "dockerfilePath in railway.toml is no file")
check(railway["deploy"]["drainingSeconds"] > DRAIN, f"drainingSeconds in railway.toml is not over {DRAIN}")
for name in service["variables"]:
    check(name in SETTINGS | {"RAILWAY_RUN_UID"}, f"{name} in .railway/railway.ts is no setting")
for mount in service.get("volumeAttachments", {}).values():
    same("the volume's place in .railway/railway.ts", mount["mountPath"], DATA)

# The name of a released image, as it stands in all files until somebody puts his own there.
IMAGE = "ghcr.io/OWNER/REPOSITORY:latest"
imaged = json.loads(Path(sys.argv[3]).read_text(encoding="utf-8"))
instead = next(item for item in imaged["resources"] if item["type"] == "service")
check(f'"{IMAGE}"' in text(".railway/railway.ts"), f".railway/railway.ts does not tell of {IMAGE}")
same("the image in .railway/railway.ts", instead.pop("source", {}).get("image"), IMAGE)
without = ("build", "kind")
same(
    "what .railway/railway.ts says with an image",
    {key: value for key, value in instead.items() if key not in without},
    {key: value for key, value in service.items() if key not in without},
)
check("build" not in instead, ".railway/railway.ts builds though it has an image")

# --- Render ---

render = yaml(text("render.yaml"))["services"][0]
same("healthCheckPath in render.yaml", render["healthCheckPath"], HEALTH)
check((ROOT / render["dockerfilePath"]).is_file(), "dockerfilePath in render.yaml is no file")
# Render refuses another value on the free plan.
check(DRAIN <= 30, f"Render's free plan ends the program after 30 seconds, not {DRAIN}")
for variable in render["envVars"]:
    check(variable["key"] in SETTINGS, f"{variable['key']} in render.yaml is no setting")

imaged_render = yaml(text("deploy/render.image.yaml"))["services"][0]
expected = {key: value for key, value in render.items() if key not in ("dockerfilePath", "autoDeployTrigger")}
expected |= {"runtime": "image", "image": {"url": IMAGE}}
same("the service in deploy/render.image.yaml", imaged_render, expected)

# --- Replit ---

replit = toml(".replit")
same("localPort in .replit", replit["ports"][0]["localPort"], PORT)
same("run in .replit", replit["deployment"]["run"], [f"target/release/{BINARY}"])
same("build in .replit", replit["deployment"]["build"], ["cargo", "build", "--release", "--locked"])

# --- Vercel ---

vercel = json.loads(text("vercel.json"))
[(name, function)] = vercel["services"].items()
same("functions in vercel.json", list(function["functions"]), [MAIN])
same("default-run in Cargo.toml", cargo["package"].get("default-run"), BINARY)
limit = function["functions"].get(MAIN, {}).get("maxDuration", 0)
check(
    limit > int(rows["REQUEST_TIMEOUT_SECONDS"]),
    f"maxDuration in vercel.json, {limit}, would cut an answer within REQUEST_TIMEOUT_SECONDS",
)
same("rewrites in vercel.json", vercel["rewrites"], [{"source": "/(.*)", "destination": {"service": name}}])

# --- Fly.io ---

fly = toml("deploy/fly.toml")
same("internal_port in fly.toml", fly["http_service"]["internal_port"], PORT)
same("checks in fly.toml", [item["path"] for item in fly["http_service"]["checks"]], [HEALTH])
check(int(fly["kill_timeout"].rstrip("s")) > DRAIN, f"kill_timeout in fly.toml is not over {DRAIN}s")
same("mounts.destination in fly.toml", fly["mounts"]["destination"], DATA)
check((ROOT / "deploy" / fly["build"]["dockerfile"]).is_file(), "build.dockerfile in fly.toml is no file")
check(
    fly["http_service"]["http_options"]["idle_timeout"] > 2 * int(rows["HEARTBEAT_SECONDS"]),
    "idle_timeout in fly.toml leaves no room for a heartbeat",
)
for name in fly.get("env", {}):
    check(name in SETTINGS, f"{name} in fly.toml is no setting")

# --- Hugging Face ---

front = yaml(text("deploy/huggingface/README.md").split("---")[1])
same("app_port of the Space", front["app_port"], PORT)

# --- a server of one's own ---

compose = yaml(text("deploy/vps/compose.yaml"))
gateway = compose["services"][BINARY]
same("image in compose.yaml", gateway["image"], f"${{MIRRORGATE_IMAGE:-{BINARY}}}")
for name in gateway["environment"]:
    check(name in SETTINGS, f"{name} in compose.yaml is no setting")
same("PORT in compose.yaml", int(gateway["environment"]["PORT"]), PORT)
same("HOST in compose.yaml", gateway["environment"]["HOST"], "0.0.0.0")
same("DATA_DIR in compose.yaml", gateway["environment"]["DATA_DIR"], DATA)
same("the data volume in compose.yaml", gateway["volumes"], [f"data:{DATA}"])
same("user in compose.yaml", gateway["user"], USER)
same("healthcheck in compose.yaml", gateway["healthcheck"]["test"], ["CMD", *HEALTHCHECK])
check(int(gateway["stop_grace_period"].rstrip("s")) > DRAIN, f"stop_grace_period is not over {DRAIN}s")
same("MIRRORGATE in compose.yaml", compose["services"]["caddy"]["environment"]["MIRRORGATE"], f"{BINARY}:{PORT}")
for name, part in compose["services"].items():
    check("ports" not in part or name == "caddy", f"{name} in compose.yaml publishes ports; only caddy should")
    same(f"cap_drop of {name} in compose.yaml", part["cap_drop"], ["ALL"])
    same(f"security_opt of {name} in compose.yaml", part["security_opt"], ["no-new-privileges:true"])
    check(part.get("read_only", False) or name == "postgres", f"{name} in compose.yaml is not read_only")

caddyfile = text("deploy/vps/Caddyfile")
same(
    "what the Caddyfile passes on to",
    one(r"reverse_proxy (\S+)", caddyfile, "reverse_proxy in the Caddyfile"),
    f"{{$MIRRORGATE:127.0.0.1:{PORT}}}",
)
same("flush_interval", one(r"flush_interval (\S+)", caddyfile, "flush_interval in the Caddyfile"), "-1")
keepalive = int(one(r"keepalive (\d+)s", caddyfile, "keepalive in the Caddyfile"))
check(keepalive < KEEP_ALIVE, f"keepalive in the Caddyfile is not under {KEEP_ALIVE}s")

unit = dict(re.findall(r"^(\w+)=(.*)$", text("deploy/vps/mirrorgate.service"), re.MULTILINE))
example = dict(re.findall(r"^#?([A-Z_]+)=(.*)$", text("deploy/vps/env.example"), re.MULTILINE))
install = text("deploy/vps/install")
program = unit["ExecStart"].split()[0]
check(f"put \"$binary\" {program} 755" in install, f"install does not put the program at {program}")
check(f"{unit['WorkingDirectory']}/.env" in install, f"install writes no settings to {unit['WorkingDirectory']}")
same("DATA_DIR in env.example", example["DATA_DIR"], f"/var/lib/{unit['StateDirectory']}")
same("PORT in env.example", int(example["PORT"]), PORT)
same("HOST in env.example", example["HOST"], "127.0.0.1")
check(int(unit["TimeoutStopSec"]) > DRAIN, f"TimeoutStopSec in the unit is not over {DRAIN}")
same("MIRRORGATE_IMAGE in env.example", example["MIRRORGATE_IMAGE"], IMAGE)
for name in example:
    check(name in SETTINGS | {"DOMAIN", "MIRRORGATE_IMAGE", "POSTGRES_PASSWORD"}, f"{name} in env.example is no setting")

# --- releases ---

workflow = yaml(text(".github/workflows/ci.yml"))
# The digest may lag behind: Dependabot renews that of Dockerfile alone.
same("the container in ci.yml", workflow["jobs"]["test"]["container"].split("@")[0], builder)
release = yaml(text(".github/workflows/release.yml"))
released = {row["target"] for row in release["jobs"]["build"]["strategy"]["matrix"]["include"]}
package = runpy.run_path(str(ROOT / "scripts/package"))
platforms = {f"{target.os}-{target.cpu}" for name, target in package["TARGETS"].items() if name in released}
same("what the npm package offers", set(package["OFFERED"]), platforms)
unchecked = released - set(toml("deny.toml")["graph"]["targets"])
check(not unchecked, f"deny.toml lacks targets that release.yml builds: {sorted(unchecked)}")

# --- the guides ---

commands = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "src/cli").glob("*.rs")))
SETTINGS |= {"DOMAIN", "MIRRORGATE", "MIRRORGATE_IMAGE", "POSTGRES_PASSWORD", "RAILWAY_RUN_UID"} | PLATFORM_VARIABLES
guides = {name: text(f"deploy/{name}") for name in ("README.md", "README.zh-Hant.md")}
for name, guide in guides.items():
    spans = re.findall(r"`([^`\n]+)`", guide) + re.findall(r"^```\w*\n(.*?)^```", guide, re.DOTALL | re.MULTILINE)
    for variable in {word for span in spans for word in re.findall(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b", span)}:
        known = variable in SETTINGS or variable.startswith("SSRF_PROXY_ALLOW_PRIVATE_")
        check(known, f"deploy/{name} names {variable}, which is no setting")
    called = re.findall(r"(?:^|sudo -u mirrorgate )mirrorgate ([a-z].*)$", "\n".join(spans), re.MULTILINE)
    for word in {word.lstrip("-") for line in called for word in re.findall(r"^[a-z]+|--[a-z-]+", line)}:
        check(f'"{word}"' in commands, f"deploy/{name} calls mirrorgate with {word}, which src/cli does not know")
    for port in set(re.findall(r"127\.0\.0\.1:(\d+)", guide)):
        same(f"a port in deploy/{name}", int(port), PORT)
    check(HEALTH in guide, f"deploy/{name} does not say how to check: {HEALTH}")
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", guide):
        if "://" not in link:
            check((ROOT / "deploy" / link).exists(), f"deploy/{name} links to {link}, which does not exist")


def outline(guide: str) -> tuple[list[int], list[set[str]]]:
    """Levels of the headings; commands' and settings' names in each section."""
    sections = re.split(r"^(#+) ", guide, flags=re.MULTILINE)
    names = [set(re.findall(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b", part)) for part in sections[2::2]]
    return [len(level) for level in sections[1::2]], names


english, chinese = outline(guides["README.md"]), outline(guides["README.zh-Hant.md"])
same("the outline of deploy/README.zh-Hant.md", chinese[0], english[0])
for number, (here, there) in enumerate(zip(english[1], chinese[1]), 1):
    check(here == there, f"section {number} of the two guides names different settings: {sorted(here ^ there)}")

for problem in problems:
    print(problem, file=sys.stderr)
print(f"{asked - len(problems)} agreements, {len(problems)} disagreements")
sys.exit(1 if problems else 0)
