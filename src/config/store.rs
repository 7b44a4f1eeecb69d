//! What is kept, and where: the store's location, how long conversations stay, and what seals the login.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::reader::Reader;
use super::settings::{CONVERSATION_TTL_DAYS, DATA_DIR, DATABASE_POOL_SIZE, DATABASE_URL, SECRET_KEY};
use super::{Backup, Platform};

/// What is kept, and where.
#[derive(Clone)]
pub struct Store {
    /// `DATABASE_URL`, else a file in `DATA_DIR`.
    pub location: Location,
    /// Whether `DATABASE_URL` or `DATA_DIR` names the location, or `BACKUP_URL` wants one: then there is no
    /// other.
    pub is_chosen: bool,
    /// `CONVERSATION_TTL_DAYS`; `None` keeps conversations for ever.
    pub conversation_ttl: Option<Duration>,
    /// `SECRET_KEY`
    pub secret_key: Option<SecretString>,
    /// `BACKUP_URL`
    pub backup: Option<Backup>,
}

/// Where the store is.
#[derive(Clone)]
pub enum Location {
    /// A SQLite file.
    File(PathBuf),
    /// A PostgreSQL server.
    Postgres {
        /// `DATABASE_URL`
        url: SecretString,
        /// `DATABASE_POOL_SIZE`
        connections: usize,
    },
    /// This process's memory.
    Memory,
}

impl Location {
    /// The location for a person, without credentials.
    pub fn describe(&self) -> String {
        match self {
            Location::File(path) => path.display().to_string(),
            Location::Postgres { url, .. } => Url::parse(url.expose_secret()).map_or_else(
                |_| "PostgreSQL".into(),
                |url| format!("PostgreSQL at {}", url.host_str().unwrap_or("localhost")),
            ),
            Location::Memory => "memory: forgotten when the process ends".into(),
        }
    }
}

impl Reader<'_> {
    pub fn store(&mut self, platform: Option<Platform>) -> Store {
        let url = self.text(&DATABASE_URL);
        let connections = self.read(&DATABASE_POOL_SIZE);
        let location = match url.as_deref().map(|url| url.split_once(':').unwrap_or((url, ""))) {
            None => self
                .data_dir(platform)
                .map_or(Location::Memory, |folder| Location::File(folder.join("mirrorgate.db"))),
            Some(("memory", _)) => Location::Memory,
            Some(("sqlite", rest)) if !rest.trim_start_matches("//").is_empty() => {
                let path = rest.strip_prefix("//").unwrap_or(rest);
                Location::File(path.split('?').next().unwrap_or(path).into())
            }
            Some(("postgres" | "postgresql", _)) => {
                let url = url.clone().unwrap_or_default().into();
                Location::Postgres { url, connections }
            }
            Some(_) => {
                // The value may hold a password.
                self.problem(
                    DATABASE_URL.name,
                    "is not understood",
                    "give sqlite://PATH, postgres://USER:PASSWORD@HOST/NAME, or memory:",
                );
                Location::Memory
            }
        };
        let days = self.read(&CONVERSATION_TTL_DAYS);
        let backup = self.backup(&location);
        Store {
            location,
            is_chosen: url.is_some() || self.text(&DATA_DIR).is_some() || backup.is_some(),
            secret_key: self.secret_key(),
            backup,
            conversation_ttl: (days > 0).then(|| Duration::from_secs(days * 86_400)),
        }
    }

    fn secret_key(&mut self) -> Option<SecretString> {
        let key = self.read(&SECRET_KEY).map(SecretString::from)?;
        if key.expose_secret().chars().count() < 32 {
            self.problem(
                SECRET_KEY.name,
                "has fewer than 32 characters",
                "use a long random text, such as the output of `openssl rand -base64 32`",
            );
        }
        Some(key)
    }

    fn data_dir(&mut self, platform: Option<Platform>) -> Option<PathBuf> {
        let path = |name: &str| (self.lookup)(name).map(PathBuf::from);
        self.text(&DATA_DIR)
            .map(PathBuf::from)
            .or_else(|| platform.and_then(|platform| platform.volume(self.lookup)).map(PathBuf::from))
            .or_else(|| {
                if cfg!(windows) {
                    path("LOCALAPPDATA")
                } else if cfg!(target_os = "macos") {
                    path("HOME").map(|home| home.join("Library/Application Support"))
                } else {
                    // XDG Base Directory Specification 0.8: relative paths are to be ignored.
                    path("XDG_DATA_HOME")
                        .filter(|path| path.is_absolute())
                        .or_else(|| path("HOME").map(|home| home.join(".local/share")))
                }
                .map(|base| base.join("mirrorgate"))
            })
    }
}
