//! Whether what is kept outlives a deployment: most platforms wipe the disk, and the start-up text
//! and the doctor say so.

use std::path::Path;

use super::{Config, Location, Platform};

impl Config {
    /// What speaks against the place where conversations, keys and the login are kept; nothing where
    /// the process runs on no platform, on a disk that is mounted, or with a backup that brings it back.
    pub fn state_concern(&self) -> Option<String> {
        let platform = self.public.platform?;
        match &self.store.location {
            Location::Postgres { .. } => None,
            Location::File(_) if self.store.backup.is_some() => None,
            Location::Memory => Some(format!(
                "there is no disk to write to on {}, so a restart forgets everything",
                platform.name()
            )),
            // Vercel's only folder that can be written is mounted, and gone with the instance.
            Location::File(path) if platform != Platform::Vercel && is_mounted(path) => None,
            Location::File(_) => {
                Some(format!("{} wipes this disk at each deployment and restart", platform.name()))
            }
        }
    }
}

/// Whether a path lies on another device than the root: a volume is mounted there.
#[cfg(unix)]
fn is_mounted(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| std::fs::metadata(path).ok().map(|metadata| metadata.dev());
    let existing = path.ancestors().find_map(device);
    existing.is_some() && existing != device(Path::new("/"))
}

#[cfg(not(unix))]
fn is_mounted(_: &Path) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn concern(variables: &[(&str, &str)]) -> Option<String> {
        let lookup =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string());
        Config::load(&lookup, std::iter::empty()).expect("good settings").state_concern()
    }

    #[test]
    fn a_platform_without_a_lasting_disk_is_told_of() {
        const POSTGRES: (&str, &str) = ("DATABASE_URL", "postgres://u:p@db/x");
        const BUCKET: [(&str, &str); 3] =
            [("BACKUP_URL", "s3://bucket"), ("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "secret")];
        assert_eq!(concern(&[("DATA_DIR", "/")]), None, "no platform");
        for (variable, value, name) in [
            ("RENDER", "true", "Render"),
            ("RAILWAY_PROJECT_ID", "x", "Railway"),
            ("VERCEL", "1", "Vercel"),
            ("SPACE_ID", "me/x", "Hugging Face"),
            ("REPLIT_DEPLOYMENT", "1", "Replit"),
            ("KOYEB_APP_NAME", "x", "Koyeb"),
            ("FLY_APP_NAME", "x", "Fly.io"),
            ("K_SERVICE", "x", "Cloud Run"),
        ] {
            let wiped = concern(&[(variable, value), ("DATA_DIR", "/")]).expect(name);
            assert!(wiped.contains(name) && wiped.contains("wipes"), "{wiped}");
            let memory = concern(&[(variable, value)]).expect(name);
            assert!(memory.contains("no disk"), "{memory}");
            assert_eq!(concern(&[(variable, value), POSTGRES]), None);
            assert_eq!(concern(&[&[(variable, value), ("DATA_DIR", "/")], &BUCKET[..]].concat()), None);
        }
        if cfg!(target_os = "linux") {
            assert_eq!(concern(&[("FLY_APP_NAME", "x"), ("DATA_DIR", "/proc")]), None, "mounted");
            assert!(concern(&[("VERCEL", "1"), ("DATA_DIR", "/proc")]).is_some());
        }
    }
}
