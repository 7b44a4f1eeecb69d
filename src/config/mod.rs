//! Configuration: every setting is read, checked and turned into a typed value here.
//!
//! Settings come from a lookup function, so that tests need no process environment. All mistakes
//! are reported together, each with the setting's name and what to do.

pub mod settings;
mod backup;
mod credentials;
mod declaration;
mod env_file;
mod gateway;
mod kinds;
mod limits;
mod names;
mod open;
mod platform;
mod problems;
mod reader;
mod service;
mod state;
mod store;
mod upstream;
mod upstream_group;
mod upstream_url;
mod upstreams;

pub use backup::Backup;
pub use credentials::{parse_api_key, parse_cookie_line};
pub use declaration::{AnyKind, Group, Language, Setting, Table, Words, plain};
pub use env_file::{
    Entry as EnvEntry, decode as decode_env_file, entries as env_entries, line as env_line,
    parse as parse_env_file,
};
pub use gateway::Gateway;
pub use kinds::Kind;
pub use limits::Limits;
pub use names::{begins_as_ours, is_known, meant, surely_meant};
pub use platform::{Lookup, Platform};
pub use problems::{Problem, Problems};
pub use service::{Listen, Public};
pub use store::{Location, Store};
pub use upstream::{Timeouts, Upstream};
pub use upstream_group::UpstreamGroup;

use reader::Reader;
use settings::{LOG_FORMAT, RUST_LOG};

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
    /// The variables that say which mirror it is. Where there are none, the store may keep one.
    pub upstream_variables: Vec<String>,
    /// Who may call.
    pub gateway: Gateway,
    /// What is kept, and where.
    pub store: Store,
    /// What is accepted from callers.
    pub limits: Limits,
    /// How it logs.
    pub log: Log,
    /// Settings of earlier versions that are set and mean nothing any more.
    pub obsolete: Vec<&'static str>,
    /// The file `.env` that was read, in words; whoever loads the settings knows it.
    pub read_from: Option<String>,
}

/// Settings of earlier versions.
const OBSOLETE: [&str; 2] = ["MAX_LINE_BYTES", "MAX_BODIES_BYTES"];

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
    /// All protocols by their names.
    const NAMES: &[(&str, Self)] = &[
        (Protocol::OpenAi.name(), Protocol::OpenAi),
        (Protocol::WebChat.name(), Protocol::WebChat),
        (Protocol::Anthropic.name(), Protocol::Anthropic),
    ];

    /// The name in `UPSTREAM_PROTOCOL`.
    pub const fn name(self) -> &'static str {
        match self {
            Protocol::OpenAi => "openai",
            Protocol::WebChat => "web-chat",
            Protocol::Anthropic => "anthropic",
        }
    }
}

/// How it logs.
#[derive(Clone)]
pub struct Log {
    /// `LOG_FORMAT`: JSON lines, or text; `None` leaves it to whether a terminal reads.
    pub json: Option<bool>,
    /// `RUST_LOG`
    pub filter: String,
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
        let gateway = reader.gateway();
        let listen = reader.listen(platform);
        let public = reader.public(platform);
        if !gateway.auth {
            reader.closed_to_others(&listen, &public, tunnel);
        }
        let mut upstreams = reader.upstreams();
        let others = upstreams.split_off(1);
        let (store, limits) = (reader.store(platform), reader.limits(&gateway, &public));
        let config = Config {
            public,
            upstream: upstreams.remove(0),
            others,
            upstream_variables: reader.upstream_variables(),
            store,
            limits,
            gateway,
            log: Log { json: reader.read(&LOG_FORMAT), filter: reader.read(&RUST_LOG) },
            listen,
            read_from: None,
            obsolete: OBSOLETE.into_iter().filter(|name| lookup(name).is_some()).collect(),
        };
        if reader.problems.is_empty() { Ok(config) } else { Err(Problems(reader.problems)) }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::HashSet;

    use secrecy::ExposeSecret;

    use super::*;
    use crate::domain::keys::MIN_KEY_CHARS;

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

    #[test]
    fn a_secret_may_stand_in_a_file_of_its_own() {
        let file = std::env::temp_dir().join(format!("mirrorgate-secret-{}", std::process::id()));
        std::fs::write(&file, "sk-in-a-file\n").expect("written");
        let path = file.to_str().expect("a path");
        let url = ("UPSTREAM_URL", "https://m.example.com");
        let config = load(&[url, ("UPSTREAM_API_KEY_FILE", path)]).expect("good");
        let key = config.upstream.api_key.map(|key| key.expose_secret().to_string());
        assert_eq!(key.as_deref(), Some("sk-in-a-file"));
        for variables in [
            [("UPSTREAM_API_KEY", "sk-x"), ("UPSTREAM_API_KEY_FILE", path)],
            [("SECRET_KEY_FILE", "/nowhere/at/all"), url],
            [("GATEWAY_API_KEYS_FILE", "/dev/null"), url],
        ] {
            let problems = load(&[url, variables[0], variables[1]]).err().expect("a mistake");
            assert!(problems.0.iter().all(|problem| problem.setting.ends_with("_FILE")), "{problems}");
            assert!(!problems.to_string().contains("sk-"), "{problems}");
        }
        std::fs::remove_file(file).expect("removed");
    }

    #[test]
    fn every_setting_is_read() {
        let read = RefCell::new(HashSet::new());
        let lookup = |name: &str| {
            read.borrow_mut().insert(name.to_string());
            None
        };
        Config::load(&lookup, std::iter::empty()).expect("defaults");
        let unread: Vec<_> = settings::all()
            .map(|setting| setting.name)
            .filter(|name| !read.borrow().contains(*name))
            .collect();
        assert!(unread.is_empty(), "declared in settings.rs and read nowhere: {unread:?}");
    }

    #[test]
    fn defaults_and_examples_are_values_that_the_setting_takes() {
        for setting in settings::all() {
            let example = setting.example();
            assert!(!example.is_empty(), "{} needs an example in settings.rs", setting.name);
            assert!(setting.kind.accepts(&example), "{}: the example is not understood", setting.name);
            let default = setting.kind.default();
            assert!(default.is_none_or(|text| setting.kind.accepts(&text)), "{}: the default", setting.name);
        }
        let least = MIN_KEY_CHARS.to_string();
        let help = settings::GATEWAY_API_KEYS.help;
        assert!(help.en.contains(&least) && help.zh.contains(&least));
    }
}
