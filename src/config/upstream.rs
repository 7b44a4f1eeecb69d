//! What is set about an upstream.

use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::credentials::{is_header_value, is_token, parse_api_key, parse_cookie_line};
use super::reader::{Reader, list};
use super::settings::{
    CONNECT_TIMEOUT_SECONDS, DEFAULT_MODEL, FIRST_BYTE_TIMEOUT_SECONDS, HISTORY_MAX_BYTES,
    HISTORY_MAX_MESSAGES, IDLE_TIMEOUT_SECONDS, LONG_ANSWER_TIMEOUT_SECONDS, MAX_ANSWER_BYTES, MODELS,
    REQUEST_TIMEOUT_SECONDS, SESSION_WEBHOOK_URL, TOOL_EMULATION, UPSTREAM_API_KEY, UPSTREAM_BODY,
    UPSTREAM_COOKIE, UPSTREAM_HEADERS, UPSTREAM_PROTOCOL, UPSTREAM_URL,
};
use super::{Protocol, upstream_url};

/// The mirror.
#[derive(Clone)]
pub struct Upstream {
    /// What it is called: by the file of upstreams, else its scheme, host and port.
    pub name: Arc<str>,
    /// How often it is chosen beside the others.
    pub weight: u32,
    /// `UPSTREAM_URL`, which may be a base or a full path of the protocol; `None` for the demo.
    pub url: Option<Url>,
    /// `UPSTREAM_PROTOCOL`
    pub protocol: Protocol,
    /// `UPSTREAM_API_KEY`
    pub api_key: Option<SecretString>,
    /// `UPSTREAM_COOKIE`
    pub cookie: Option<SecretString>,
    /// `UPSTREAM_HEADERS`
    pub headers: Vec<(String, SecretString)>,
    /// `UPSTREAM_BODY`
    pub body: serde_json::Map<String, serde_json::Value>,
    /// `TOOL_EMULATION`
    pub tool_emulation: bool,
    /// `DEFAULT_MODEL`
    pub default_model: Option<String>,
    /// `MODELS`
    pub models: Vec<String>,
    /// `HISTORY_MAX_MESSAGES`
    pub history_max_messages: usize,
    /// `HISTORY_MAX_BYTES`
    pub history_max_bytes: usize,
    /// How long to wait for it.
    pub timeouts: Timeouts,
    /// `MAX_ANSWER_BYTES`
    pub answer_bytes: u64,
    /// `SESSION_WEBHOOK_URL`
    pub session_webhook: Option<SecretString>,
}

/// How long to wait for the upstream.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// `CONNECT_TIMEOUT_SECONDS`
    pub connect: Duration,
    /// `FIRST_BYTE_TIMEOUT_SECONDS`
    pub first_byte: Duration,
    /// `IDLE_TIMEOUT_SECONDS`
    pub idle: Duration,
    /// `REQUEST_TIMEOUT_SECONDS`
    pub total: Duration,
    /// `LONG_ANSWER_TIMEOUT_SECONDS`, at least `total`.
    pub long: Duration,
}

