//! Configuration: every setting is read, checked and turned into a typed value here.
//!
//! Settings come from a lookup function, so that tests need no process environment. All mistakes
//! are reported together, each with the setting's name and what to do.

mod credentials;
mod env_file;
mod limits;
mod open;
mod platform;
mod problems;
mod reader;
mod service;
mod settings;
mod state;
mod upstream;
mod upstream_url;
mod upstreams;

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use url::{Host, Url};

pub use credentials::{parse_api_key, parse_cookie_line};
pub use env_file::{line as env_line, parse as parse_env_file};
pub use platform::{Lookup, Platform};
pub use problems::{Problem, Problems};
pub use settings::{SETTINGS, Setting};

use crate::domain::keys::GatewayKey;
use reader::{BOOL, Reader};

/// Everything that is configured.
#[derive(Clone)]
pub struct Config {
    /// Where to listen.
    pub listen: Listen,
    /// How the service is reached from outside.
    pub public: Public,
    /// The mirror; of several, the first.
    pub upstream: Upstream,
    /// The other mirrors. What holds for all is the same in each.
    pub others: Vec<Upstream>,
    /// Who may call.
    pub gateway: Gateway,
    /// What is kept, and where.
    pub store: Store,
    /// What is accepted from callers.
    pub limits: Limits,
    /// How it logs.
    pub log: Log,
}

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
    /// `LONG_ANSWERS`: whether importers learn of answers to come back for.
    pub long_answers: bool,
    /// `METRICS_PUBLIC`: whether `/metrics` needs no key.
    pub metrics: bool,
}

/// What the mirror speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// The OpenAI protocol: JSON and server-sent events.
    OpenAi,
    /// A web chat: lines of JSON behind a login cookie.
    WebChat,
    /// Anthropic's Messages API.
    Anthropic,
}

impl Protocol {
    /// The name in `UPSTREAM_PROTOCOL`.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::OpenAi => "openai",
            Protocol::WebChat => "web-chat",
            Protocol::Anthropic => "anthropic",
        }
    }
}

/// The mirror.
#[derive(Clone)]
pub struct Upstream {
    /// What it is called: by the file of upstreams, else its scheme, host and port.
    pub name: String,
    /// How often it is chosen beside the others.
    pub weight: u32,
    /// `UPSTREAM_URL`, which may be a base or a full path of the protocol; `None` for the demo.
    pub url: Option<Url>,
    /// `UPSTREAM_PROTOCOL`
    pub protocol: Protocol,
    /// `UPSTREAM_API_KEY`
    pub api_key: Option<SecretString>,
    /// `UPSTREAM_COOKIE`
    pub cookie: Option<SecretString>,
    /// `UPSTREAM_HEADERS`
    pub headers: Vec<(String, SecretString)>,
    /// `UPSTREAM_BODY`
    pub body: serde_json::Map<String, serde_json::Value>,
    /// `DEFAULT_MODEL`
    pub default_model: Option<String>,
    /// `MODELS`
    pub models: Vec<String>,
    /// `HISTORY_MAX_MESSAGES`
    pub history_max_messages: usize,
    /// `HISTORY_MAX_BYTES`
    pub history_max_bytes: usize,
    /// How long to wait for it.
    pub timeouts: Timeouts,
    /// `MAX_ANSWER_BYTES`
    pub answer_bytes: u64,
    /// `MAX_LINE_BYTES`
    pub line_bytes: usize,
    /// `SESSION_WEBHOOK_URL`
    pub session_webhook: Option<SecretString>,
}

/// How long to wait for the upstream.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// `CONNECT_TIMEOUT_SECONDS`
    pub connect: Duration,
    /// `FIRST_BYTE_TIMEOUT_SECONDS`
    pub first_byte: Duration,
    /// `IDLE_TIMEOUT_SECONDS`
    pub idle: Duration,
    /// `REQUEST_TIMEOUT_SECONDS`
    pub total: Duration,
    /// `LONG_ANSWER_TIMEOUT_SECONDS`, at least `total`.
    pub long: Duration,
}

/// Who may call.
#[derive(Clone)]
pub struct Gateway {
    /// `GATEWAY_API_KEYS`; when empty and `auth` is set, one is generated at the start.
    pub keys: Vec<GatewayKey>,
    /// Whether a key is needed: `GATEWAY_AUTH`.
    pub auth: bool,
}

/// What is kept, and where.
#[derive(Clone)]
pub struct Store {
    /// `DATABASE_URL`, else a file in `DATA_DIR`.
    pub location: Location,
    /// Whether `DATABASE_URL` names the location: then there is no other.
    pub explicit: bool,
    /// `CONVERSATION_TTL_DAYS`; `None` keeps conversations for ever.
    pub conversation_ttl: Option<Duration>,
    /// `SECRET_KEY`
    pub secret_key: Option<SecretString>,
}

