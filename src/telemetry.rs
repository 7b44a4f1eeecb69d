//! The logger: lines of text for a person, lines of JSON for a platform, fields in both.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use env_logger::fmt::Formatter;
use log::Record;
use log::kv::{Key, Value, VisitSource};

use crate::config;

/// A hook knows nothing but the process, so its count is the process's.
static PANICS: AtomicU64 = AtomicU64::new(0);

/// How many panics the process has survived.
pub fn panics() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

/// Starts the logger and the panic hook.
pub fn start(settings: &config::Log) {
    let json = settings.json.unwrap_or(!std::io::stderr().is_terminal());
    let mut builder = env_logger::Builder::new();
    builder.parse_filters(&settings.filter);
    let write = if json { write_json } else { write_text };
    builder.format(move |buffer, record| if tells_secrets(record) { Ok(()) } else { write(buffer, record) });
    // A second start in one process, as in tests, keeps the first logger.
    let _ = builder.try_init();
    // A panic's text may quote what was worked on, so only its place is told.
    std::panic::set_hook(Box::new(|panic| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        log::error!(place = place.as_str(); "the program met a defect of its own");
    }));
}

/// Whether a line comes from a library that logs secrets: cookie_store logs each cookie's value at
/// the level debug, so none of its lines is written, whatever the filter says.
fn tells_secrets(record: &Record) -> bool {
    record.target().starts_with("cookie_store")
}

fn write_text(buffer: &mut Formatter, record: &Record) -> std::io::Result<()> {
    let style = buffer.default_level_style(record.level());
    let time = buffer.timestamp_millis();
    write!(buffer, "{time} {style}{:<5}{style:#} {}", record.level(), one_line(&record.args().to_string()))?;
    let mut fields = Vec::new();
    collect(record, |key, value| fields.push((key.to_string(), value)));
    for (key, value) in fields {
        match value {
            serde_json::Value::String(text) => write!(buffer, " {key}={}", one_line(&text))?,
            value => write!(buffer, " {key}={value}")?,
        }
    }
    writeln!(buffer)
}

fn write_json(buffer: &mut Formatter, record: &Record) -> std::io::Result<()> {
    let mut line = serde_json::Map::new();
    line.insert("time".into(), buffer.timestamp_millis().to_string().into());
    line.insert("level".into(), record.level().as_str().to_ascii_lowercase().into());
    line.insert("target".into(), record.target().into());
    line.insert("message".into(), record.args().to_string().into());
    collect(record, |key, value| {
        line.insert(key.to_string(), value);
    });
    writeln!(buffer, "{}", serde_json::Value::Object(line))
}

/// Control characters could forge a line: they are written as escapes.
fn one_line(text: &str) -> String {
    text.chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] })
        .collect()
}

/// Hands every field that has a value to `each`.
fn collect(record: &Record, each: impl FnMut(&str, serde_json::Value)) {
    struct Visitor<F>(F);
    impl<'kvs, F: FnMut(&str, serde_json::Value)> VisitSource<'kvs> for Visitor<F> {
        fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
            let json = if let Some(number) = value.to_u64() {
                number.into()
            } else if let Some(number) = value.to_i64() {
                number.into()
            } else if let Some(truth) = value.to_bool() {
                truth.into()
            } else {
                match value.to_string().as_str() {
                    "None" => return Ok(()),
                    text => text.into(),
                }
            };
            (self.0)(key.as_str(), json);
            Ok(())
        }
    }
    let _ = record.key_values().visit(&mut Visitor(each));
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Run by the test below in a process of its own, since the hook is the whole process's.
    #[test]
    #[ignore = "it is a part of the test below"]
    fn panics_in_a_process_of_its_own() {
        start(&config::Log { json: Some(false), filter: "info".into() });
        let caught = std::panic::catch_unwind(|| panic!("a canary in a panic"));
        assert!(caught.is_err());
        println!("counted {}", panics());
    }

    #[test]
    fn a_panic_is_counted_and_told_by_its_place_alone() {
        let program = std::env::current_exe().expect("this program");
        let arguments =
            ["--ignored", "--exact", "telemetry::tests::panics_in_a_process_of_its_own", "--nocapture"];
        let output = Command::new(program).args(arguments).output().expect("it runs");
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        assert!(text.contains("counted 1") && text.contains("src/telemetry.rs"), "{text}");
        assert!(!text.contains("canary"), "{text}");
    }
}
