//! Reading what is set about the upstream.

use secrecy::SecretString;

use super::credentials::{is_header_value, is_token, parse_api_key, parse_cookie_line};
use super::reader::Reader;
use super::{Protocol, Timeouts, Upstream, upstream_url};

impl Reader<'_> {
    pub fn upstream(&mut self) -> Upstream {
        let protocol = self.choice(
            "UPSTREAM_PROTOCOL",
            &[Protocol::OpenAi, Protocol::WebChat, Protocol::Anthropic]
                .map(|protocol| (protocol.name(), protocol)),
            Protocol::OpenAi,
        );
        let url = self.get("UPSTREAM_URL").and_then(|text| {
            upstream_url::parse(&text)
                .map_err(|(what, advice)| self.problem("UPSTREAM_URL", what, advice))
                .ok()
        });
        if self.get("UPSTREAM_URL").is_none() {
            for name in ["UPSTREAM_API_KEY", "UPSTREAM_COOKIE"] {
                if self.get(name).is_some() {
                    self.problem(
                        name,
                        "is set while UPSTREAM_URL is not",
                        "set UPSTREAM_URL to the mirror's address, or remove this to try the demo upstream",
                    );
                }
            }
        }
        let total = self.seconds("REQUEST_TIMEOUT_SECONDS", 290.0);
        let timeouts = Timeouts {
            connect: self.seconds("CONNECT_TIMEOUT_SECONDS", 5.0),
            first_byte: self.seconds("FIRST_BYTE_TIMEOUT_SECONDS", 120.0),
            idle: self.seconds("IDLE_TIMEOUT_SECONDS", 60.0),
            total,
            long: self.seconds("LONG_ANSWER_TIMEOUT_SECONDS", 600.0).max(total),
        };
        Upstream {
            name: url.as_ref().map_or("demo".into(), |url| url.origin().ascii_serialization()),
            weight: 1,
            url,
            protocol,
            api_key: self.api_key(),
            cookie: self.cookie(),
            headers: self.headers(),
            body: self.body(protocol),
            default_model: self.get("DEFAULT_MODEL"),
            models: self.names("MODELS"),
            history_max_messages: self.number("HISTORY_MAX_MESSAGES", 100, 1, 100_000) as usize,
            history_max_bytes: self.number("HISTORY_MAX_BYTES", 256 << 10, 1024, 64 << 20) as usize,
            timeouts,
            answer_bytes: self.number("MAX_ANSWER_BYTES", 16 << 20, 1024, 1 << 30),
            line_bytes: self.number("MAX_LINE_BYTES", 1 << 20, 1024, 1 << 30) as usize,
            session_webhook: self.webhook(),
        }
    }

    fn api_key(&mut self) -> Option<SecretString> {
        let text = self.get("UPSTREAM_API_KEY")?;
        parse_api_key(&text).map_err(|(what, advice)| self.problem("UPSTREAM_API_KEY", what, advice)).ok()
    }

    fn cookie(&mut self) -> Option<SecretString> {
        let text = self.get("UPSTREAM_COOKIE")?;
        parse_cookie_line(&text).map_err(|(what, advice)| self.problem("UPSTREAM_COOKIE", what, advice)).ok()
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
        let text = self.get("UPSTREAM_HEADERS").unwrap_or_default();
        let mut headers = Vec::new();
        for (index, line) in text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty()) {
            let number = index + 1;
            let parts = line.split_once(':').map(|(name, value)| (name.trim(), value.trim()));
            let Some((name, value)) = parts.filter(|(name, value)| is_token(name) && is_header_value(value))
            else {
                self.problem(
                    "UPSTREAM_HEADERS",
                    format!("line {number} is not a header"),
                    "write one `Name: value` a line, such as `Origin: https://mirror.example.com`",
                );
                continue;
            };
            let name = name.to_ascii_lowercase();
            if name == "cookie" {
                self.problem(
                    "UPSTREAM_HEADERS",
                    format!("line {number} is a Cookie header"),
                    "set UPSTREAM_COOKIE instead: cookies are kept up to date from the answers",
                );
            } else if NOT_OURS.contains(&name.as_str()) {
                self.problem(
                    "UPSTREAM_HEADERS",
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
        let Some(text) = self.get("UPSTREAM_BODY") else { return Default::default() };
        if protocol != Protocol::WebChat {
            self.problem(
                "UPSTREAM_BODY",
                "is used with UPSTREAM_PROTOCOL=web-chat only",
                "remove it, or set UPSTREAM_PROTOCOL=web-chat",
            );
        }
        serde_json::from_str(&text).unwrap_or_else(|error| {
            self.problem(
                "UPSTREAM_BODY",
                format!("is not a JSON object (line {}, column {})", error.line(), error.column()),
                "give one JSON object, such as {\"temporary\": true}",
            );
            Default::default()
        })
    }
}
