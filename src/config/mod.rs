//! Configuration: every setting is read, checked and turned into a typed value here.
//!
//! Settings come from a lookup function, so that tests need no process environment. All mistakes
//! are reported together, each with the setting's name and what to do.

mod env_file;
mod platform;
mod settings;
mod upstream_url;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use url::Url;

pub use env_file::parse as parse_env_file;
pub use platform::{Lookup, Platform};
pub use settings::{SETTINGS, Setting};
pub use upstream_url::under;

use crate::keys::{self, GatewayKey};

/// Everything that is configured.
#[derive(Clone)]
pub struct Config {
    /// Where to listen.
    pub listen: Listen,
    /// How the service is reached from outside.
    pub public: Public,
    /// The mirror.
    pub upstream: Upstream,
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
}

/// What the mirror speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// The OpenAI protocol: JSON and server-sent events.
    OpenAi,
    /// A web chat: lines of JSON behind a login cookie.
    WebChat,
}

impl Protocol {
    /// The name in `UPSTREAM_PROTOCOL`.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::OpenAi => "openai",
            Protocol::WebChat => "web-chat",
        }
    }
}

/// The mirror.
#[derive(Clone)]
pub struct Upstream {
    /// `UPSTREAM_URL`, made to end where the protocol's paths begin; `None` for the demo.
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
    /// `HEARTBEAT_AFTER_SECONDS`; `None` sends no blanks.
    pub heartbeat_after: Option<Duration>,
    /// `HEARTBEAT_SECONDS`
    pub heartbeat_every: Duration,
}

/// How it logs.
#[derive(Clone)]
pub struct Log {
    /// `LOG_FORMAT`: JSON lines, or text; `None` leaves it to whether a terminal reads.
    pub json: Option<bool>,
    /// `RUST_LOG`
    pub filter: String,
}

/// One mistake in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The setting.
    pub setting: String,
    /// What is wrong with it; never a secret value.
    pub what: String,
    /// What to do.
    pub advice: String,
    /// Whether the value is understood and refused because it would be unsafe.
    pub unsafe_value: bool,
}

