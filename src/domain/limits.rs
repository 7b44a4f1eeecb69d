//! What a key may: until when it holds, which models and paths it opens, and how much.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::domain::error::{Error, Kind};

/// The limits of a key. What is absent is not limited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KeyLimits {
    /// When it ends, in milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
    /// The models that it may ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub models: Option<Vec<String>>,
    /// Questions in any 60 seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u32>,
    /// Questions that are answered at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallel: Option<u32>,
    /// Tokens of questions and answers in a day, in UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_day: Option<u64>,
    /// The same in a month.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_month: Option<u64>,
    /// Bytes of conversations that are kept for it; 0 for any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_bytes: Option<u64>,
    /// Paths under `/v1/` that it opens beside those which are open to every key.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
}

impl KeyLimits {
    /// Whether the key has ended by this time.
    pub fn have_ended(&self, now: SystemTime) -> bool {
        self.expires_at.is_some_and(|end| milliseconds(now) >= end)
    }

    /// Whether the key may ask this model.
    pub fn allow_model(&self, model: &str) -> bool {
        self.models.as_ref().is_none_or(|models| models.iter().any(|allowed| allowed == model))
    }

    /// Whether the key's own paths hold this one under `/v1/`: by its first words, up to a `/`.
    pub fn allow_path(&self, path: &str) -> bool {
        self.paths.iter().any(|allowed| {
            let allowed = allowed.trim_matches('/').trim_end_matches("/*");
            path.strip_prefix(allowed).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }

    /// Whether anything of it must be counted.
    pub fn are_counted(&self) -> bool {
        self.requests_per_minute.is_some()
            || self.parallel.is_some()
            || self.tokens_per_day.is_some()
            || self.tokens_per_month.is_some()
    }
}

/// When a key ends that holds for so long from now on, in milliseconds since 1970.
///
/// # Errors
/// When the time is not understood.
pub fn expiry(text: &str, now: SystemTime) -> Result<i64, Error> {
    let time = parse_duration(text);
    let time = time.ok_or_else(|| invalid("expires", text, "write a time such as `30d`, `12h` or `2w`"))?;
    Ok(milliseconds(now).saturating_add(time.as_millis() as i64))
}

/// A number of bytes that may be kept for a key.
///
/// # Errors
/// When it is not understood.
pub fn storage(text: &str) -> Result<u64, Error> {
    let hint = "write a size such as `200MiB`, or `0` for any";
    parse_bytes(text).ok_or_else(|| invalid("storage", text, hint))
}

/// The models that a key may ask.
///
/// # Errors
/// When there is none, or one without a name.
pub fn models(names: Vec<String>) -> Result<Vec<String>, Error> {
    let is_name = |name: &String| !name.trim().is_empty() && !name.contains(',');
    if names.is_empty() || !names.iter().all(is_name) {
        let hint = "name one model or more, each by itself, or leave it out for all";
        return Err(invalid("models", &names.join(","), hint));
    }
    Ok(names.into_iter().map(|name| name.trim().to_string()).collect())
}

/// Paths under `/v1/` that a key opens, without what stands around them: `/v1/files/*` is `files`.
///
/// # Errors
/// When one is no path.
pub fn paths(names: Vec<String>) -> Result<Vec<String>, Error> {
    let segment = |segment: &str| {
        let is_of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        !segment.is_empty() && segment.chars().all(is_of_name) && !segment.starts_with('.')
    };
    let path = |name: String| {
        let path = name.trim().trim_matches('/').trim_end_matches("/*");
        let path = path.trim_start_matches("v1/");
        match path != "v1" && path.split('/').all(segment) {
            true => Ok(path.to_string()),
            false => Err(invalid("paths", &name, "name paths under `/v1/`, such as `files`")),
        }
    };
    names.into_iter().map(path).collect()
}

fn invalid(name: &str, text: &str, hint: &str) -> Error {
    Error::new(Kind::InvalidRequest, format!("`{name}`: `{text}` is not understood")).hinted(hint)
}

/// A time in milliseconds since 1970.
pub fn milliseconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// The name of a day that is counted since 1970, such as `2026-11-26`.
pub fn day_name(day: i64) -> String {
    let date = OffsetDateTime::from_unix_timestamp(day.saturating_mul(86_400)).map(OffsetDateTime::date);
    date.map_or_else(|_| day.to_string(), |date| date.to_string())
}

/// A time such as `30d`, `12h`, `90m` or `2w`.
fn parse_duration(text: &str) -> Option<Duration> {
    const UNITS: [(char, u64); 5] = [('s', 1), ('m', 60), ('h', 3_600), ('d', 86_400), ('w', 604_800)];
    let text = text.trim();
    let (unit, seconds) = UNITS.into_iter().find(|(unit, _)| text.ends_with(*unit))?;
    let number: u64 = text.strip_suffix(unit)?.trim().parse().ok()?;
    number
        .checked_mul(seconds)
        .filter(|seconds| (1..=3_200_000_000).contains(seconds))
        .map(Duration::from_secs)
}

/// A number of bytes such as `200MiB`, `1GB` or `1048576`.
fn parse_bytes(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 7] = [
        ("kib", 1 << 10),
        ("mib", 1 << 20),
        ("gib", 1 << 30),
        ("kb", 1_000),
        ("mb", 1_000_000),
        ("gb", 1_000_000_000),
        ("b", 1),
    ];
    let lower = text.trim().to_ascii_lowercase();
    let unit = UNITS.into_iter().find_map(|(unit, size)| Some((lower.strip_suffix(unit)?, size)));
    let (number, size) = unit.unwrap_or((&lower, 1));
    number.trim().parse::<u64>().ok()?.checked_mul(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_are_read_with_their_units() {
        for (text, seconds) in [("30d", Some(2_592_000)), ("2w", Some(1_209_600)), (" 90 m ", Some(5_400))] {
            assert_eq!(parse_duration(text), seconds.map(Duration::from_secs), "{text}");
        }
        for text in ["", "30", "d", "-1d", "0d", "1.5h", "99999999999w", "30天"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
        for (text, bytes) in
            [("200MiB", Some(200 << 20)), ("1 gb", Some(1_000_000_000)), ("0", Some(0)), ("512b", Some(512))]
        {
            assert_eq!(parse_bytes(text), bytes, "{text}");
        }
        for text in ["", "MiB", "-1", "1.5gb", "99999999999999999999", "18446744073709551615kb"] {
            assert_eq!(parse_bytes(text), None, "{text}");
        }
    }

    #[test]
    fn a_path_of_the_key_opens_what_is_below_it_and_nothing_beside_it() {
        let limits =
            KeyLimits { paths: vec!["files".into(), "/vector_stores/*".into()], ..KeyLimits::default() };
        for path in ["files", "files/file-1/content", "vector_stores", "vector_stores/vs_1/search"] {
            assert!(limits.allow_path(path), "{path}");
        }
        for path in ["file", "filesystem", "batches", ""] {
            assert!(!limits.allow_path(path), "{path}");
        }
    }

    #[test]
    fn paths_of_a_key_are_named_as_people_write_them() {
        let read = |name: &str| paths(vec![name.into()]).ok();
        for name in ["files", "/files/", "/v1/files/*", " v1/files ", "v1/v1/files"] {
            assert_eq!(read(name), Some(vec!["files".into()]), "{name}");
        }
        assert_eq!(read("fine_tuning/jobs"), Some(vec!["fine_tuning/jobs".into()]));
        for name in [
            "",
            "/",
            "*",
            "../files",
            "files/../keys",
            "a b",
            "https://a.example/v1/files",
            "files?x=1",
            "v1",
        ] {
            assert_eq!(read(name), None, "{name}");
        }
    }

    #[test]
    fn what_is_not_limited_is_not_written() {
        assert_eq!(serde_json::to_string(&KeyLimits::default()).expect("JSON"), "{}");
        let limits = KeyLimits { parallel: Some(4), ..KeyLimits::default() };
        assert_eq!(serde_json::to_string(&limits).expect("JSON"), r#"{"parallel":4}"#);
        assert_eq!(serde_json::from_str::<KeyLimits>(r#"{"parallel":4,"later":1}"#).expect("limits"), limits);
    }
}
