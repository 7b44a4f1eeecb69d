//! Where the service listens, and how it is reached from outside.

use std::net::{IpAddr, Ipv4Addr};

use url::{Host, Url};

use super::Platform;
use super::reader::{Reader, list};
use super::settings::{
    CORS_ALLOWED_ORIGINS, HOST, HOSTS_ALLOWED, LONG_ANSWERS, METRICS_PUBLIC, PORT, PUBLIC_URL,
    TRUST_PROXY_HEADERS,
};

/// Where to listen.
#[derive(Clone)]
pub struct Listen {
    /// `HOST`
    pub host: IpAddr,
    /// `PORT`
    pub port: u16,
}

/// How the service is reached from outside.
#[derive(Clone)]
pub struct Public {
    /// `PUBLIC_URL`, else what the platform says; without a trailing slash.
    pub url: Option<String>,
    /// `TRUST_PROXY_HEADERS`
    pub trust_proxy_headers: bool,
    /// The platform that this process runs on.
    pub platform: Option<Platform>,
    /// `CORS_ALLOWED_ORIGINS`; `None` is any.
    pub cors_origins: Option<Vec<String>>,
    /// `HOSTS_ALLOWED`
    pub hosts_allowed: Vec<Host>,
    /// `LONG_ANSWERS`: whether answers go on for which their callers come back.
    pub long_answers: bool,
    /// `METRICS_PUBLIC`: whether `/metrics` needs no key.
    pub metrics: bool,
}

impl Reader<'_> {
    pub fn listen(&mut self, platform: Option<Platform>) -> Listen {
        let host = self.read(&HOST);
        let everywhere = platform.is_some() && !self.is_set(&HOST);
        Listen { host: if everywhere { Ipv4Addr::UNSPECIFIED.into() } else { host }, port: self.read(&PORT) }
    }

    pub fn public(&mut self, platform: Option<Platform>) -> Public {
        Public {
            url: self.public_url(platform),
            trust_proxy_headers: self.read(&TRUST_PROXY_HEADERS),
            platform,
            cors_origins: self.cors_origins(),
            hosts_allowed: self.hosts_allowed(),
            long_answers: self.read(&LONG_ANSWERS),
            metrics: self.read(&METRICS_PUBLIC),
        }
    }

    fn public_url(&mut self, platform: Option<Platform>) -> Option<String> {
        let (name, text) = match self.read(&PUBLIC_URL) {
            Some(text) => (PUBLIC_URL.name.to_string(), text),
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
        let origins = list(&self.read(&CORS_ALLOWED_ORIGINS));
        if origins.is_empty() || origins == ["*"] {
            return None;
        }
        for origin in &origins {
            let good = Url::parse(origin).is_ok_and(|url| url.origin().ascii_serialization() == *origin);
            if !good {
                self.problem(
                    CORS_ALLOWED_ORIGINS.name,
                    format!("`{origin}` is not an origin"),
                    "give `*`, or scheme and host without a path, such as https://cloud.dify.ai",
                );
            }
        }
        Some(origins)
    }

    fn hosts_allowed(&mut self) -> Vec<Host> {
        let mut hosts = Vec::new();
        for name in list(&self.read(&HOSTS_ALLOWED).unwrap_or_default()) {
            match Host::parse(&name) {
                Ok(host) if !name.contains('*') => hosts.push(host),
                _ => self.problem(
                    HOSTS_ALLOWED.name,
                    format!("`{name}` is not a host name"),
                    "give host names without scheme, port, path and `*`, such as host.docker.internal",
                ),
            }
        }
        hosts
    }
}
