//! Reading what is set about this service itself: its address, keys and store.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use url::{Host, Url};

use super::platform::Platform;
use super::reader::{BOOL, Reader};
use super::{Listen, Location, Public, Store};
use crate::domain::keys::{self, GatewayKey};

impl Reader<'_> {
    pub fn listen(&mut self, platform: Option<Platform>) -> Listen {
        Listen {
            host: self.parsed(
                "HOST",
                if platform.is_some() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv4Addr::LOCALHOST.into() },
                "give an IP address, such as 127.0.0.1 (this machine) or 0.0.0.0 (all addresses)",
                |text| match text {
                    "localhost" => Some(Ipv4Addr::LOCALHOST.into()),
                    _ => text.parse().ok(),
                },
            ),
            port: self.number("PORT", 8080, 0, u16::MAX.into()) as u16,
        }
    }

    pub fn public(&mut self, platform: Option<Platform>) -> Public {
        Public {
            url: self.public_url(platform),
            trust_proxy_headers: self.choice("TRUST_PROXY_HEADERS", BOOL, false),
            platform,
            cors_origins: self.cors_origins(),
            hosts_allowed: self.hosts_allowed(),
            long_answers: self.choice("LONG_ANSWERS", BOOL, false),
            metrics: self.choice("METRICS_PUBLIC", BOOL, false),
        }
    }

    fn public_url(&mut self, platform: Option<Platform>) -> Option<String> {
        let (name, text) = match self.get("PUBLIC_URL") {
            Some(text) => ("PUBLIC_URL".to_string(), text),
            None => {
                let platform = platform?;
                (format!("{}'s public URL", platform.name()), platform.public_url(self.lookup)?)
            }
        };
        match Url::parse(&text) {
            Ok(url)
                if matches!(url.scheme(), "http" | "https")
                    && url.query().is_none()
                    && url.fragment().is_none()
                    && url.username().is_empty()
                    && url.password().is_none() =>
            {
                Some(url.as_str().trim_end_matches('/').to_string())
            }
            _ => {
                self.problem(
                    &name,
                    format!("`{text}` is not an absolute http or https URL without query and fragment"),
                    "give this service's own address as callers see it, such as https://mirrorgate.up.railway.app",
                );
                None
            }
        }
    }

    fn cors_origins(&mut self) -> Option<Vec<String>> {
        let origins = self.names("CORS_ALLOWED_ORIGINS");
        if origins.is_empty() || origins == ["*"] {
            return None;
        }
        for origin in &origins {
            let good = Url::parse(origin).is_ok_and(|url| url.origin().ascii_serialization() == *origin);
            if !good {
                self.problem(
                    "CORS_ALLOWED_ORIGINS",
                    format!("`{origin}` is not an origin"),
                    "give `*`, or scheme and host without a path, such as https://cloud.dify.ai",
                );
            }
        }
        Some(origins)
    }

    fn hosts_allowed(&mut self) -> Vec<Host> {
        let mut hosts = Vec::new();
        for name in self.names("HOSTS_ALLOWED") {
            match Host::parse(&name) {
                Ok(host) if !name.contains('*') => hosts.push(host),
                _ => self.problem(
                    "HOSTS_ALLOWED",
                    format!("`{name}` is not a host name"),
                    "give host names without scheme, port, path and `*`, such as host.docker.internal",
                ),
            }
        }
        hosts
    }

    pub fn gateway_keys(&mut self) -> Vec<GatewayKey> {
        let text = self.get("GATEWAY_API_KEYS").unwrap_or_default();
        keys::parse_list(&text).unwrap_or_else(|problems| {
            let advice = match keys::generate() {
                Ok(key) => format!("use a long random key, such as this new one: {key}"),
                Err(_) => "use a long random key".to_string(),
            };
            for problem in problems {
                self.problem("GATEWAY_API_KEYS", problem, &advice);
            }
            Vec::new()
        })
    }

    pub fn store(&mut self, platform: Option<Platform>) -> Store {
        let url = self.get("DATABASE_URL");
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
                Location::Postgres(url.clone().unwrap_or_default().into())
            }
            Some(_) => {
                // The value may hold a password.
                self.problem(
                    "DATABASE_URL",
                    "is not understood",
                    "give sqlite://PATH, postgres://USER:PASSWORD@HOST/NAME, or memory:",
                );
                Location::Memory
            }
        };
        let days = self.number("CONVERSATION_TTL_DAYS", 30, 0, 36_500);
        Store {
            location,
            explicit: url.is_some(),
            secret_key: self.secret_key(),
            conversation_ttl: (days > 0).then(|| Duration::from_secs(days * 86_400)),
        }
    }

    fn secret_key(&mut self) -> Option<SecretString> {
        let key = self.secret("SECRET_KEY")?;
        if key.expose_secret().chars().count() < 32 {
            self.problem(
                "SECRET_KEY",
                "has fewer than 32 characters",
                "use a long random text, such as the output of `openssl rand -base64 32`",
            );
        }
        Some(key)
    }

    pub fn webhook(&mut self) -> Option<SecretString> {
        let url = self.secret("SESSION_WEBHOOK_URL")?;
        if !Url::parse(url.expose_secret()).is_ok_and(|url| matches!(url.scheme(), "http" | "https")) {
            self.problem(
                "SESSION_WEBHOOK_URL",
                "is not an http or https URL",
                "give the whole address that takes the POST",
            );
        }
        Some(url)
    }

    fn data_dir(&self, platform: Option<Platform>) -> Option<PathBuf> {
        let path = |name: &str| self.get(name).map(PathBuf::from);
        path("DATA_DIR")
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