/// Where the store is.
#[derive(Clone)]
pub enum Location {
    /// A SQLite file.
    File(PathBuf),
    /// A PostgreSQL server, by its URL.
    Postgres(SecretString),
    /// This process's memory.
    Memory,
}

impl Location {
    /// The location for a person, without credentials.
    pub fn describe(&self) -> String {
        match self {
            Location::File(path) => path.display().to_string(),
            Location::Postgres(url) => Url::parse(url.expose_secret()).map_or_else(
                |_| "PostgreSQL".into(),
                |url| format!("PostgreSQL at {}", url.host_str().unwrap_or("localhost")),
            ),
            Location::Memory => "memory: forgotten when the process ends".into(),
        }
    }
}

/// What is accepted from callers.
#[derive(Clone)]
pub struct Limits {
    /// `MAX_BODY_BYTES`
    pub body_bytes: usize,
    /// `MAX_V1_BODY_BYTES`
    pub v1_body_bytes: usize,
    /// `MAX_BODIES_BYTES`, at least the largest body.
    pub bodies_bytes: usize,
    /// `HEADER_TIMEOUT_SECONDS`
    pub header_time: Duration,
    /// `BODY_IDLE_TIMEOUT_SECONDS`
    pub body_idle: Duration,
    /// `BODY_TIMEOUT_SECONDS`
    pub body_time: Duration,
    /// `SLOW_READER_TIMEOUT_SECONDS`
    pub slow_reader: Duration,
    /// `HEARTBEAT_AFTER_SECONDS`; `None` sends no blanks.
    pub heartbeat_after: Option<Duration>,
    /// `HEARTBEAT_SECONDS`; `None` sends neither blanks nor comments.
    pub heartbeat_every: Option<Duration>,
    /// `MAX_STREAMS`
    pub streams: usize,
    /// `MAX_STREAMS_PER_KEY`; `None` where callers have no keys.
    pub streams_per_key: Option<usize>,
    /// `MAX_LONG_ANSWERS`
    pub long_answers: usize,
    /// `RATE_LIMIT_PER_MINUTE`; `None` is no limit.
    pub rate_per_minute: Option<NonZeroU32>,
    /// `SHUTDOWN_TIMEOUT_SECONDS`
    pub shutdown: Duration,
}

/// How it logs.
#[derive(Clone)]
pub struct Log {
    /// `LOG_FORMAT`: JSON lines, or text; `None` leaves it to whether a terminal reads.
    pub json: Option<bool>,
    /// `RUST_LOG`
    pub filter: String,
}

/// Whether a text is one of those that mean true.
pub fn is_true(text: &str) -> bool {
    BOOL.iter().any(|(name, value)| *value && name.eq_ignore_ascii_case(text.trim()))
}

impl Config {
    /// All mirrors.
    pub fn upstreams(&self) -> impl Iterator<Item = &Upstream> {
        std::iter::once(&self.upstream).chain(&self.others)
    }

    /// Reads and checks all settings.
    ///
    /// `lookup` gives a variable's value; `names` are the variables of the process, to find
    /// misspelt ones.
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn load(lookup: Lookup, names: impl Iterator<Item = String>) -> Result<Self, Problems> {
        Config::load_for(false, lookup, names)
    }

