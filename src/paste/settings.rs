//! What of a chat's request is a setting: address, login, what the mirror wants in headers and body.
//! All else is left out, and said so with the reason.

use serde_json::{Map, Value};

use super::note::{Mistake, Note, Reason};
use super::request::Request;
use crate::config::settings::{
    DEFAULT_MODEL, UPSTREAM_API_KEY, UPSTREAM_BODY, UPSTREAM_COOKIE, UPSTREAM_HEADERS, UPSTREAM_PROTOCOL,
    UPSTREAM_URL,
};
use crate::config::{self, UpstreamGroup};

/// The settings that a request tells.
#[derive(Clone, PartialEq, Eq)]
pub struct Imported {
    /// The settings.
    pub group: UpstreamGroup,
    /// What was left out or changed, and why; no values.
    pub notes: Vec<Note>,
}

/// Headers that are left out: a name, or the beginning of one if it ends in `-`; and why.
const LEFT_OUT: &[(&[&str], Reason)] = &[
    (
        &[
            "host",
            "content-length",
            "content-type",
            "transfer-encoding",
            "connection",
            "keep-alive",
            "accept-encoding",
            "accept",
            "te",
            "trailer",
            "upgrade",
            "expect",
            "proxy-",
        ],
        Reason::Connection,
    ),
    (
        &[
            "sec-",
            "priority",
            "dnt",
            "upgrade-insecure-requests",
            "cache-control",
            "pragma",
            "if-",
            "accept-language",
        ],
        Reason::Browser,
    ),
    (
        &["traceparent", "tracestate", "baggage", "sentry-trace", "newrelic", "x-datadog-", "x-b3-", "b3"],
        Reason::Tracing,
    ),
];

/// Fields of a web chat's body that belong to the question and not to the settings.
const OF_THE_QUESTION: &[&str] = &["message", "parentResponseId", "conversationId"];

/// What a protocol's request looks like.
struct Form {
    protocol: &'static str,
    /// The field of the body that names the model.
    model: &'static str,
    /// Where the upstream's own address ends in the path.
    base: usize,
}

impl Form {
    fn of(request: &Request) -> Option<Self> {
        let path = request.url.path().trim_end_matches('/');
        let whole = |protocol| Some(Form { protocol, model: "model", base: path.len() });
        if path.ends_with("/chat/completions") {
            return whole("openai");
        }
        let is_anthropic = |name: &str| matches!(name, "anthropic-version" | "x-api-key");
        if path.ends_with("/messages") && request.headers.iter().any(|(name, _)| is_anthropic(name)) {
            return whole("anthropic");
        }
        let base = path.find("/rest/app-chat/conversations/")?;
        let sends = path.ends_with("/new") || path.ends_with("/responses");
        sends.then_some(Form { protocol: "web-chat", model: "modelName", base })
    }
}

impl Imported {
    /// Reads a request that sends a message.
    ///
    /// # Errors
    /// Why it is none.
    pub fn from(request: &Request) -> Result<Self, Mistake> {
        let form = Form::of(request).filter(|_| request.method == "POST").zip(request.body.as_deref());
        let (form, body) = form.ok_or_else(|| Mistake::no_message(&request.method, request.url.path()))?;
        let body: Map<String, Value> = serde_json::from_str(body).map_err(|_| Mistake::NO_JSON)?;
        let mut imported = Imported { group: UpstreamGroup::default(), notes: Vec::new() };
        let mut address = request.url.clone();
        address.set_query(None);
        address.set_fragment(None);
        address.set_path(&request.url.path()[..form.base]);
        imported.group.set(UPSTREAM_URL.name, address.as_str().trim_end_matches('/'));
        imported.group.set(UPSTREAM_PROTOCOL.name, form.protocol);
        imported.login(request, form.protocol);
        imported.headers(request, form.protocol);
        imported.model(&body, form.model);
        if form.protocol == "web-chat" {
            imported.body(body);
            imported.note(Reason::ListsNoModels, []);
        } else {
            imported.note(Reason::WholeBody, [form.model]);
        }
        Ok(imported)
    }

    /// The lines of a `.env` file, and what cannot be written there.
    ///
    /// # Errors
    /// When a value cannot be written in one.
    pub fn env(&self) -> Result<(String, Vec<Note>), Mistake> {
        let (mut group, mut notes) = (self.group.clone(), Vec::new());
        // A line that no quotes can hold together with the others would spoil them all.
        while let Some((name, rest)) =
            without_odd_quotes(group.get(UPSTREAM_HEADERS.name).unwrap_or_default())
        {
            group.set(UPSTREAM_HEADERS.name, &rest);
            notes.push(Note { reason: Reason::Quotes, names: vec![name] });
        }
        let lines = group.settings().map(|(name, text)| config::env_line(name, text));
        Ok((lines.collect::<Option<String>>().ok_or(Mistake::ENV_QUOTES)?, notes))
    }