/// All mistakes in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// The process's exit code: 2, or 78 (`EX_CONFIG` of sysexits.h) when a good value is refused
    /// because it would leave the service open.
    pub fn exit_code(&self) -> u8 {
        if self.0.iter().all(|problem| problem.unsafe_value) { 78 } else { 2 }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        writeln!(f, "error: {count} problem{} in the configuration", if count == 1 { "" } else { "s" })?;
        for problem in &self.0 {
            writeln!(f, "\n  {}: {}", problem.setting, problem.what)?;
            writeln!(f, "    hint: {}", problem.advice)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

impl Config {
    /// Reads and checks all settings.
    ///
    /// `lookup` gives a variable's value; `names` are the variables of the process, to find
    /// misspelt ones.
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn load(lookup: Lookup, names: impl Iterator<Item = String>) -> Result<Self, Problems> {
        let lookup = |name: &str| lookup(name).filter(|value| !value.trim().is_empty());
        let mut reader = Reader { lookup: &lookup, problems: Vec::new() };
        reader.unknown_names(names);

        let platform = Platform::detect(&lookup);
        let auth = reader.choice("GATEWAY_AUTH", &[("key", true), ("none", false)], true);
        let listen = Listen {
            host: reader.parsed(
                "HOST",
                if platform.is_some() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv4Addr::LOCALHOST.into() },
                "give an IP address, such as 127.0.0.1 (this machine) or 0.0.0.0 (all addresses)",
                |text| match text {
                    "localhost" => Some(Ipv4Addr::LOCALHOST.into()),
                    _ => text.parse().ok(),
                },
            ),
            port: reader.number("PORT", 8080, 0, u16::MAX.into()) as u16,
        };
        if !auth && !listen.host.is_loopback() {
            reader.unsafe_value(
                "GATEWAY_AUTH",
                format!("`none` would let anyone who reaches {} use your upstream account", listen.host),
                "set GATEWAY_API_KEYS and remove GATEWAY_AUTH, or set HOST=127.0.0.1",
            );
        }
        let config = Config {
            public: Public {
                url: reader.public_url(platform),
                trust_proxy_headers: reader.choice("TRUST_PROXY_HEADERS", BOOL, false),
                platform,
                cors_origins: reader.cors_origins(),
            },
            upstream: reader.upstream(),
            gateway: Gateway { keys: reader.gateway_keys(), auth },
            store: reader.store(platform),
            limits: Limits {
                body_bytes: reader.number("MAX_BODY_BYTES", 2 << 20, 1024, 1 << 30) as usize,
                heartbeat_after: reader.seconds_or_off("HEARTBEAT_AFTER_SECONDS", 45.0),
                heartbeat_every: reader.seconds("HEARTBEAT_SECONDS", 15.0),
            },
            log: Log {
                json: reader.choice("LOG_FORMAT", &[("text", Some(false)), ("json", Some(true))], None),
                filter: lookup("RUST_LOG").unwrap_or_else(|| "info,actix_server=warn".into()),
            },
            listen,
        };
        if reader.problems.is_empty() { Ok(config) } else { Err(Problems(reader.problems)) }
    }
}

const BOOL: &[(&str, bool)] =
    &[("true", true), ("false", false), ("1", true), ("0", false), ("yes", true), ("no", false)];

/// Reads settings and collects what is wrong with them.
struct Reader<'a> {
    lookup: Lookup<'a>,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn get(&self, name: &str) -> Option<String> {
        (self.lookup)(name).map(|value| value.trim().to_string())
    }

    fn secret(&self, name: &str) -> Option<SecretString> {
        self.get(name).map(SecretString::from)
    }

    fn problem(&mut self, setting: &str, what: impl Into<String>, advice: impl Into<String>) {
        self.problems.push(Problem {
            setting: setting.into(),
            what: what.into(),
            advice: advice.into(),
            unsafe_value: false,
        });
    }

    fn unsafe_value(&mut self, setting: &str, what: impl Into<String>, advice: &str) {
        self.problem(setting, what, advice);
        if let Some(problem) = self.problems.last_mut() {
            problem.unsafe_value = true;
        }
    }

    fn parsed<T>(&mut self, name: &str, default: T, advice: &str, parse: impl Fn(&str) -> Option<T>) -> T {
        let Some(text) = self.get(name) else { return default };
        parse(&text).unwrap_or_else(|| {
            self.problem(name, format!("`{text}` is not understood"), advice);
            default
        })
    }

    fn number(&mut self, name: &str, default: u64, least: u64, most: u64) -> u64 {
        let advice = format!("give a whole number from {least} to {most}; the default is {default}");
        self.parsed(name, default, &advice, |text| {
            u64::from_str(text).ok().filter(|number| (least..=most).contains(number))
        })
    }

    fn seconds(&mut self, name: &str, default: f64) -> Duration {
        let advice = format!("give seconds from 0.001 to 86400, such as {default}");
        let seconds = self.parsed(name, default, &advice, |text| {
            f64::from_str(text).ok().filter(|seconds| (0.001..=86_400.0).contains(seconds))
        });
        Duration::from_secs_f64(seconds)
    }

    fn seconds_or_off(&mut self, name: &str, default: f64) -> Option<Duration> {
        match self.get(name) {
            Some(text) if text.parse() == Ok(0.0) => None,
            _ => Some(self.seconds(name, default)),
        }
    }

    fn choice<T: Copy>(&mut self, name: &str, choices: &[(&str, T)], default: T) -> T {
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        let advice = format!("give one of: {}", names.join(", "));
        self.parsed(name, default, &advice, |text| {
            choices.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, value)| *value)
        })
    }

    fn names(&self, name: &str) -> Vec<String> {
        let text = self.get(name).unwrap_or_default();
        text.split([',', '\n']).map(str::trim).filter(|name| !name.is_empty()).map(String::from).collect()
    }

    /// Settings carry no prefix, so a variable that starts like one of ours is a mistake, except
    /// those that Kubernetes and container links set for a service of this name.
    fn unknown_names(&mut self, names: impl Iterator<Item = String>) {
        for name in names {
            let Some(rest) = name.strip_prefix("MIRRORGATE_") else { continue };
            if rest.starts_with("SERVICE_") || rest == "PORT" || rest.starts_with("PORT_") {
                continue;
            }
            let advice = match SETTINGS.iter().find(|setting| setting.name == rest) {
                Some(setting) => format!("settings carry no prefix: rename it to {}", setting.name),
                None => "remove it; `mirrorgate --help` lists the settings, which carry no prefix".into(),
            };
            self.problem(&name, "is not a setting", advice);
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

    fn upstream(&mut self) -> Upstream {
        let protocol = self.choice(
            "UPSTREAM_PROTOCOL",
            &[("openai", Protocol::OpenAi), ("web-chat", Protocol::WebChat)],
            Protocol::OpenAi,
        );
        let url = self.get("UPSTREAM_URL").and_then(|text| {
            upstream_url::normalize(&text, protocol)
                .map_err(|(what, advice)| self.problem("UPSTREAM_URL", what, advice))
                .ok()
        });
        if self.get("UPSTREAM_URL").is_none() {
            for name in ["UPSTREAM_API_KEY", "UPSTREAM_COOKIE"] {
                if self.get(name).is_some() {
                    self.problem(
                        name,
                        "is set while UPSTREAM_URL is not",
                        "set UPSTREAM_URL to the mirror's address, or remove this to try the demo upstream",
                    );
                }
            }
        }
        let timeouts = Timeouts {
            connect: self.seconds("CONNECT_TIMEOUT_SECONDS", 5.0),
            first_byte: self.seconds("FIRST_BYTE_TIMEOUT_SECONDS", 120.0),
            idle: self.seconds("IDLE_TIMEOUT_SECONDS", 60.0),
            total: self.seconds("REQUEST_TIMEOUT_SECONDS", 290.0),
        };
        Upstream {
            url,
            protocol,
            api_key: self.api_key(),
            cookie: self.cookie(),
            headers: self.headers(),
            body: self.body(protocol),
            default_model: self.get("DEFAULT_MODEL"),
            models: self.names("MODELS"),
            history_max_messages: self.number("HISTORY_MAX_MESSAGES", 100, 1, 100_000) as usize,
            history_max_bytes: self.number("HISTORY_MAX_BYTES", 256 << 10, 1024, 64 << 20) as usize,
            timeouts,
            session_webhook: self.webhook(),
        }
    }

    fn api_key(&mut self) -> Option<SecretString> {
        let text = self.get("UPSTREAM_API_KEY")?;
        parse_api_key(&text).map_err(|(what, advice)| self.problem("UPSTREAM_API_KEY", what, advice)).ok()
    }

    fn cookie(&mut self) -> Option<SecretString> {
        let text = self.get("UPSTREAM_COOKIE")?;
        parse_cookie_line(&text).map_err(|(what, advice)| self.problem("UPSTREAM_COOKIE", what, advice)).ok()
    }

    fn headers(&mut self) -> Vec<(String, SecretString)> {
        const NOT_OURS: &[&str] = &[
            "host",
            "content-length",
            "content-type",
            "transfer-encoding",
            "connection",
            "accept-encoding",
            "keep-alive",
            "te",
            "trailer",
            "upgrade",
            "expect",
            "proxy-connection",
        ];
        let text = self.get("UPSTREAM_HEADERS").unwrap_or_default();
        let mut headers = Vec::new();
        for (index, line) in text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty()) {
            let number = index + 1;
            let parts = line.split_once(':').map(|(name, value)| (name.trim(), value.trim()));
            let Some((name, value)) = parts.filter(|(name, value)| is_token(name) && is_header_value(value))
            else {
                self.problem(
                    "UPSTREAM_HEADERS",
                    format!("line {number} is not a header"),
                    "write one `Name: value` a line, such as `Origin: https://mirror.example.com`",
                );
                continue;
            };
            let name = name.to_ascii_lowercase();
            if name == "cookie" {
                self.problem(
                    "UPSTREAM_HEADERS",
                    format!("line {number} is a Cookie header"),
                    "set UPSTREAM_COOKIE instead: cookies are kept up to date from the answers",
                );
            } else if NOT_OURS.contains(&name.as_str()) {
                self.problem(
                    "UPSTREAM_HEADERS",
                    format!("line {number}: `{name}` is set by the connection itself"),
                    "remove the line",
                );
            } else {
                headers.push((name, SecretString::from(value)));
            }
        }
        headers
    }

    fn body(&mut self, protocol: Protocol) -> serde_json::Map<String, serde_json::Value> {
        let Some(text) = self.get("UPSTREAM_BODY") else { return Default::default() };
        if protocol != Protocol::WebChat {
            self.problem(
                "UPSTREAM_BODY",
                "is used with UPSTREAM_PROTOCOL=web-chat only",
                "remove it, or set UPSTREAM_PROTOCOL=web-chat",
            );
        }
        serde_json::from_str(&text).unwrap_or_else(|error| {
            self.problem(
                "UPSTREAM_BODY",
                format!("is not a JSON object (line {}, column {})", error.line(), error.column()),
                "give one JSON object, such as {\"temporary\": true}",
            );
            Default::default()
        })
    }

    fn gateway_keys(&mut self) -> Vec<GatewayKey> {
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

    fn store(&mut self, platform: Option<Platform>) -> Store {
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

    fn webhook(&mut self) -> Option<SecretString> {
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

/// What is wrong with a value, and what to do.
type Mistake = (&'static str, &'static str);

/// A bearer key as people paste it.
///
/// # Errors
/// What is wrong, and what to do.
pub fn parse_api_key(text: &str) -> Result<SecretString, Mistake> {
    let key = strip_word(text.trim(), "bearer ");
    if is_header_value(key) && !key.is_empty() {
        Ok(SecretString::from(key))
    } else {
        Err((
            "holds a line break or a control character, or nothing",
            "paste the key again, alone on one line",
        ))
    }
}

/// A Cookie header line as people copy it from the browser.
///
/// # Errors
/// What is wrong, and what to do.
pub fn parse_cookie_line(text: &str) -> Result<SecretString, Mistake> {
    let advice = "copy the value of the Cookie request header from the browser's developer tools (Network), such as `sso=abc; cf=def`, on one line";
    let line = strip_word(text.trim(), "cookie:");
    if !is_header_value(line) {
        return Err(("holds a line break or a control character", advice));
    }
    let is_pair = |pair: &str| pair.trim().split_once('=').is_some_and(|(name, _)| !name.is_empty());
    if line.split(';').any(is_pair) {
        Ok(SecretString::from(line))
    } else {
        Err(("holds no `name=value`", advice))
    }
}

/// The text after a word that people paste along, such as `Bearer `.
fn strip_word<'a>(text: &'a str, word: &str) -> &'a str {
    match text.get(..word.len()) {
        Some(start) if start.eq_ignore_ascii_case(word) => text[word.len()..].trim(),
        _ => text,
    }
}

/// Whether a text can be a header's value: RFC 9110, section 5.5, visible characters and blanks.
fn is_header_value(text: &str) -> bool {
    !text.chars().any(|c| c.is_control() && c != '\t')
}

/// Whether a text can be a header's name: RFC 9110, section 5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
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
