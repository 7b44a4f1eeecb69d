//! Reading single settings: texts, numbers, choices; what is wrong is collected, not thrown.

use std::str::FromStr;
use std::time::Duration;

use secrecy::SecretString;

use super::SETTINGS;
use super::platform::Lookup;
use super::problems::Problem;

/// The words for yes and no.
pub const BOOL: &[(&str, bool)] =
    &[("true", true), ("false", false), ("1", true), ("0", false), ("yes", true), ("no", false)];

/// Reads settings and collects what is wrong with them.
pub struct Reader<'a> {
    /// Gives a variable's value.
    pub lookup: Lookup<'a>,
    /// What is wrong so far.
    pub problems: Vec<Problem>,
}

impl Reader<'_> {
    pub fn get(&self, name: &str) -> Option<String> {
        (self.lookup)(name).map(|value| value.trim().to_string())
    }

    pub fn secret(&self, name: &str) -> Option<SecretString> {
        self.get(name).map(SecretString::from)
    }

    pub fn problem(&mut self, setting: &str, what: impl Into<String>, advice: impl Into<String>) {
        self.problems.push(Problem {
            setting: setting.into(),
            what: what.into(),
            advice: advice.into(),
            unsafe_value: false,
        });
    }

    pub fn unsafe_value(&mut self, setting: &str, what: impl Into<String>, advice: &str) {
        self.problem(setting, what, advice);
        if let Some(problem) = self.problems.last_mut() {
            problem.unsafe_value = true;
        }
    }

    pub fn parsed<T>(
        &mut self,
        name: &str,
        default: T,
        advice: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> T {
        let Some(text) = self.get(name) else { return default };
        parse(&text).unwrap_or_else(|| {
            self.problem(name, format!("`{text}` is not understood"), advice);
            default
        })
    }

    pub fn number(&mut self, name: &str, default: u64, least: u64, most: u64) -> u64 {
        let advice = format!("give a whole number from {least} to {most}; the default is {default}");
        self.parsed(name, default, &advice, |text| {
            u64::from_str(text).ok().filter(|number| (least..=most).contains(number))
        })
    }

    pub fn seconds(&mut self, name: &str, default: f64) -> Duration {
        let advice = format!("give seconds from 0.001 to 86400, such as {default}");
        let seconds = self.parsed(name, default, &advice, |text| {
            f64::from_str(text).ok().filter(|seconds| (0.001..=86_400.0).contains(seconds))
        });
        Duration::from_secs_f64(seconds)
    }

    pub fn seconds_or_off(&mut self, name: &str, default: f64) -> Option<Duration> {
        match self.get(name) {
            Some(text) if text.parse() == Ok(0.0) => None,
            _ => Some(self.seconds(name, default)),
        }
    }

    pub fn choice<T: Copy>(&mut self, name: &str, choices: &[(&str, T)], default: T) -> T {
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        let advice = format!("give one of: {}", names.join(", "));
        self.parsed(name, default, &advice, |text| {
            choices.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, value)| *value)
        })
    }

    pub fn names(&self, name: &str) -> Vec<String> {
        let text = self.get(name).unwrap_or_default();
        text.split([',', '\n']).map(str::trim).filter(|name| !name.is_empty()).map(String::from).collect()
    }

    /// Settings carry no prefix, so a variable that starts like one of ours is a mistake, except
    /// those that Kubernetes and container links set for a service of this name.
    pub fn unknown_names(&mut self, names: impl Iterator<Item = String>) {
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
}