    fn note<'a>(&mut self, reason: Reason, names: impl IntoIterator<Item = &'a str>) {
        self.notes.push(Note { reason, names: names.into_iter().map(String::from).collect() });
    }

    fn login(&mut self, request: &Request, protocol: &str) {
        let bearer = request.header("authorization").and_then(bearer);
        let own = request.header("x-api-key").filter(|_| protocol == "anthropic");
        let key = own.or(bearer).unwrap_or_default();
        self.group.set(UPSTREAM_API_KEY.name, key);
        match request.header("cookie").filter(|line| line.contains('=')) {
            Some(line) => self.group.set(UPSTREAM_COOKIE.name, line),
            None if key.is_empty() => self.note(Reason::NoLogin, []),
            None => {}
        }
    }

    fn headers(&mut self, request: &Request, protocol: &str) {
        let mut left_out: Vec<Vec<&str>> = vec![Vec::new(); LEFT_OUT.len()];
        let mut kept = Vec::new();
        for (name, value) in &request.headers {
            let is = |pattern: &&str| match pattern.strip_suffix('-') {
                Some(_) => name.starts_with(*pattern),
                None => name == *pattern,
            };
            let reason = LEFT_OUT.iter().position(|(patterns, _)| patterns.iter().any(&is));
            let is_login = name == "cookie"
                || name == "authorization" && bearer(value).is_some()
                || name == "x-api-key" && protocol == "anthropic";
            if let Some(reason) = reason {
                left_out[reason].push(name);
            } else if is_login || value.is_empty() {
                // The login has settings of its own.
            } else if name.contains("request-id") && uuid::Uuid::try_parse(value).is_ok() {
                self.note(Reason::NewEachTime, [name.as_str()]);
                kept.push(format!("{name}: {{uuid}}"));
            } else {
                kept.push(format!("{name}: {value}"));
            }
        }
        for (names, (_, reason)) in left_out.into_iter().zip(LEFT_OUT).filter(|(names, _)| !names.is_empty())
        {
            self.note(*reason, names);
        }
        self.group.set(UPSTREAM_HEADERS.name, &kept.join("\n"));
    }

    fn model(&mut self, body: &Map<String, Value>, field: &str) {
        match body.get(field).and_then(Value::as_str).filter(|model| !model.trim().is_empty()) {
            Some(model) => self.group.set(DEFAULT_MODEL.name, model),
            None => self.note(Reason::NoModel, [field]),
        }
    }

    fn body(&mut self, body: Map<String, Value>) {
        let mut switches = Map::new();
        for (name, value) in body {
            let files =
                name.ends_with("Attachments") && value.as_array().is_some_and(|list| !list.is_empty());
            if OF_THE_QUESTION.contains(&name.as_str()) || files {
                self.note(Reason::Question, [name.as_str()]);
            } else if name == "modelName" {
                self.note(Reason::Model, ["modelName"]);
            } else {
                switches.insert(name, value);
            }
        }
        if !switches.is_empty() {
            // An apostrophe, written so, lets the text stand in single quotes.
            let text = Value::Object(switches).to_string().replace('\'', "\\u0027");
            self.group.set(UPSTREAM_BODY.name, &text);
        }
    }
}

/// The key in an `Authorization` header of that scheme.
fn bearer(value: &str) -> Option<&str> {
    let (word, key) = value.split_once(' ')?;
    Some(key.trim()).filter(|key| word.eq_ignore_ascii_case("bearer") && !key.is_empty())
}

/// Lines of headers that no quotes can hold together, without the first that has a quote: its name, and the
/// others.
fn without_odd_quotes(lines: &str) -> Option<(String, String)> {
    if config::env_line(UPSTREAM_HEADERS.name, lines).is_some() {
        return None;
    }
    let odd = lines.lines().position(|line| line.contains('\''))?;
    let name = lines.lines().nth(odd)?.split(':').next().unwrap_or_default().to_string();
    let others = lines.lines().enumerate().filter(|(at, _)| *at != odd).map(|(_, line)| line);
    Some((name, others.collect::<Vec<_>>().join("\n")))
}
