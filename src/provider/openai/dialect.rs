//! What an upstream takes of the parameters of the OpenAI protocol, as far as its refusals have told.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::domain::error::{Error, Kind};

/// How a refusal says that a parameter is not taken, whatever its value, in lower case.
const NOT_TAKEN: [&str; 13] = [
    "not support",
    "n't support",
    "unsupported",
    "not allowed",
    "not permitted",
    "not implemented",
    "not available",
    "forbidden",
    "disabled",
    "unknown",
    "unrecognized",
    "unexpected",
    "must be false",
];

/// What the upstream takes, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialect {
    /// `stream`.
    pub streams: bool,
    /// `stream_options`.
    pub stream_options: bool,
    /// `max_completion_tokens` in place of `max_tokens`.
    pub completion_tokens: bool,
}

impl Dialect {
    /// What most take.
    pub const COMMON: Self = Dialect { streams: true, stream_options: true, completion_tokens: false };

    /// The dialect to ask in again after a request was refused whole for a parameter that can be left out
    /// or renamed.
    pub fn after(self, error: &Error) -> Option<Self> {
        if error.kind != Kind::UpstreamRejected || !error.is_refusal() {
            return None;
        }
        let field = |name: &str| error.report.as_ref()?.fields.get(name)?.as_str();
        let said = error.report.as_ref().and_then(|report| report.message.as_deref());
        let said = said.or(error.detail.as_deref()).unwrap_or_default().to_ascii_lowercase();
        let names = |parameter: &str| {
            let mut words = said.split(|c: char| !c.is_alphanumeric() && c != '_');
            field("param") == Some(parameter) || words.any(|word| word == parameter)
        };
        let code = field("code").unwrap_or_default();
        let is_not_taken = code.starts_with("un") || NOT_TAKEN.iter().any(|words| said.contains(words));
        let next = if names("stream_options") && self.stream_options {
            Dialect { stream_options: false, ..self }
        } else if names("max_tokens") && (names("max_completion_tokens") || is_not_taken) {
            Dialect { completion_tokens: true, ..self }
        } else if names("stream_options") || is_not_taken && (names("stream") || names("streaming")) {
            Dialect { streams: false, ..self }
        } else {
            self
        };
        (next != self).then_some(next)
    }

    /// A caller's own request in this dialect.
    pub fn written(self, request: &Bytes) -> Bytes {
        let mended = (self != Dialect::COMMON).then(|| self.mended(request)).flatten();
        mended.unwrap_or_else(|| request.clone())
    }

    /// Whether a caller's own request is another in this dialect than in that one.
    pub fn changes(self, request: &Bytes, before: Self) -> bool {
        self.mended(request) != before.mended(request)
    }

    fn mended(self, request: &Bytes) -> Option<Bytes> {
        let mut fields: BTreeMap<String, &RawValue> = serde_json::from_slice(request).ok()?;
        if !self.streams {
            fields.remove("stream");
        }
        if !self.streams || !self.stream_options {
            fields.remove("stream_options");
        }
        if self.completion_tokens
            && let Some(most) = fields.remove("max_tokens")
        {
            fields.entry("max_completion_tokens".into()).or_insert(most);
        }
        serde_json::to_vec(&fields).ok().map(Bytes::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::error::Report;
    use serde_json::{Value, json};

    const NO_OPTIONS: Dialect = Dialect { stream_options: false, ..Dialect::COMMON };
    const RENAMED: Dialect = Dialect { completion_tokens: true, ..Dialect::COMMON };
    const WHOLE: Dialect = Dialect { streams: false, ..Dialect::COMMON };

    fn refused(message: &str, fields: Value) -> Error {
        let report = Report {
            message: Some(message.into()),
            fields: fields.as_object().expect("fields").clone(),
            ..Report::default()
        };
        Error::new(Kind::UpstreamRejected, "").upstream_status(400).reported(report)
    }

    #[test]
    fn what_is_refused_is_left_out_or_renamed_and_nothing_else() {
        for (message, fields, next) in [
            ("body.stream_options: Extra inputs are not permitted", json!({}), Some(NO_OPTIONS)),
            ("Unknown parameter", json!({"param": "stream_options"}), Some(NO_OPTIONS)),
            ("'max_tokens' is not supported. Use 'max_completion_tokens' instead.", json!({}), Some(RENAMED)),
            ("No.", json!({"param": "max_tokens", "code": "unsupported_parameter"}), Some(RENAMED)),
            ("max_tokens is too large: 99999", json!({"param": "max_tokens", "code": "invalid_value"}), None),
            ("Streaming is not supported by this model", json!({}), Some(WHOLE)),
            ("stream must be false", json!({}), Some(WHOLE)),
            ("No.", json!({"param": "stream", "code": "unsupported_value"}), Some(WHOLE)),
            ("the stream was closed by its reader", json!({}), None),
            ("an image could not be read from its stream", json!({"param": "messages"}), None),
        ] {
            assert_eq!(Dialect::COMMON.after(&refused(message, fields)), next, "{message}");
        }
        let once_more = refused("stream_options is unknown", json!({}));
        assert_eq!(NO_OPTIONS.after(&once_more), Some(Dialect { streams: false, ..NO_OPTIONS }));
        assert_eq!(Dialect::COMMON.after(&Error::new(Kind::UpstreamError, "stream_options")), None);
    }

    #[test]
    fn a_callers_request_keeps_all_else() {
        let request = Bytes::from_static(
            br#"{"stream":true,"x":1e400,"max_tokens":5,"stream_options":{"include_usage":true}}"#,
        );
        let written = |dialect: Dialect| String::from_utf8(dialect.written(&request).to_vec()).expect("text");
        assert_eq!(Dialect::COMMON.written(&request), request);
        assert!(NO_OPTIONS.changes(&request, Dialect::COMMON));
        assert!(!NO_OPTIONS.changes(&Bytes::from_static(b"{\"b\":1,\"a\":2}"), Dialect::COMMON));
        assert_eq!(written(NO_OPTIONS), r#"{"max_tokens":5,"stream":true,"x":1e400}"#);
        assert_eq!(written(WHOLE), r#"{"max_tokens":5,"x":1e400}"#);
        assert!(written(RENAMED).starts_with(r#"{"max_completion_tokens":5,"stream":true"#));
    }
}
