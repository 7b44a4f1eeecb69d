//! Reading single settings: what is not understood is collected, not thrown.

use std::fs::File;
use std::io::{self, Read};

use super::declaration::Setting;
use super::kinds::Kind;
use super::names;
use super::platform::Lookup;
use super::problems::Problem;

/// Reads settings and collects what is wrong with them.
pub struct Reader<'a> {
    /// Gives a variable's value.
    pub lookup: Lookup<'a>,
    /// What is wrong so far.
    pub problems: Vec<Problem>,
}

impl Reader<'_> {
    /// The setting's value; what holds without one where it is not set or not understood.
    pub fn read<K: Kind>(&mut self, setting: &Setting<K>) -> K::Value {
        let Some(text) = self.text(setting) else { return setting.kind.unset() };
        setting.kind.parse(&text).unwrap_or_else(|| {
            self.problem(setting.name, format!("`{text}` is not understood"), setting.kind.advice());
            setting.kind.unset()
        })
    }

    /// The setting as it is written; `None` where it is not set. A secret may stand in the file that the
    /// variable of its name with `_FILE` names, as Docker and Kubernetes hand secrets over.
    pub fn text<K: Kind>(&mut self, setting: &Setting<K>) -> Option<String> {
        let written = (self.lookup)(setting.name).map(|value| value.trim().to_string());
        let file = format!("{}_FILE", setting.name);
        let Some(path) = setting.kind.is_secret().then(|| (self.lookup)(&file)).flatten() else {
            return written;
        };
        if written.is_some() {
            self.problem(&file, format!("is set beside {}", setting.name), "remove one of the two");
            return written;
        }
        // Some editors put a mark before the first byte, which is no part of the secret.
        let secret = read(path.trim()).map(|text| text.trim_start_matches('\u{feff}').trim().to_string());
        let (what, advice) = match secret {
            Ok(secret) if !secret.is_empty() => return Some(secret),
            Ok(_) => ("names a file that holds nothing".into(), "write the secret into the file"),
            Err(error) => {
                (format!("names a file that cannot be read: {error}"), "give the path of a text file")
            }
        };
        self.problem(&file, what, advice);
        None
    }

    pub fn is_set<K: Kind>(&mut self, setting: &Setting<K>) -> bool {
        self.text(setting).is_some()
    }

    pub fn problem(&mut self, setting: &str, what: impl Into<String>, advice: impl Into<String>) {
        let (setting, what, advice) = (setting.into(), what.into(), advice.into());
        let problem = Problem { setting, what, advice, unsafe_value: false };
        // A setting may be read more than once.
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    pub fn unsafe_value(&mut self, setting: &str, what: impl Into<String>, advice: &str) {
        self.problem(setting, what, advice);
        if let Some(problem) = self.problems.last_mut() {
            problem.unsafe_value = true;
        }
    }

    /// Settings carry no prefix, so a variable that starts like one of ours is a mistake, except
    /// those that Kubernetes and container links set for a service of this name.
    pub fn unknown_names(&mut self, variables: impl Iterator<Item = String>) {
        for name in variables {
            let Some(rest) = name.strip_prefix("MIRRORGATE_") else { continue };
            if rest.starts_with("SERVICE_") || rest == "PORT" || rest.starts_with("PORT_") {
                continue;
            }
            // A workflow sets it for the build, and then runs what was built.
            if rest == "COMMIT" {
                continue;
            }
            let meant =
                Some(rest.to_string()).filter(|rest| names::is_known(rest)).or_else(|| names::meant(rest));
            let advice = match meant {
                Some(setting) => format!("settings carry no prefix: rename it to {setting}"),
                None => "remove it; `mirrorgate --help` lists the settings, which carry no prefix".into(),
            };
            self.problem(&name, "is not a setting", advice);
        }
    }
}

/// The parts of a list: what stands between commas or line breaks.
pub fn list(text: &str) -> Vec<String> {
    text.split([',', '\n']).map(str::trim).filter(|part| !part.is_empty()).map(String::from).collect()
}

/// The most bytes of a file with a secret that are read: some files have no end.
const LONGEST_SECRET: u64 = 1 << 20;

fn read(path: &str) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(LONGEST_SECRET).read_to_string(&mut text)?;
    Ok(text)
}
