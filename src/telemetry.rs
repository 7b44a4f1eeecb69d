//! The logger: lines of text for a person, lines of JSON for a platform, fields in both.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use env_logger::fmt::Formatter;
use env_logger::{Target, WriteStyle};
use log::kv::{Key, Value, VisitSource};
use log::{Level, Record};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

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
    if json {
        // Else every line would be searched for styles to take out, and standard error be asked each
        // time whether it is a terminal.
        builder.write_style(WriteStyle::Always).target(Target::Pipe(Box::new(io::stderr())));
    }
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

fn write_text(buffer: &mut Formatter, record: &Record) -> io::Result<()> {
    let style = buffer.default_level_style(record.level());
    let time = buffer.timestamp_millis();
    write!(buffer, "{time} {style}{:<5}{style:#} {}", record.level(), one_line(&record.args().to_string()))?;
    each_field(record, |key, field| match field {
        Field::Text(text) => write!(buffer, " {key}={}", one_line(&text)),
        Field::Unsigned(number) => write!(buffer, " {key}={number}"),
        Field::Signed(number) => write!(buffer, " {key}={number}"),
        Field::Truth(truth) => write!(buffer, " {key}={truth}"),
    })?;
    writeln!(buffer)
}

fn write_json(buffer: &mut Formatter, record: &Record) -> io::Result<()> {
    // The buffer takes many small pieces more slowly than one.
    let mut line = Vec::with_capacity(512);
    let mut writer = serde_json::Serializer::new(&mut line);
    let mut object = writer.serialize_map(None)?;
    object.serialize_entry("time", &format_args!("{}", buffer.timestamp_millis()))?;
    object.serialize_entry("level", lower(record.level()))?;
    object.serialize_entry("target", record.target())?;
    object.serialize_entry("message", record.args())?;
    each_field(record, |key, field| Ok(object.serialize_entry(key, &field)?))?;
    object.end()?;
    line.push(b'\n');
    buffer.write_all(&line)
}

fn lower(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}

/// Control characters could forge a line: they are written as escapes.
fn one_line(text: &str) -> String {
    text.chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] })
        .collect()
}

/// The value of a field.
#[derive(Serialize)]
#[serde(untagged)]
enum Field<'a> {
    Unsigned(u64),
    Signed(i64),
    Truth(bool),
    Text(Cow<'a, str>),
}

/// Hands every field that has a value to `write`.
fn each_field(record: &Record, write: impl FnMut(&str, Field<'_>) -> io::Result<()>) -> io::Result<()> {
    struct Visitor<F>(F);
    impl<'kvs, F: FnMut(&str, Field<'_>) -> io::Result<()>> VisitSource<'kvs> for Visitor<F> {
        fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
            let field = if let Some(text) = value.to_borrowed_str() {
                Field::Text(text.into())
            } else if let Some(number) = value.to_u64() {
                Field::Unsigned(number)
            } else if let Some(number) = value.to_i64() {
                Field::Signed(number)
            } else if let Some(truth) = value.to_bool() {
                Field::Truth(truth)
            } else {
                match value.to_string() {
                    none if none == "None" => return Ok(()),
                    text => Field::Text(text.into()),
                }
            };
            Ok((self.0)(key.as_str(), field)?)
        }
    }
    record.key_values().visit(&mut Visitor(write)).map_err(io::Error::other)
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