impl Reader<'_> {
    pub fn upstream(&mut self) -> Upstream {
        let protocol = self.read(&UPSTREAM_PROTOCOL);
        let url = self.url();
        let total = self.read(&REQUEST_TIMEOUT_SECONDS);
        let timeouts = Timeouts {
            connect: self.read(&CONNECT_TIMEOUT_SECONDS),
            first_byte: self.read(&FIRST_BYTE_TIMEOUT_SECONDS),
            idle: self.read(&IDLE_TIMEOUT_SECONDS),
            total,
            long: self.read(&LONG_ANSWER_TIMEOUT_SECONDS).max(total),
        };
        Upstream {
            name: url.as_ref().map_or("demo".into(), |url| url.origin().ascii_serialization().into()),
            weight: 1,
            url,
            protocol,
            api_key: self.api_key(),
            cookie: self.cookie(),
            headers: self.headers(),
            body: self.body(protocol),
            tool_emulation: self.read(&TOOL_EMULATION),
            default_model: self.read(&DEFAULT_MODEL),
            models: list(&self.read(&MODELS).unwrap_or_default()),
            history_max_messages: self.read(&HISTORY_MAX_MESSAGES),
            history_max_bytes: self.read(&HISTORY_MAX_BYTES),
            timeouts,
            answer_bytes: self.read(&MAX_ANSWER_BYTES),
            session_webhook: self.webhook(),
        }
    }

    fn url(&mut self) -> Option<Url> {
        let Some(text) = self.read(&UPSTREAM_URL) else {
            for credential in [&UPSTREAM_API_KEY, &UPSTREAM_COOKIE] {
                if self.is_set(credential) {
                    self.problem(
                        credential.name,
                        "is set while UPSTREAM_URL is not",
                        "set UPSTREAM_URL to the mirror's address, or remove this to try the demo upstream",
                    );
                }
            }
            return None;
        };
        upstream_url::parse(&text)
            .map_err(|(what, advice)| self.problem(UPSTREAM_URL.name, what, advice))
            .ok()
    }

    fn api_key(&mut self) -> Option<SecretString> {
        let text = self.read(&UPSTREAM_API_KEY)?;
        parse_api_key(&text).map_err(|(what, advice)| self.problem(UPSTREAM_API_KEY.name, what, advice)).ok()
    }

    fn cookie(&mut self) -> Option<SecretString> {
        let text = self.read(&UPSTREAM_COOKIE)?;
        parse_cookie_line(&text)
            .map_err(|(what, advice)| self.problem(UPSTREAM_COOKIE.name, what, advice))
            .ok()
    }

    fn headers(&mut self) -> Vec<(String, SecretString)> {
        const NOT_OURS: &[&str] = &[
            "host",
            "content-length",
            "content-type",
            "transfer-encoding",
            "connection",
            "accept-encoding",
            "keep-alive",
            "te",
            "trailer",
            "upgrade",
            "expect",
            "proxy-connection",
        ];
        let text = self.read(&UPSTREAM_HEADERS).unwrap_or_default();
        let mut headers = Vec::new();
        for (index, line) in text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty()) {
            let number = index + 1;
            let parts = line.split_once(':').map(|(name, value)| (name.trim(), value.trim()));
            let Some((name, value)) = parts.filter(|(name, value)| is_token(name) && is_header_value(value))
            else {
                self.problem(
                    UPSTREAM_HEADERS.name,
                    format!("line {number} is not a header"),
                    "write one `Name: value` a line, such as `Origin: https://mirror.example.com`",
                );
                continue;
            };
            let name = name.to_ascii_lowercase();
            if name == "cookie" {
                self.problem(
                    UPSTREAM_HEADERS.name,
                    format!("line {number} is a Cookie header"),
                    "set UPSTREAM_COOKIE instead: cookies are kept up to date from the answers",
                );
            } else if NOT_OURS.contains(&name.as_str()) {
                self.problem(
                    UPSTREAM_HEADERS.name,
                    format!("line {number}: `{name}` is set by the connection itself"),
                    "remove the line",
                );
            } else {
                headers.push((name, SecretString::from(value)));
            }
        }
        headers
    }

    fn body(&mut self, protocol: Protocol) -> serde_json::Map<String, serde_json::Value> {
        let Some(text) = self.read(&UPSTREAM_BODY) else { return Default::default() };
        if protocol != Protocol::WebChat {
            self.problem(
                UPSTREAM_BODY.name,
                "is used with UPSTREAM_PROTOCOL=web-chat only",
                "remove it, or set UPSTREAM_PROTOCOL=web-chat",
            );
        }
        serde_json::from_str(&text).unwrap_or_else(|error| {
            self.problem(
                UPSTREAM_BODY.name,
                format!("is not a JSON object (line {}, column {})", error.line(), error.column()),
                "give one JSON object, such as {\"temporary\": true}",
            );
            Default::default()
        })
    }

    fn webhook(&mut self) -> Option<SecretString> {
        let url = self.read(&SESSION_WEBHOOK_URL).map(SecretString::from)?;
        if !Url::parse(url.expose_secret()).is_ok_and(|url| matches!(url.scheme(), "http" | "https")) {
            self.problem(
                SESSION_WEBHOOK_URL.name,
                "is not an http or https URL",
                "give the whole address that takes the POST",
            );
        }
        Some(url)
    }
}
