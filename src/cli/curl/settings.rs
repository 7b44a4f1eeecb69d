//! What of a chat's request is a setting: address, login, what the mirror wants in headers and body.
//! All else is left out, and said so with the reason.

use serde_json::{Map, Value};

use super::Mistake;
use super::command::Request;
use crate::config;

/// The settings that a request tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// Names and values, in the order in which a person reads them.
    pub settings: Vec<(&'static str, String)>,
    /// What was left out or changed, and why; no values.
    pub notes: Vec<String>,
}

/// Headers that are left out: a name, or the beginning of one if it ends in `-`; and why.
const LEFT_OUT: &[(&[&str], &str)] = &[
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
        "mirrorgate sets it for each request, as its own connection needs it",
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
        "it describes the browser or the page, and a mirror's answer does not depend on it",
    ),
    (
        &["traceparent", "tracestate", "baggage", "sentry-trace", "newrelic", "x-datadog-", "x-b3-", "b3"],
        "it traces that one request",
    ),
];

/// Fields of a web chat's body that belong to the question and not to the settings.
const OF_THE_QUESTION: &[&str] = &["message", "parentResponseId", "conversationId"];

impl Imported {
    /// Reads a request that sends a message.
    ///
    /// # Errors
    /// Why it is none.
    pub fn from(request: &Request) -> Result<Self, Mistake> {
        let path = request.url.path().trim_end_matches('/');
        let is_openai = path.ends_with("/chat/completions");
        let chat = path
            .find("/rest/app-chat/conversations/")
            .filter(|_| path.ends_with("/new") || path.ends_with("/responses"));
        let body = match &request.body {
            Some(body) if request.method == "POST" && (is_openai || chat.is_some()) => body,
            _ => return Err(no_message(request)),
        };
        let body: Map<String, Value> = serde_json::from_str(body).map_err(|_| {
            Mistake::new(
                "the request's body is no JSON object",
                "copy it again, as cURL (bash): the text may have been changed on its way",
            )
        })?;
        let mut imported = Imported { settings: Vec::new(), notes: Vec::new() };
        let mut address = request.url.clone();
        address.set_query(None);
        address.set_fragment(None);
        if let Some(end) = chat {
            address.set_path(&path[..end]);
        }
        imported.set("UPSTREAM_URL", address.as_str().trim_end_matches('/'));
        imported.set("UPSTREAM_PROTOCOL", if is_openai { "openai" } else { "web-chat" });
        imported.login(request);
        imported.headers(request);
        if is_openai {
            imported.notes.push("left out the body but for `model`: it belongs to that one question".into());
            imported.model(&body, "model");
        } else {
            imported.model(&body, "modelName");
            imported.body(body);
            imported.notes.push(
                "a web chat cannot list its models: set MODELS to the names that you want to use".into(),
            );
        }
        Ok(imported)
    }

    /// The lines of a `.env` file.
    ///
    /// # Errors
    /// When a value cannot be written in one.
    pub fn env(&self) -> Result<String, Mistake> {
        let line = |(name, value): &(&'static str, String)| {
            config::env_line(name, value).ok_or_else(|| {
                Mistake::new(
                    format!("{name} holds both kinds of quotes and cannot be written to a `.env` file"),
                    "set it as an environment variable instead",
                )
            })
        };
        self.settings.iter().map(line).collect()
    }

    fn set(&mut self, name: &'static str, value: impl Into<String>) {
        self.settings.push((name, value.into()));
    }

    fn login(&mut self, request: &Request) {
        let bearer = request.header("authorization").and_then(|value| {
            let (word, key) = value.split_once(' ')?;
            word.eq_ignore_ascii_case("bearer").then(|| key.trim().to_string())
        });
        if let Some(key) = bearer.filter(|key| !key.is_empty()) {
            self.set("UPSTREAM_API_KEY", key);
        }
        match request.header("cookie").filter(|line| line.contains('=')) {
            Some(line) => self.set("UPSTREAM_COOKIE", line),
            None if self.settings.iter().any(|(name, _)| *name == "UPSTREAM_API_KEY") => {}
            None => self.notes.push(
                "there is no cookie in the request: log in to the mirror first, and copy the request of that tab".into(),
            ),
        }
    }

    fn headers(&mut self, request: &Request) {
        let mut left_out: Vec<Vec<&str>> = vec![Vec::new(); LEFT_OUT.len()];
        let mut kept = Vec::new();
        for (name, value) in &request.headers {
            let is = |pattern: &&str| match pattern.strip_suffix('-') {
                Some(_) => name.starts_with(*pattern),
                None => name == *pattern,
            };
            let reason = LEFT_OUT.iter().position(|(patterns, _)| patterns.iter().any(&is));
            let bearer = name == "authorization"
                && value.get(..7).is_some_and(|word| word.eq_ignore_ascii_case("bearer "));
            if let Some(reason) = reason {
                left_out[reason].push(name);
            } else if name == "cookie" || bearer || value.is_empty() {
                // The login has settings of its own.
            } else if name.contains("request-id") && uuid::Uuid::try_parse(value).is_ok() {
                self.notes.push(format!("`{name}` becomes a new UUID in each request (`{{uuid}}`)"));
                kept.push(format!("{name}: {{uuid}}"));
            } else {
                kept.push(format!("{name}: {value}"));
            }
        }
        for (names, (_, reason)) in left_out.iter().zip(LEFT_OUT).filter(|(names, _)| !names.is_empty()) {
            let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
            self.notes.push(format!("left out the header {}: {reason}", names.join(", ")));
        }
        // A line that no quotes can hold together with the others would spoil them all.
        while let Some(at) = (!kept.is_empty() && config::env_line("X", &kept.join("\n")).is_none())
            .then(|| kept.iter().position(|line| line.contains('\'')))
            .flatten()
        {
            let line = kept.remove(at);
            let name = line.split(':').next().unwrap_or_default().to_string();
            self.notes
                .push(format!("left out the header `{name}`: its quotes cannot be written to a `.env` file"));
        }
        if !kept.is_empty() {
            self.set("UPSTREAM_HEADERS", kept.join("\n"));
        }
    }

    fn model(&mut self, body: &Map<String, Value>, field: &str) {
        match body.get(field).and_then(Value::as_str).filter(|model| !model.trim().is_empty()) {
            Some(model) => self.set("DEFAULT_MODEL", model),
            None => {
                self.notes.push(format!("the body names no model in `{field}`, so DEFAULT_MODEL is not set"))
            }
        }
    }

    fn body(&mut self, body: Map<String, Value>) {
        let mut switches = Map::new();
        for (name, value) in body {
            let files =
                name.ends_with("Attachments") && value.as_array().is_some_and(|list| !list.is_empty());
            if OF_THE_QUESTION.contains(&name.as_str()) || files {
                self.notes.push(format!("left out `{name}` of the body: it belongs to that one question"));
            } else if name == "modelName" {
                self.notes.push("left out `modelName` of the body: it is DEFAULT_MODEL".into());
            } else {
                switches.insert(name, value);
            }
        }
        if !switches.is_empty() {
            // An apostrophe, written so, lets the text stand in single quotes.
            self.set("UPSTREAM_BODY", Value::Object(switches).to_string().replace('\'', "\\u0027"));
        }
    }
}

fn no_message(request: &Request) -> Mistake {
    Mistake::new(
        format!("this request sends no message: {} {}", request.method, request.url.path()),
        "send a message in the chat with the Network list open, and copy that request: its name is `new`, `responses` or `completions`",
    )
}