    /// As [`Config::load`], for a service that a `tunnel` is to publish.
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn load_for(
        tunnel: bool,
        lookup: Lookup,
        names: impl Iterator<Item = String>,
    ) -> Result<Self, Problems> {
        let lookup = |name: &str| lookup(name).filter(|value| !value.trim().is_empty());
        let mut reader = Reader { lookup: &lookup, problems: Vec::new() };
        reader.unknown_names(names);

        let platform = Platform::detect(&lookup);
        let auth = reader.choice("GATEWAY_AUTH", &[("key", true), ("none", false)], true);
        let listen = reader.listen(platform);
        let public = reader.public(platform);
        if !auth {
            reader.closed_to_others(&listen, &public, tunnel);
        }
        let gateway = Gateway { keys: reader.gateway_keys(), auth };
        let mut upstreams = reader.upstreams();
        let others = upstreams.split_off(1);
        let config = Config {
            public,
            upstream: upstreams.remove(0),
            others,
            store: reader.store(platform),
            limits: reader.limits(&gateway),
            gateway,
            log: Log {
                json: reader.choice("LOG_FORMAT", &[("text", Some(false)), ("json", Some(true))], None),
                filter: lookup("RUST_LOG").unwrap_or_else(|| "info,actix_server=warn".into()),
            },
            listen,
        };
        if reader.problems.is_empty() { Ok(config) } else { Err(Problems(reader.problems)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(variables: &[(&str, &str)]) -> Result<Config, Problems> {
        let lookup =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string());
        Config::load(&lookup, variables.iter().map(|(name, _)| name.to_string()))
    }

    #[test]
    fn nothing_set_is_the_demo_on_loopback() {
        let config = load(&[("UPSTREAM_URL", ""), ("PORT", " ")]).expect("defaults");
        assert!(config.upstream.url.is_none() && config.gateway.auth);
        assert_eq!((config.listen.host.to_string().as_str(), config.listen.port), ("127.0.0.1", 8080));
    }

    #[test]
    fn all_mistakes_are_reported_at_once_with_their_settings() {
        let problems = load(&[
            ("PORT", "eighty"),
            ("UPSTREAM_URL", "mirror.example.com"),
            ("UPSTREAM_PROTOCOL", "soap"),
            ("IDLE_TIMEOUT_SECONDS", "0"),
            ("UPSTREAM_HEADERS", "Origin: https://x\nnonsense\nHost: y"),
            ("GATEWAY_API_KEYS", "short"),
            ("HOSTS_ALLOWED", "good.example.com,bad.example.com:8080,*.example.com,http://a,[::1]"),
            ("MIRRORGATE_UPSTREAM_URL", "x"),
        ])
        .err()
        .expect("mistakes");
        let settings: Vec<_> = problems.0.iter().map(|problem| problem.setting.as_str()).collect();
        for name in [
            "PORT",
            "UPSTREAM_URL",
            "UPSTREAM_PROTOCOL",
            "IDLE_TIMEOUT_SECONDS",
            "GATEWAY_API_KEYS",
            "MIRRORGATE_UPSTREAM_URL",
        ] {
            assert!(settings.contains(&name), "{name} is missing from {settings:?}");
        }
        assert_eq!(settings.iter().filter(|name| **name == "UPSTREAM_HEADERS").count(), 2);
        assert_eq!(settings.iter().filter(|name| **name == "HOSTS_ALLOWED").count(), 3);
        assert_eq!(problems.exit_code(), 2);
        assert!(!problems.to_string().contains("short\n"));
    }

    #[test]
    fn an_open_gateway_on_a_public_address_is_refused_with_78() {
        let problems = load(&[("GATEWAY_AUTH", "none"), ("HOST", "0.0.0.0")]).err().expect("unsafe");
        assert_eq!(problems.exit_code(), 78);
        assert!(load(&[("GATEWAY_AUTH", "none")]).is_ok());
        let platform = load(&[("GATEWAY_AUTH", "none"), ("RENDER", "true")]).err().expect("unsafe");
        assert_eq!(platform.exit_code(), 78);
        for name in ["localhost:9", "a.localhost", "127.9.9.9", "[::1]:8080"] {
            assert!(load(&[("GATEWAY_AUTH", "none"), ("PUBLIC_URL", &format!("http://{name}"))]).is_ok());
        }
    }

    #[test]
    fn a_key_that_is_alone_may_fill_the_room() {
        let bound = |variables: &[(&str, &str)]| load(variables).expect("good").limits.streams_per_key;
        let (one, two) = ("a:k3y-of-the-tests-9f2c", "a:k3y-of-the-tests-9f2c,b:0ther-t3nants-k3y-77");
        assert_eq!(bound(&[("GATEWAY_API_KEYS", one)]), None);
        assert_eq!(bound(&[("GATEWAY_API_KEYS", one), ("MAX_STREAMS_PER_KEY", "7")]), Some(7));
        assert_eq!(bound(&[("GATEWAY_API_KEYS", two)]), Some(64));
        assert_eq!(bound(&[]), Some(64));
        assert_eq!(bound(&[("GATEWAY_AUTH", "none")]), None);
    }

    #[test]
    fn names_that_kubernetes_sets_are_no_mistakes() {
        assert!(load(&[("MIRRORGATE_SERVICE_HOST", "10.0.0.1"), ("MIRRORGATE_PORT_8080_TCP", "x")]).is_ok());
    }

    #[test]
    fn pasted_words_before_credentials_are_dropped() {
        let config = load(&[
            ("UPSTREAM_URL", "https://m.example.com"),
            ("UPSTREAM_API_KEY", "Bearer sk-1"),
            ("UPSTREAM_COOKIE", "cookie: a=b; c=d"),
        ])
        .expect("good");
        assert_eq!(
            config.upstream.api_key.map(|key| key.expose_secret().to_string()).as_deref(),
            Some("sk-1")
        );
        assert_eq!(
            config.upstream.cookie.map(|line| line.expose_secret().to_string()).as_deref(),
            Some("a=b; c=d")
        );
    }
}
