//! Several upstreams: a list of addresses in `UPSTREAM_URL`, or one block each in a TOML file.
//!
//! A block is read as if its values stood in the variables of a single upstream, so both are
//! checked in the same way.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use serde::Deserialize;

use super::Upstream;
use super::kinds::Kind;
use super::reader::{Reader, list};
use super::settings::{
    DEFAULT_MODEL, MODELS, UPSTREAM_API_KEY, UPSTREAM_BODY, UPSTREAM_COOKIE, UPSTREAM_HEADERS,
    UPSTREAM_PROTOCOL, UPSTREAM_URL, UPSTREAMS_FILE,
};

/// Values that hold for one upstream in place of the process's, also where they are none.
type Variables = HashMap<&'static str, Option<String>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    upstream: Vec<Block>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Block {
    url: String,
    name: Option<String>,
    protocol: Option<String>,
    key: Option<String>,
    cookie: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    body: Option<toml::Table>,
    default_model: Option<String>,
    #[serde(default)]
    models: Vec<String>,
    weight: Option<u32>,
}

impl Block {
    /// What the block says in place of the variables of a single upstream.
    fn variables(&self) -> Variables {
        let headers: Vec<_> = self.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        let body = self.body.as_ref().and_then(|body| serde_json::to_string(body).ok());
        Variables::from([
            (UPSTREAM_URL.name, Some(self.url.clone())),
            (UPSTREAM_PROTOCOL.name, self.protocol.clone()),
            (UPSTREAM_API_KEY.name, self.key.clone()),
            (UPSTREAM_COOKIE.name, self.cookie.clone()),
            (UPSTREAM_HEADERS.name, Some(headers.join("\n"))),
            (UPSTREAM_BODY.name, body),
            (DEFAULT_MODEL.name, self.default_model.clone()),
            (MODELS.name, Some(self.models.join(","))),
        ])
    }
}

