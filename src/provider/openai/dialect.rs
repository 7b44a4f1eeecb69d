//! What an upstream takes of the parameters of the OpenAI protocol, as far as its refusals have told.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::domain::error::{Error, Kind};

/// How a refusal says that a parameter is not taken, whatever its value, in lower case.
const NOT_TAKEN: [&str; 15] = [
    "not support",
    "n't support",
    "unsupported",
    "not allowed",
    "extra inputs",
    "not implemented",
    "not available",
    "forbidden",
    "disabled",
    "unknown",
    "unrecognized",
    "unexpected",
    "must be false",
    "not permitted",
    "instead",
];

/// The one field of `stream_options` that is not a caller's.
const OUR_OPTION: &str = "include_usage";

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
    /// or renamed, and whether that holds for each request; `streams` says whether a stream was asked for.
    pub fn after(self, error: &Error, streams: bool) -> Option<(Self, bool)> {
        if error.kind != Kind::UpstreamRejected || !error.is_refusal() {
            return None;
        }
        let refusal = Refusal::of(error);
        let next = if streams && refusal.names("stream_options") && self.stream_options {
            Dialect { stream_options: false, ..self }
        } else if refusal.names("max_tokens") && refusal.is_not_taken && !self.completion_tokens {
            Dialect { completion_tokens: true, ..self }
        } else if refusal.names("max_completion_tokens") && refusal.is_not_taken && self.completion_tokens {
            Dialect { completion_tokens: false, ..self }
        } else if streams
            && (refusal.names("stream_options") || refusal.is_not_taken && refusal.names_stream())
        {
            Dialect { streams: false, ..self }
        } else {
            self
        };
        let lasts = next.streams || !refusal.is_of_this_request();
        (next != self).then_some((next, lasts))
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

/// How a request was refused.
struct Refusal {
    said: String,
    param: Option<String>,
    /// Whether it says that a parameter is not taken, whatever its value.
    is_not_taken: bool,
}

impl Refusal {
    fn of(error: &Error) -> Self {
        let report = error.report.as_deref();
        let field = |name: &str| report?.fields.get(name)?.as_str();
        let said = report.and_then(|report| report.message.as_deref()).or(error.detail.as_deref());
        let said = said.unwrap_or_default().to_ascii_lowercase();
        let code = field("code").unwrap_or_default();
        let is_code = ["unsupported", "unknown", "unrecognized"].iter().any(|word| code.starts_with(word));
        let is_bound = ["maximum", "too large", "at most"].iter().any(|words| said.contains(words));
        let is_not_taken = !is_bound && (is_code || NOT_TAKEN.iter().any(|words| said.contains(words)));
        Refusal { said, param: field("param").map(String::from), is_not_taken }
    }

    /// Whether it names this parameter, and not a field of it that a caller has set.
    fn names(&self, parameter: &str) -> bool {
        let is_end = |text: &str| {
            let field = text.strip_prefix('.').filter(|field| field.starts_with(char::is_alphabetic));
            field.is_none_or(|field| field.starts_with(OUR_OPTION))
                && !text.starts_with(|c: char| c.is_alphanumeric() || c == '_')
        };
        let is_begin = |text: &str| !text.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let is_named =
            |(at, name): (usize, &str)| is_begin(&self.said[..at]) && is_end(&self.said[at + name.len()..]);
        self.param.as_deref() == Some(parameter) || self.said.match_indices(parameter).any(is_named)
    }

    fn names_stream(&self) -> bool {
        self.names("stream") || self.names("streaming")
    }

    /// Whether it may be for something else in the request too, which another request need not have.
    fn is_of_this_request(&self) -> bool {
        let said = ["with this model", "by this model", "for this model"]
            .iter()
            .fold(self.said.clone(), |said, model| said.replace(model, ""));
        [" with ", " when ", " for ", "tool", "function", "logprob", "audio", "json", "image", "format"]
            .iter()
            .any(|what| said.contains(what))
    }
}

/// What is known of each model. Those that one upstream has differ.
#[derive(Default)]
pub struct Dialects(RefCell<HashMap<String, Dialect>>);

/// Of how many models something is known; callers name them as they like.
const MAX_MODELS: usize = 256;

impl Dialects {
    /// The dialect of a model, or of questions that name none.
    pub fn of(&self, model: Option<&str>) -> Dialect {
        self.0.borrow().get(model.unwrap_or_default()).copied().unwrap_or(Dialect::COMMON)
    }

    /// Remembers it.
    pub fn learn(&self, model: Option<&str>, dialect: Dialect) {
        if self.of(model) != dialect {
            let mut known = self.0.borrow_mut();
            if known.len() >= MAX_MODELS {
                known.clear();
            }
            known.insert(model.unwrap_or_default().into(), dialect);
        }
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
            ("'max_tokens' or 'max_completion_tokens' is too large: 99999", json!({}), None),
            ("Unknown parameter: 'stream_options.include_obfuscation'.", json!({}), None),
            (
                "body.stream_options.include_usage: Extra inputs are not permitted",
                json!({}),
                Some(NO_OPTIONS),
            ),
        ] {
            let told = Dialect::COMMON.after(&refused(message, fields), true);
            assert_eq!(told, next.map(|next| (next, true)), "{message}");
        }
        let once_more = refused("stream_options is unknown", json!({}));
        let whole = Dialect { streams: false, ..NO_OPTIONS };
        assert_eq!(NO_OPTIONS.after(&once_more, true), Some((whole, true)));
        let back = refused("max_completion_tokens: Extra inputs are not permitted", json!({}));
        assert_eq!(RENAMED.after(&back, true), Some((Dialect::COMMON, true)));
        for message in [
            "This model doesn't support tool use in streaming mode.",
            "JSON mode does not support streaming",
            "Streaming is not supported with n > 1",
        ] {
            assert_eq!(
                Dialect::COMMON.after(&refused(message, json!({})), true),
                Some((WHOLE, false)),
                "{message}"
            );
        }
        let always = refused("Unsupported value: 'stream' does not support true with this model", json!({}));
        assert_eq!(Dialect::COMMON.after(&always, true), Some((WHOLE, true)));
        let bound = "max_tokens of 99999 is not supported by this model; the maximum is 4096";
        assert_eq!(Dialect::COMMON.after(&refused(bound, json!({})), true), None);
        // A caller who asks for no stream is told of his own mistake.
        let own = refused("'stream_options' is only allowed when 'stream' is enabled", json!({}));
        assert_eq!(Dialect::COMMON.after(&own, false), None);
        assert_eq!(Dialect::COMMON.after(&Error::new(Kind::UpstreamError, "stream_options"), true), None);
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
