//! The logger: lines of text for a person, lines of JSON for a platform, fields in both. What is logged
//! in the course of a request carries its id.

mod lines;
pub mod mending;

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use env_logger::fmt::Formatter;
use env_logger::{Target, WriteStyle};
use log::kv::{Key, Value, VisitSource, VisitValue};
use log::{Level, Record};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use crate::{config, request};
use lines::Collected;
pub use lines::{dropped, flush};

/// The field of a line that says for which request it was.
const REQUEST_ID: &str = "request_id";

/// A hook knows nothing but the process, so its count is the process's.
static PANICS: AtomicU64 = AtomicU64::new(0);

/// How many panics the process has survived.
pub fn panics() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

/// Starts the logger and the panic hook.
pub fn start(settings: &config::Log) {
    let terminal = io::stderr().is_terminal();
    let json = settings.json.unwrap_or(!terminal);
    let mut builder = env_logger::Builder::new();
    builder.parse_filters(&settings.filter);
    let write = if json { write_json } else { write_text };
    let way: Box<dyn Write + Send> = match Collected::start() {
        Some(collected) => Box::new(collected),
        None => Box::new(io::stderr()),
    };
    // The logger does not see what is behind a way of ours. Lines of JSON hold no styles, so they need
    // not be searched for some to take out.
    let colours = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let style = if json || colours { WriteStyle::Always } else { WriteStyle::Never };
    builder.write_style(style).target(Target::Pipe(way));
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

/// Hands every field that has a value to `write`, and the id of the request that is worked for, unless
/// the line has one of its own.
fn each_field(record: &Record, mut write: impl FnMut(&str, Field<'_>) -> io::Result<()>) -> io::Result<()> {
    struct Fields<F>(F);
    impl<'kvs, F: FnMut(&str, Field<'_>) -> io::Result<()>> VisitSource<'kvs> for Fields<F> {
        fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
            value.visit(Named { key: key.as_str(), write: &mut self.0 })
        }
    }
    record.key_values().visit(&mut Fields(&mut write)).map_err(io::Error::other)?;
    match request::id() {
        Some(id) if record.key_values().get(Key::from_str(REQUEST_ID)).is_none() => {
            write(REQUEST_ID, Field::Text(Cow::Borrowed(&id)))
        }
        _ => Ok(()),
    }
}

/// A field whose value is being looked at.
struct Named<'a, F> {
    key: &'a str,
    write: &'a mut F,
}

impl<F: FnMut(&str, Field<'_>) -> io::Result<()>> Named<'_, F> {
    fn is(&mut self, field: Field<'_>) -> Result<(), log::kv::Error> {
        Ok((self.write)(self.key, field)?)
    }
}

impl<'v, F: FnMut(&str, Field<'_>) -> io::Result<()>> VisitValue<'v> for Named<'_, F> {
    fn visit_any(&mut self, value: Value) -> Result<(), log::kv::Error> {
        self.is(Field::Text(value.to_string().into()))
    }

    fn visit_null(&mut self) -> Result<(), log::kv::Error> {
        Ok(())
    }

    fn visit_str(&mut self, text: &str) -> Result<(), log::kv::Error> {
        self.is(Field::Text(text.into()))
    }

    fn visit_u64(&mut self, number: u64) -> Result<(), log::kv::Error> {
        self.is(Field::Unsigned(number))
    }

    fn visit_i64(&mut self, number: i64) -> Result<(), log::kv::Error> {
        self.is(Field::Signed(number))
    }

    fn visit_bool(&mut self, truth: bool) -> Result<(), log::kv::Error> {
        self.is(Field::Truth(truth))
    }
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
        flush();
        println!("counted {}", panics());
    }

    /// As above, for the lines.
    #[test]
    #[ignore = "it is a part of a test below"]
    fn logs_in_a_process_of_its_own() {
        start(&config::Log { json: Some(true), filter: "info".into() });
        let write = |thread: usize| move || (0..500).for_each(|number| log::info!(thread, number; "said"));
        let threads = [0, 1].map(|thread| std::thread::spawn(write(thread)));
        threads.into_iter().for_each(|thread| thread.join().expect("it ends"));
        flush();
        std::process::exit(0);
    }

    /// What a test of this module writes when it runs in a process of its own.
    fn output_of(test: &str) -> String {
        let program = std::env::current_exe().expect("this program");
        let name = format!("telemetry::tests::{test}");
        let arguments = ["--ignored", "--exact", &name, "--nocapture"];
        let output = Command::new(program).args(arguments).output().expect("it runs");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }

    #[test]
    fn all_lines_are_there_whole_and_in_order_when_the_process_ends() {
        let text = output_of("logs_in_a_process_of_its_own");
        let mut next = [0, 0];
        for line in text.lines().filter(|line| line.starts_with('{')) {
            let line: serde_json::Value = serde_json::from_str(line).expect("a whole line");
            let thread = line["thread"].as_u64().expect("a thread") as usize;
            assert_eq!(line["number"], next[thread]);
            next[thread] += 1;
        }
        assert_eq!(next, [500, 500]);
    }

    #[test]
    fn a_panic_is_counted_and_told_by_its_place_alone() {
        let text = output_of("panics_in_a_process_of_its_own");
        assert!(text.contains("counted 1") && text.contains(file!()), "{text}");
        assert!(!text.contains("canary"), "{text}");
    }
}