impl Reader<'_> {
    /// All upstreams, at least one: the demo when none is named.
    pub fn upstreams(&mut self) -> Vec<Upstream> {
        let urls = list(&self.read(&UPSTREAM_URL).unwrap_or_default());
        let file = self.text(&UPSTREAMS_FILE);
        let by_default = UPSTREAMS_FILE.kind.unset();
        let found = || (urls.is_empty() && Path::new(&by_default).is_file()).then_some(by_default);
        let mut all = match file.or_else(found) {
            Some(path) if urls.is_empty() => self.blocks(&path),
            Some(_) => {
                self.problem(
                    UPSTREAMS_FILE.name,
                    "is set together with UPSTREAM_URL",
                    "name the upstreams in one of the two",
                );
                Vec::new()
            }
            None => urls
                .iter()
                .map(|url| self.one(None, 1, &Variables::from([(UPSTREAM_URL.name, Some(url.clone()))])))
                .collect(),
        };
        if all.is_empty() {
            all.push(self.one(None, 1, &Variables::new()));
        }
        let mut names = HashSet::new();
        for upstream in &mut all {
            let mut number = 1;
            let name = upstream.name.clone();
            while !names.insert(upstream.name.clone()) {
                number += 1;
                upstream.name = format!("{name}-{number}").into();
            }
        }
        all
    }

    fn blocks(&mut self, path: &str) -> Vec<Upstream> {
        let advice = "write one block [[upstream]] for each, with url and, where needed, name, protocol, key, cookie, headers, body, models, default_model, weight";
        let file = std::fs::read_to_string(path).map_err(|error| format!("`{path}` cannot be read: {error}"));
        let read = file.and_then(|text| {
            toml::from_str::<File>(&text).map_err(|error| {
                let line = error.span().map_or(0, |span| text[..span.start].matches('\n').count()) + 1;
                // What stands in quotes is a value, which may be a secret.
                let what = error.message().split('"').next().unwrap_or_default();
                format!("`{path}`, line {}: {}", line, what.trim_end())
            })
        });
        match read {
            Ok(file) if file.upstream.is_empty() => {
                self.problem(UPSTREAMS_FILE.name, format!("`{path}` names no upstream"), advice);
                Vec::new()
            }
            Ok(file) => {
                let blocks = file.upstream.iter();
                blocks
                    .map(|block| {
                        let weight = block.weight.unwrap_or(1).max(1);
                        self.one(block.name.clone(), weight, &block.variables())
                    })
                    .collect()
            }
            Err(what) => {
                self.problem(UPSTREAMS_FILE.name, what, advice);
                Vec::new()
            }
        }
    }

    /// One upstream, by its own variables and else by those of the process.
    fn one(&mut self, name: Option<String>, weight: u32, own: &Variables) -> Upstream {
        let base = self.lookup;
        let lookup = |name: &str| {
            let value = match own.get(name) {
                Some(value) => value.clone(),
                // The file of a credential is that of the process, which a block of its own does not get.
                None if name.strip_suffix("_FILE").is_some_and(|name| own.contains_key(name)) => None,
                None => base(name),
            };
            value.filter(|value| !value.trim().is_empty())
        };
        let mut reader = Reader { lookup: &lookup, problems: Vec::new() };
        let mut upstream = reader.upstream();
        // Settings that hold for all would be complained of once for each.
        let news = reader.problems.into_iter().filter(|problem| !self.problems.contains(problem));
        let news: Vec<_> = news.collect();
        self.problems.extend(news);
        upstream.weight = weight;
        if let Some(name) = name.filter(|name| !name.trim().is_empty()) {
            upstream.name = name.into();
        }
        upstream
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Problems, Protocol};
    use secrecy::ExposeSecret;

    fn load(variables: &[(&str, &str)]) -> Result<Config, Problems> {
        let lookup =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string());
        Config::load(&lookup, std::iter::empty())
    }

    fn file(text: &str) -> String {
        let name = format!("mirrorgate-upstreams-{}-{}.toml", std::process::id(), text.len());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).expect("a file");
        path.to_str().expect("a path in UTF-8").to_string()
    }

    #[test]
    fn a_list_of_addresses_shares_the_other_settings() {
        let config = load(&[
            ("UPSTREAM_URL", "https://a.example.com, https://b.example.com/v1,https://a.example.com"),
            ("UPSTREAM_API_KEY", "sk-1"),
        ])
        .expect("good");
        let names: Vec<_> = config.upstreams().map(|upstream| &*upstream.name).collect();
        assert_eq!(names, ["https://a.example.com", "https://b.example.com", "https://a.example.com-2"]);
        assert!(config.upstreams().all(|upstream| upstream.api_key.is_some()));
    }

    #[test]
    fn a_file_has_a_block_for_each() {
        let path = file(
            "[[upstream]]\nname = \"one\"\nurl = \"https://a.example.com\"\nkey = \"sk-1\"\nmodels = [\"m\", \"n\"]\nweight = 3\n\
             [[upstream]]\nurl = \"https://b.example.com\"\nprotocol = \"web-chat\"\ncookie = \"a=b\"\nbody = { temporary = true }\n[upstream.headers]\nOrigin = \"https://b.example.com\"\n",
        );
        let config = load(&[("UPSTREAMS_FILE", &path), ("IDLE_TIMEOUT_SECONDS", "7")]).expect("good");
        let all: Vec<_> = config.upstreams().collect();
        assert_eq!((&*all[0].name, all[0].weight, all[0].models.len()), ("one", 3, 2));
        assert_eq!(
            all[0].api_key.as_ref().map(|key| key.expose_secret().to_string()).as_deref(),
            Some("sk-1")
        );
        assert_eq!((all[1].protocol, all[1].headers.len(), all[1].body.len()), (Protocol::WebChat, 1, 1));
        assert!(all[1].api_key.is_none() && all.iter().all(|one| one.timeouts.idle.as_secs() == 7));
    }

    #[test]
    fn mistakes_in_the_file_are_told_with_their_place_and_without_secrets() {
        for (text, what) in [
            ("[[upstream]]\nurl = \"https://a\"\nkee = \"sk-canary\"\n", "line 3"),
            ("upstream = []", "names no upstream"),
            ("[[upstream]]\nurl = \"mirror\"\n", "is not a URL"),
            ("[[upstream]\n", "line 1"),
        ] {
            let problems = load(&[("UPSTREAMS_FILE", &file(text))]).err().expect("a mistake").to_string();
            assert!(problems.contains(what) && !problems.contains("canary"), "{problems}");
        }
        let both = [("UPSTREAMS_FILE", "x.toml"), ("UPSTREAM_URL", "https://a.example.com")];
        assert!(load(&both).is_err());
        assert!(load(&[("UPSTREAMS_FILE", "/nowhere.toml")]).is_err());
    }
}
