//! Hosting platforms, recognised by the variables that they set.
//!
//! Each gives three facts: that the service must listen on all addresses, which public URL it
//! got, and where a disk is mounted that outlives a restart.

/// A hosting platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Platform {
    /// <https://docs.railway.com/reference/variables>
    Railway,
    /// <https://render.com/docs/environment-variables>
    Render,
    /// <https://vercel.com/docs/environment-variables/system-environment-variables>
    Vercel,
    /// <https://huggingface.co/docs/hub/spaces-overview>
    HuggingFace,
    /// <https://docs.replit.com/replit-workspace/workspace-features/secrets>
    Replit,
    /// <https://www.koyeb.com/docs/build-and-deploy/environment-variables>
    Koyeb,
    /// <https://fly.io/docs/machines/runtime-environment/>
    Fly,
    /// <https://cloud.google.com/run/docs/container-contract>
    CloudRun,
}

/// Reads one environment variable; empty counts as unset.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Platform {
    /// The platform that this process runs on.
    pub fn detect(lookup: Lookup) -> Option<Self> {
        const SIGNS: &[(&str, Platform)] = &[
            ("RENDER", Platform::Render),
            ("RAILWAY_ENVIRONMENT_ID", Platform::Railway),
            ("RAILWAY_ENVIRONMENT", Platform::Railway),
            ("RAILWAY_PROJECT_ID", Platform::Railway),
            ("RAILWAY_PUBLIC_DOMAIN", Platform::Railway),
            ("VERCEL", Platform::Vercel),
            ("VERCEL_ENV", Platform::Vercel),
            ("SPACE_ID", Platform::HuggingFace),
            ("SPACE_HOST", Platform::HuggingFace),
            ("REPLIT_DEPLOYMENT", Platform::Replit),
            ("REPLIT_DEV_DOMAIN", Platform::Replit),
            ("REPL_ID", Platform::Replit),
            ("KOYEB_PUBLIC_DOMAIN", Platform::Koyeb),
            ("KOYEB_APP_NAME", Platform::Koyeb),
            ("FLY_APP_NAME", Platform::Fly),
            ("K_SERVICE", Platform::CloudRun),
        ];
        SIGNS.iter().find(|(name, _)| lookup(name).is_some()).map(|(_, platform)| *platform)
    }

    /// The platform's name as it writes it.
    pub fn name(self) -> &'static str {
        match self {
            Platform::Railway => "Railway",
            Platform::Render => "Render",
            Platform::Vercel => "Vercel",
            Platform::HuggingFace => "Hugging Face",
            Platform::Replit => "Replit",
            Platform::Koyeb => "Koyeb",
            Platform::Fly => "Fly.io",
            Platform::CloudRun => "Cloud Run",
        }
    }

    /// The public base URL, where the platform tells it.
    pub fn public_url(self, lookup: Lookup) -> Option<String> {
        let https = |host: String| format!("https://{}", host.trim_end_matches('/'));
        match self {
            Platform::Render => lookup("RENDER_EXTERNAL_URL"),
            Platform::Railway => lookup("RAILWAY_PUBLIC_DOMAIN").map(https),
            Platform::Vercel => {
                let production = lookup("VERCEL_ENV").is_some_and(|value| value == "production");
                production
                    .then(|| lookup("VERCEL_PROJECT_PRODUCTION_URL"))
                    .flatten()
                    .or_else(|| lookup("VERCEL_BRANCH_URL"))
                    .or_else(|| lookup("VERCEL_URL"))
                    .map(https)
            }
            Platform::HuggingFace => lookup("SPACE_HOST").map(https),
            Platform::Replit => lookup("REPLIT_DEPLOYMENT")
                .and_then(|_| lookup("REPLIT_DOMAINS"))
                .and_then(|domains| domains.split(',').next().map(str::trim).map(String::from))
                .filter(|domain| !domain.is_empty())
                .or_else(|| lookup("REPLIT_DEV_DOMAIN"))
                .map(https),
            Platform::Koyeb => lookup("KOYEB_PUBLIC_DOMAIN").map(https),
            Platform::Fly => lookup("FLY_APP_NAME").map(|app| format!("https://{app}.fly.dev")),
            Platform::CloudRun => None,
        }
    }

    /// Where the platform mounts a disk that outlives a restart.
    pub fn volume(self, lookup: Lookup) -> Option<String> {
        match self {
            Platform::Railway => lookup("RAILWAY_VOLUME_MOUNT_PATH"),
            Platform::Render
            | Platform::Vercel
            | Platform::HuggingFace
            | Platform::Replit
            | Platform::Koyeb
            | Platform::Fly
            | Platform::CloudRun => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_platform_names_its_public_url() {
        type Case = (&'static [(&'static str, &'static str)], Platform, Option<&'static str>);
        let cases: &[Case] = &[
            (
                &[("RAILWAY_ENVIRONMENT", "production"), ("RAILWAY_PUBLIC_DOMAIN", "a.up.railway.app")],
                Platform::Railway,
                Some("https://a.up.railway.app"),
            ),
            (&[("RAILWAY_PROJECT_ID", "x")], Platform::Railway, None),
            (
                &[("RENDER", "true"), ("RENDER_EXTERNAL_URL", "https://a.onrender.com")],
                Platform::Render,
                Some("https://a.onrender.com"),
            ),
            (
                &[
                    ("VERCEL", "1"),
                    ("VERCEL_ENV", "production"),
                    ("VERCEL_URL", "a-123.vercel.app"),
                    ("VERCEL_PROJECT_PRODUCTION_URL", "a.vercel.app"),
                ],
                Platform::Vercel,
                Some("https://a.vercel.app"),
            ),
            (
                &[
                    ("VERCEL", "1"),
                    ("VERCEL_ENV", "preview"),
                    ("VERCEL_URL", "a-123.vercel.app"),
                    ("VERCEL_BRANCH_URL", "a-git-b.vercel.app"),
                ],
                Platform::Vercel,
                Some("https://a-git-b.vercel.app"),
            ),
            (
                &[("SPACE_ID", "me/a"), ("SPACE_HOST", "me-a.hf.space")],
                Platform::HuggingFace,
                Some("https://me-a.hf.space"),
            ),
            (
                &[
                    ("REPLIT_DEPLOYMENT", "1"),
                    ("REPLIT_DOMAINS", "a.replit.app,b.example.com"),
                    ("REPLIT_DEV_DOMAIN", "dev.replit.dev"),
                ],
                Platform::Replit,
                Some("https://a.replit.app"),
            ),
            (
                &[("REPL_ID", "1"), ("REPLIT_DOMAINS", "a"), ("REPLIT_DEV_DOMAIN", "dev.replit.dev")],
                Platform::Replit,
                Some("https://dev.replit.dev"),
            ),
            (&[("KOYEB_PUBLIC_DOMAIN", "a.koyeb.app")], Platform::Koyeb, Some("https://a.koyeb.app")),
            (&[("FLY_APP_NAME", "a")], Platform::Fly, Some("https://a.fly.dev")),
            (&[("K_SERVICE", "a")], Platform::CloudRun, None),
        ];
        for (variables, platform, url) in cases {
            let lookup = |name: &str| {
                variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string())
            };
            let found = Platform::detect(&lookup).expect("a platform");
            assert_eq!(found, *platform);
            assert_eq!(found.public_url(&lookup).as_deref(), *url, "{}", found.name());
        }
        assert_eq!(Platform::detect(&|_| None), None);
    }
}
