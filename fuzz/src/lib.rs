//! What must hold for any bytes at all, as one function a target. Each panics where it does not.
//!
//! `fuzz_targets/` hands libFuzzer's bytes to them, `src/bin/replay.rs` the corpus and variations of it.
//! The first bytes of an input choose the cuts, the rest is what arrives.

use mirrorgate::api::openai::{chat, head};
use mirrorgate::api::tools::ChatRequest;
use mirrorgate::config::{self, Config};
use mirrorgate::http::body;
use mirrorgate::provider::framing::{LineTooLong, Lines, SseEvents};
use mirrorgate::provider::{fuzzing, report};

/// A target's name and function.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("framing", framing),
    ("openai", openai),
    ("anthropic", anthropic),
    ("web_chat", web_chat),
    ("relay", relay),
    ("reason", reason),
    ("request", request),
    ("redaction", redaction),
    ("config", config),
];

const CUTS: usize = 4;

/// The bytes cut at places that the first of them choose.
fn pieces(data: &[u8]) -> (&[u8], Vec<&[u8]>) {
    let (places, bytes) = data.split_at(CUTS.min(data.len()));
    let mut cuts: Vec<usize> = places.iter().map(|place| usize::from(*place) % (bytes.len() + 1)).collect();
    cuts.push(bytes.len());
    cuts.sort_unstable();
    let mut from = 0;
    let mut cut = |to: usize| &bytes[std::mem::replace(&mut from, to)..to];
    (bytes, cuts.into_iter().map(|to| cut(to)).collect())
}

/// Lines and events do not depend on the cuts.
pub fn framing(data: &[u8]) {
    fn read(pieces: &[&[u8]]) -> Result<(Vec<Vec<u8>>, Vec<Vec<u8>>), LineTooLong> {
        let (mut framing, mut sse) = (Lines::new(fuzzing::LINE_BYTES), SseEvents::new(fuzzing::LINE_BYTES));
        let (mut lines, mut events) = (Vec::new(), Vec::new());
        for piece in pieces {
            framing.feed(piece, |line| {
                lines.push(line.to_vec());
                events.extend(sse.line(line)?);
                Ok::<_, LineTooLong>(())
            })?;
        }
        if let Some(line) = framing.rest() {
            events.extend(sse.line(&line)?);
            lines.push(line);
        }
        events.extend(sse.end());
        Ok((lines, events))
    }
    let (bytes, pieces) = pieces(data);
    let whole = read(&[bytes]);
    assert_eq!(read(&pieces), whole);
    if let Ok((lines, _)) = whole {
        assert!(lines.iter().flatten().all(|byte| !matches!(byte, b'\n' | b'\r')));
    }
}

/// An answer means the same however it is cut, up to where a failure is noticed.
fn same(data: &[u8], read: impl Fn(&[&[u8]]) -> fuzzing::Outcome) {
    let (bytes, pieces) = pieces(data);
    let (whole, cut) = (read(&[bytes]), read(&pieces));
    let what = String::from_utf8_lossy(bytes);
    assert_eq!(cut.1, whole.1, "the end differs for {what:?}");
    if whole.1 == "ok" {
        assert_eq!(cut.0, whole.0, "the pieces differ for {what:?}");
    }
}

/// Completions of the OpenAI protocol: what goes on is JSON in UTF-8, one line a chunk.
pub fn openai(data: &[u8]) {
    same(data, |pieces| fuzzing::openai(pieces, 1));
    same(data, |pieces| fuzzing::openai(pieces, 2));
    let (bytes, _) = pieces(data);
    for fuzzing::Piece { wire, .. } in fuzzing::openai(&[bytes], 1).0 {
        assert!(!wire.contains(['\n', '\r']), "a chunk of several lines: {wire:?}");
        assert!(!wire.contains('\u{fffd}') || bytes_hold_it(bytes), "no UTF-8: {wire:?}");
    }
}

/// Messages of Anthropic's Messages API: what a caller gets is written elsewhere.
pub fn anthropic(data: &[u8]) {
    same(data, fuzzing::anthropic);
    let (bytes, _) = pieces(data);
    assert!(fuzzing::anthropic(&[bytes]).0.iter().all(|piece| piece.wire.is_empty()));
}

/// Answers of a web chat.
pub fn web_chat(data: &[u8]) {
    same(data, fuzzing::web_chat);
}

/// Whether the replacement character itself was sent, plain or escaped.
fn bytes_hold_it(bytes: &[u8]) -> bool {
    String::from_utf8(bytes.to_vec()).is_ok()
}

/// Event streams that are relayed: an event stays one.
pub fn relay(data: &[u8]) {
    same(data, fuzzing::relay);
    let (bytes, _) = pieces(data);
    for fuzzing::Piece { wire: block, .. } in fuzzing::relay(&[bytes]).0 {
        assert!(block.ends_with("\n\n") && !block.trim_end_matches('\n').contains("\n\n"), "{block:?}");
    }
}

