//! The settings that say which upstream answers and how it is spoken to: they hold together or not at all.
//! Where one of them stands in the environment, all come from there; else the owner may keep them in the
//! store, as one value of this type.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use url::Url;

use super::kinds::Kind;
use super::reader::Reader;
use super::settings::{
    DEFAULT_MODEL, MODELS, UPSTREAM_API_KEY, UPSTREAM_BODY, UPSTREAM_COOKIE, UPSTREAM_HEADERS,
    UPSTREAM_PROTOCOL, UPSTREAM_URL, UPSTREAMS_FILE,
};
use super::{Problems, Upstream};

/// The settings of the group that one upstream has, in the order in which a person reads them.
const SETTINGS: [&str; 8] = [
    UPSTREAM_URL.name,
    UPSTREAM_PROTOCOL.name,
    UPSTREAM_API_KEY.name,
    UPSTREAM_COOKIE.name,
    UPSTREAM_HEADERS.name,
    UPSTREAM_BODY.name,
    DEFAULT_MODEL.name,
    MODELS.name,
];

/// The group of one upstream: for each setting that has a value, its text. It holds secrets.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UpstreamGroup(BTreeMap<String, String>);

impl UpstreamGroup {
    /// What a setting says.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Gives a setting of the group another text; an empty one takes it away.
    pub fn set(&mut self, name: &str, text: &str) {
        debug_assert!(SETTINGS.contains(&name));
        match text.trim() {
            "" => self.0.remove(name),
            text => self.0.insert(name.into(), text.into()),
        };
    }

    /// The settings that have a value, in the order in which a person reads them.
    pub fn settings(&self) -> impl Iterator<Item = (&'static str, &str)> {
        SETTINGS.into_iter().filter_map(|name| self.get(name).map(|text| (name, text)))
    }

    /// Takes over from an earlier group what `may_take` names and this one does not say, if both are of the same
    /// scheme, host and port: credentials go nowhere else. A group without an address gets that of the earlier.
    pub fn completed_by(&mut self, earlier: &UpstreamGroup, may_take: impl Fn(&str) -> bool) {
        if self.get(UPSTREAM_URL.name).is_none() {
            self.set(UPSTREAM_URL.name, earlier.get(UPSTREAM_URL.name).unwrap_or_default());
        }
        if self.origin().is_none() || self.origin() != earlier.origin() {
            return;
        }
        for (name, text) in earlier.settings() {
            if self.get(name).is_none() && may_take(name) {
                self.set(name, text);
            }
        }
    }

    /// Scheme, host and port of the upstream.
    fn origin(&self) -> Option<String> {
        let url = Url::parse(self.get(UPSTREAM_URL.name)?).ok()?;
        Some(url.origin().ascii_serialization())
    }

    /// The upstream of these settings. All else is as with `base`: what the process sets for any upstream.
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn upstream(&self, base: &Upstream) -> Result<Upstream, Problems> {
        let lookup = |name: &str| self.get(name).map(String::from);
        let mut reader = Reader { lookup: &lookup, problems: Vec::new() };
        if !reader.is_set(&UPSTREAM_URL) {
            reader.problem(UPSTREAM_URL.name, "is not given", "give the address of the mirror");
        }
        let own = reader.upstream();
        let upstream = Upstream {
            tool_emulation: base.tool_emulation,
            history_max_messages: base.history_max_messages,
            history_max_bytes: base.history_max_bytes,
            timeouts: base.timeouts,
            answer_bytes: base.answer_bytes,
            session_webhook: base.session_webhook.clone(),
            ..own
        };
        if reader.problems.is_empty() { Ok(upstream) } else { Err(Problems(reader.problems)) }
    }
}

impl Reader<'_> {
    /// The variables of the group that are set, by their names as a person wrote them.
    pub fn upstream_variables(&self) -> Vec<String> {
        let is_set = |name: &str| (self.lookup)(name).is_some();
        let names = std::iter::once(UPSTREAMS_FILE.name).chain(SETTINGS);
        let named = names.flat_map(|name| [name.to_string(), format!("{name}_FILE")]);
        let mut set: Vec<_> = named.filter(|name| is_set(name)).collect();
        let by_default = UPSTREAMS_FILE.kind.unset();
        if set.is_empty() && Path::new(&by_default).is_file() {
            set.push(by_default);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::super::Config;
    use super::*;

    fn config(variables: &[(&str, &str)]) -> Config {
        let lookup =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string());
        Config::load(&lookup, std::iter::empty()).expect("good settings")
    }

    fn group(settings: &[(&str, &str)]) -> UpstreamGroup {
        let mut group = UpstreamGroup::default();
        settings.iter().for_each(|(name, text)| group.set(name, text));
        group
    }

    #[test]
    fn a_group_is_read_as_the_environment_is_and_the_rest_is_the_processs() {
        let base = config(&[("IDLE_TIMEOUT_SECONDS", "7"), ("TOOL_EMULATION", "false")]).upstream;
        let group = group(&[
            ("UPSTREAM_URL", "https://m.example.com/x"),
            ("UPSTREAM_PROTOCOL", "web-chat"),
            ("UPSTREAM_COOKIE", "Cookie: a=b"),
            ("MODELS", "m, n"),
        ]);
        let upstream = group.upstream(&base).expect("good");
        assert_eq!((&*upstream.name, upstream.protocol.name()), ("https://m.example.com", "web-chat"));
        assert_eq!(upstream.cookie.expect("a cookie").expose_secret(), "a=b");
        assert_eq!((upstream.models.len(), upstream.timeouts.idle.as_secs()), (2, 7));
        assert!(!upstream.tool_emulation);
        let kept = serde_json::to_string(&group).expect("JSON");
        assert!(serde_json::from_str::<UpstreamGroup>(&kept).expect("a group") == group);
    }

    #[test]
    fn mistakes_of_a_group_name_their_setting() {
        let base = config(&[]).upstream;
        let wrong = group(&[("UPSTREAM_BODY", "{"), ("UPSTREAM_PROTOCOL", "soap")]);
        let problems = wrong.upstream(&base).err().expect("mistakes").0;
        let settings: Vec<_> = problems.iter().map(|problem| problem.setting.as_str()).collect();
        for name in ["UPSTREAM_URL", "UPSTREAM_PROTOCOL", "UPSTREAM_BODY"] {
            assert!(settings.contains(&name), "{settings:?}");
        }
    }

    #[test]
    fn credentials_go_to_the_origin_alone_that_they_were_given_for() {
        let earlier = group(&[
            ("UPSTREAM_URL", "https://m.example.com/v1"),
            ("UPSTREAM_API_KEY", "sk-1"),
            ("UPSTREAM_HEADERS", "x-api-key: sk-2"),
            ("DEFAULT_MODEL", "m"),
        ]);
        let completed = |url: &str| {
            let mut group = group(&[("UPSTREAM_URL", url)]);
            group.completed_by(&earlier, |_| true);
            group.settings().map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert_eq!(completed("https://m.example.com").len(), 4);
        assert_eq!(completed("").len(), 4);
        for other in ["http://m.example.com", "https://m.example.com:8443", "https://m.example.com.evil.org"]
        {
            assert_eq!(completed(other), ["UPSTREAM_URL"]);
        }
    }

    #[test]
    fn the_environments_variables_of_the_group_are_told() {
        assert!(config(&[("IDLE_TIMEOUT_SECONDS", "7")]).upstream_variables.is_empty());
        let set = config(&[("UPSTREAM_URL", "https://m.example.com"), ("MODELS", "m")]);
        assert_eq!(set.upstream_variables, ["UPSTREAM_URL", "MODELS"]);
    }
}
