//! The list of the last calls, with one row open where the address says so.

use std::collections::BTreeSet;
use std::time::Duration;

use minijinja::context;
use minijinja::value::{Serde, Value};
use serde::Serialize;
use serde_json::json;
use time::OffsetDateTime;

use super::View;
use super::plots::{grouped, seconds};
use crate::domain::error::{Cure, Kind};
use crate::http::codes::{self, Words};
use crate::http::page::Language;
use crate::http::reply::retry_after_seconds;
use crate::traffic::{Call, Traffic};

/// How many calls are listed at first, and how many more each time.
const PAGE: usize = 20;

/// What the list needs.
pub struct Listed {
    rows: Vec<Row>,
    known: usize,
    /// How many of them fit the filters.
    fitting: usize,
    keys: BTreeSet<String>,
    models: BTreeSet<String>,
    /// The codes of failures that are known, each with its word.
    codes: Vec<(String, String)>,
    /// The last failure of a question: its call, and its word.
    last_failure: Option<Failure>,
}

/// A failure in the line of facts.
#[derive(Serialize)]
struct Failure {
    at: i64,
    clock: String,
    word: String,
    query: String,
}

/// A row.
#[derive(Serialize)]
struct Row {
    id: u64,
    at: i64,
    clock: String,
    /// The address of the page with this row open, or with none where it is.
    query: String,
    key: Option<String>,
    operation: String,
    model: Option<String>,
    state: &'static str,
    /// The word of its failure.
    word: Option<String>,
    first: String,
    total: String,
    tokens: String,
    open: Option<Opened>,
}

/// What an open row tells beside.
#[derive(Serialize)]
struct Opened {
    what: Option<&'static str>,
    act: Option<&'static str>,
    cure: Option<&'static str>,
    message: Option<String>,
    code: Option<String>,
    status: Option<u16>,
    upstream_status: Option<u16>,
    retry_after: Option<u64>,
    path: String,
    upstream: Option<String>,
    received: String,
    sent: String,
    request_id: String,
}

impl Listed {
    pub fn of(traffic: &Traffic, view: &View, language: Language) -> Self {
        let (all, _) = traffic.calls(0);
        let named = |name: fn(&Call) -> &str| -> BTreeSet<String> {
            let names = all.iter().map(|(call, _)| name(call)).filter(|name| !name.is_empty());
            names.map(String::from).collect()
        };
        let (keys, models) = (named(|call| &call.of.key), named(|call| &call.of.model));
        let failed = all.iter().filter(|(call, _)| call.has_failed()).map(|(call, _)| &*call.of.code);
        let codes = failed.collect::<BTreeSet<_>>().into_iter();
        let codes = codes.map(|code| (code.to_string(), word(language, code))).collect();
        let last_failure = all.iter().find(|(call, _)| call.has_failed() && !call.of.upstream.is_empty());
        let last_failure = last_failure.map(|(call, _)| Failure {
            at: call.at,
            clock: clock(call.at),
            word: word(language, &call.of.code),
            query: view.with(&[
                ("call", Some(&call.number.to_string())),
                ("key", None),
                ("model", None),
                ("result", None),
                ("request", None),
            ]),
        });
        let (known, filter) = (all.len(), view.filter());
        let fits = |(call, is_running): (Call, bool)| {
            let state = call.state(is_running);
            (view.lists(&call) && filter.takes(&call, state)).then_some((call, state))
        };
        let fitting: Vec<_> = all.into_iter().filter_map(fits).collect();
        let count = fitting.len();
        // The open one is listed, however old it is.
        let most = view.show.unwrap_or(PAGE);
        let is_listed = |place: usize, call: &Call| place < most || view.opens(call);
        let listed = fitting.into_iter().enumerate().filter(|(place, (call, _))| is_listed(*place, call));
        let rows = listed.map(|(_, (call, state))| Row::of(call, state, view, language)).collect();
        Listed { rows, known, fitting: count, keys, models, codes, last_failure }
    }