/// How upstreams report failures: around their words, in JSON.
const FAILURES: [(&str, &str); 16] = [
    ("{\"error\":{\"message\":", "}}"),
    ("{\"error\":", "}"),
    ("[{\"error\":{\"code\":400,\"message\":", "}}]"),
    ("{\"object\":\"error\",\"code\":400,\"message\":", "}"),
    ("{\"type\":\"error\",\"error\":{\"type\":\"api_error\",\"message\":", "}}"),
    ("{\"detail\":", "}"),
    ("{\"detail\":[{\"loc\":[\"body\"],\"msg\":", "}]}"),
    ("{\"message\":{\"detail\":[{\"msg\":", "}]}}"),
    ("{\"code\":\"Failed\",\"message\":", "}"),
    ("{\"code\":1001,\"msg\":", "}"),
    ("{\"error_code\":17,\"error_msg\":", "}"),
    ("{\"choices\":null,\"base_resp\":{\"status_code\":1008,\"status_msg\":", "}}"),
    ("{\"success\":false,\"message\":", "}"),
    ("{\"errors\":[{\"code\":7003,\"message\":", "}]}"),
    ("{\"error_type\":\"X\",\"error_message\":", "}"),
    ("{\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"error\",\"error\":{\"message\":", "}}]}"),
];

/// A failure in any of the known shapes, with any words, wherever it stands: never a success. The first
/// byte chooses the shape.
pub fn reason(data: &[u8]) {
    let Some((choice, words)) = data.split_first() else { return };
    let words: String = String::from_utf8_lossy(words).chars().take(500).collect();
    // An error that says nothing is none.
    let says_nothing =
        ["none", "null", "ok", "success"].contains(&words.trim().to_ascii_lowercase().as_str());
    if words.trim().is_empty() || says_nothing {
        return;
    }
    let (before, after) = FAILURES[usize::from(*choice) % FAILURES.len()];
    let failure = format!("{before}{}{after}", serde_json::Value::from(words));
    let chunk =
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"},\"finish_reason\":\"stop\"}]}\n\n";
    let block = "data: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"x\"}}\n\n";
    let token = "{\"result\":{\"response\":{\"token\":\"x\",\"isSoftStop\":true}}}\n";
    let stopped = "data: {\"type\":\"message_stop\"}\n\n";
    for (end, what) in [
        (fuzzing::openai(&[failure.as_bytes()], 1).1, "a whole answer"),
        (fuzzing::anthropic(&[failure.as_bytes()]).1, "a whole message"),
        (fuzzing::openai(&[format!("data: {failure}\n\ndata: [DONE]\n\n").as_bytes()], 1).1, "an event"),
        (
            fuzzing::openai(&[format!("{chunk}data: {failure}\n\ndata: [DONE]\n\n").as_bytes()], 1).1,
            "after words",
        ),
        (
            fuzzing::openai(&[format!("{chunk}{failure}\n\ndata: [DONE]\n\n").as_bytes()], 1).1,
            "without a field",
        ),
        (
            fuzzing::anthropic(&[format!("{block}data: {failure}\n\n{stopped}").as_bytes()]).1,
            "within a message",
        ),
        (fuzzing::web_chat(&[format!("{token}{failure}\n").as_bytes()]).1, "a line"),
    ] {
        assert_ne!(end, "ok", "{what}: {failure}");
    }
}

/// Requests: read or refused, and a refusal does not repeat more than a little of what was sent.
pub fn request(data: &[u8]) {
    let errors = [body::parse::<ChatRequest>(data).err(), head(data).err(), chat(data).err()];
    for error in errors.into_iter().flatten() {
        assert!(error.caller_message().len() < 2000, "{} bytes of message", error.caller_message().len());
        assert!(!error.hint().is_empty());
    }
}

/// Words of an upstream, whose secret is the input's first line: it never comes out.
pub fn redaction(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (secret, words) = text.split_once('\n').unwrap_or(("", &text));
    let secrets: Vec<String> =
        Some(secret.to_string()).filter(|secret| secret.len() >= 8).into_iter().collect();
    let Some(clean) = report::clean(words, &secrets) else { return };
    assert!(clean.chars().count() <= 301 && !clean.chars().any(char::is_control), "{clean:?}");
    for secret in secrets.iter().filter(|secret| !"[redacted]…".contains(secret.as_str())) {
        assert!(!clean.contains(secret.as_str()), "{secret:?} in {clean:?}");
    }
}

/// Settings: `NAME=value` pairs, each ended by NUL; and the same bytes as a `.env` file.
pub fn config(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let pairs: Vec<(&str, &str)> = text.split('\0').filter_map(|pair| pair.split_once('=')).collect();
    load(&pairs);
    if let Ok(values) = config::parse_env_file(&text) {
        let pairs: Vec<_> = values.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        load(&pairs);
    }
}

fn load(pairs: &[(&str, &str)]) {
    let lookup = |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string());
    match Config::load(&lookup, pairs.iter().map(|(name, _)| name.to_string())) {
        Ok(config) => {
            assert!(config.gateway.auth || config.listen.host.is_loopback(), "open to everyone");
        }
        Err(problems) => {
            assert!(!problems.0.is_empty() && matches!(problems.exit_code(), 2 | 78));
            let shown = problems.to_string();
            for name in ["GATEWAY_API_KEYS", "UPSTREAM_API_KEY", "UPSTREAM_COOKIE", "SECRET_KEY"] {
                let secret = lookup(name).unwrap_or_default();
                // Of a made-up text only a long one without anything else in it is surely no word of ours.
                let odd = secret.len() >= 24 && secret.bytes().all(|byte| byte.is_ascii_alphanumeric());
                let elsewhere = pairs.iter().filter(|(_, value)| value.contains(&secret)).count() > 1;
                assert!(!odd || elsewhere || !shown.contains(&secret), "{name} in {shown:?}");
            }
        }
    }
}