    pub fn context(self, view: &View) -> Value {
        let more =
            (self.fitting > self.rows.len()).then(|| (view.show.unwrap_or(PAGE) + 2 * PAGE).to_string());
        let is_filtered = [&view.key, &view.model, &view.result, &view.request]
            .iter()
            .any(|name| name.as_deref().is_some_and(|name| !name.is_empty()));
        context! {
            rows => Serde(json!(self.rows)),
            known => self.known,
            keys => self.keys.into_iter().collect::<Vec<_>>(),
            models => self.models.into_iter().collect::<Vec<_>>(),
            codes => self.codes,
            last_failure => Serde(json!(self.last_failure)),
            key => view.key.as_deref(),
            model => view.model.as_deref(),
            result => view.result.as_deref(),
            more => more.map(|more| view.with(&[("show", Some(&more))])),
            all => is_filtered.then(|| {
                view.with(&[("key", None), ("model", None), ("result", None), ("request", None)])
            }),
            is_one => view.request.as_deref().is_some_and(|id| !id.is_empty()),
        }
    }
}

impl Row {
    fn of(call: Call, state: &'static str, view: &View, language: Language) -> Self {
        let named = |name: &str| (!name.is_empty()).then(|| name.to_string());
        let is_open = view.opens(&call);
        let opened = (!is_open).then(|| call.number.to_string());
        let milliseconds = |time: Option<Duration>| seconds(time.map(|time| time.as_millis() as u64));
        Row {
            id: call.number,
            at: call.at,
            clock: clock(call.at),
            query: view.with(&[("call", opened.as_deref()), ("request", None)]),
            key: named(&call.of.key),
            operation: operation(&call),
            model: named(&call.of.model),
            state,
            word: (state == "failed").then(|| word(language, &call.of.code)),
            first: milliseconds(call.first_token),
            total: if state == "running" { "…".into() } else { milliseconds(call.total) },
            tokens: match call.usage {
                Some(usage) => grouped(usage.prompt_tokens + usage.completion_tokens),
                None if state == "running" => "…".into(),
                None => "0".into(),
            },
            open: is_open.then(|| Opened::of(call, language)),
        }
    }
}

impl Opened {
    fn of(call: Call, language: Language) -> Self {
        let code = call.has_failed().then(|| call.of.code.to_string());
        let words = code.as_deref().and_then(|code| codes::words(language, code));
        let cure = code.as_deref().and_then(Kind::of_code).map(|kind| match kind.cure() {
            Cure::Caller => "caller",
            Cure::Key => "key",
            Cure::Login => "login",
            Cure::Service => "service",
        });
        Opened {
            what: words.map(|words: &Words| words.what.as_str()),
            act: words.map(|words| words.act.as_str()),
            cure,
            retry_after: call
                .failure
                .as_ref()
                .and_then(|failure| failure.retry_after)
                .map(retry_after_seconds),
            message: call.failure.map(|failure| failure.message),
            code,
            status: call.status,
            upstream_status: call.upstream_status,
            path: call.path,
            upstream: Some(call.of.upstream.to_string()).filter(|name| !name.is_empty()),
            received: bytes(call.received),
            sent: bytes(call.sent),
            request_id: call.request_id.to_string(),
        }
    }
}

/// The word for a code.
fn word(language: Language, code: &str) -> String {
    codes::words(language, code).map_or_else(|| code.to_string(), |words| words.word.clone())
}

/// What was done, as a person would call it.
fn operation(call: &Call) -> String {
    let operation = call.asked.or(call.operation);
    match operation {
        Some(operation) if call.path == "/mcp" && operation != "mcp" => format!("MCP {operation}"),
        Some("mcp") => "MCP".into(),
        Some("chat_completions") => "/v1 chat".into(),
        Some("relay") | None => call.path.clone(),
        Some(operation) => operation.into(),
    }
}

/// A time of day in UTC, which the page's script says in its reader's own.
fn clock(milliseconds: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp(milliseconds / 1000).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (hour, minute, second) = time.to_hms();
    format!("{hour:02}:{minute:02}:{second:02}")
}

fn bytes(number: u64) -> String {
    match number {
        0..1000 => format!("{number} B"),
        1000..1_000_000 => format!("{:.1} kB", number as f64 / 1e3),
        _ => format!("{:.1} MB", number as f64 / 1e6),
    }
}
