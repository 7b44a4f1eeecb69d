//! Random answers of every protocol, and what each must come to. The tests of the decoders take them too.

use proptest::prelude::*;
use serde_json::{Value, json};

/// A piece of an answer.
#[derive(Debug, Clone)]
pub enum Piece {
    Words(String),
    Reasoning(String),
    /// Something that says nothing.
    Noise(usize),
    /// Words that come broken: cut off after, or before, so many thousandths of their bytes.
    Broken(String, usize, bool),
    /// The upstream reports that it fails, in one of its ways.
    Failure(usize),
}

/// How an answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// As the protocol has it.
    Proper,
    /// By saying why it stops, and no more.
    Stopped,
    /// Not at all.
    Cut,
}

/// A protocol that answers come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    OpenAi,
    Anthropic,
    WebChat,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Stream {
    pub pieces: Vec<Piece>,
    pub end: End,
    /// Whether each piece says why the answer stops, as some upstreams have it.
    pub stops_always: bool,
}

/// Any answer.
pub fn stream() -> impl Strategy<Value = Stream> {
    let words = || "[a-c\\\\\"\n {}你🙂é]{1,6}";
    let piece = prop_oneof![
        12 => words().prop_map(Piece::Words),
        3 => words().prop_map(Piece::Reasoning),
        3 => (0usize..8).prop_map(Piece::Noise),
        1 => (words(), 1usize..1000, any::<bool>()).prop_map(|(words, at, end)| Piece::Broken(words, at, end)),
        1 => (0usize..8).prop_map(Piece::Failure),
    ];
    let end = prop_oneof![4 => Just(End::Proper), 2 => Just(End::Stopped), 1 => Just(End::Cut)];
    (prop::collection::vec(piece, 1..10), end, prop::bool::weighted(0.2))
        .prop_map(|(pieces, end, stops_always)| Stream { pieces, end, stops_always })
}

impl Stream {
    /// All words of the answer.
    pub fn words(&self) -> String {
        let words = |piece: &Piece| match piece {
            Piece::Words(words) | Piece::Broken(words, ..) => words.clone(),
            _ => String::new(),
        };
        self.pieces.iter().map(words).collect()
    }

    /// The words before the first piece that is broken or a failure: a part of the answer holds no others.
    pub fn good_words(&self) -> String {
        let good = self.pieces.iter().take_while(|piece| !piece.is_bad()).cloned().collect();
        Stream { pieces: good, ..self.clone() }.words()
    }

    /// Whether it must fail: something of it is broken, or its protocol's end is missing.
    pub fn fails(&self, protocol: Protocol) -> bool {
        let ended = match (self.end, protocol) {
            (End::Proper, _) => true,
            (End::Stopped, _) => true,
            (End::Cut, Protocol::OpenAi) => self.stops_always && self.pieces.iter().any(Piece::can_stop),
            (End::Cut, _) => false,
        };
        !ended || self.pieces.iter().any(Piece::is_bad)
    }

    /// Its bytes.
    pub fn bytes(&self, protocol: Protocol) -> Vec<u8> {
        let stop = self.stops_always.then_some("stop");
        let mut bytes = match protocol {
            Protocol::OpenAi | Protocol::WebChat => Vec::new(),
            Protocol::Anthropic => event(
                &json!({"type": "message_start", "message": {"id": "m", "content": [], "usage": {"input_tokens": 1}}}),
            ),
        };
        for piece in &self.pieces {
            bytes.extend(piece.bytes(protocol, stop));
        }
        bytes.extend(self.end.bytes(protocol));
        bytes
    }
}

impl Piece {
    fn is_bad(&self) -> bool {
        matches!(self, Piece::Broken(..) | Piece::Failure(_))
    }

    fn can_stop(&self) -> bool {
        matches!(self, Piece::Words(_) | Piece::Reasoning(_))
    }

    fn bytes(&self, protocol: Protocol, stop: Option<&str>) -> Vec<u8> {
        let said = |words: &str, thinks: bool| match protocol {
            Protocol::OpenAi => {
                let key = if thinks { "reasoning_content" } else { "content" };
                json!({"choices": [{"index": 0, "delta": {key: words}, "finish_reason": stop}]})
            }
            Protocol::Anthropic => {
                let (kind, key) =
                    if thinks { ("thinking_delta", "thinking") } else { ("text_delta", "text") };
                json!({"type": "content_block_delta", "index": 0, "delta": {"type": kind, key: words}})
            }
            Protocol::WebChat => json!({"result": {"response": {"token": words, "isThinking": thinks}}}),
        };
        let framed = |json: &[u8]| match protocol {
            Protocol::WebChat => [json, b"\n"].concat(),
            _ => [b"data: ", json, b"\n\n"].concat(),
        };
        match self {
            Piece::Words(words) => framed(said(words, false).to_string().as_bytes()),
            Piece::Reasoning(words) => framed(said(words, true).to_string().as_bytes()),
            Piece::Noise(which) => noise(protocol, *which),
            Piece::Broken(words, at, keeps_end) => {
                let json = said(words, false).to_string();
                let at = (json.len() * at / 1000).clamp(1, json.len() - 1);
                framed(if *keeps_end { &json.as_bytes()[at..] } else { &json.as_bytes()[..at] })
            }
            Piece::Failure(which) => failure(protocol, *which),
        }
    }
}

impl End {
    fn bytes(self, protocol: Protocol) -> Vec<u8> {
        let stop = match protocol {
            Protocol::OpenAi => {
                event(&json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
            }
            Protocol::Anthropic => event(
                &json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}}),
            ),
            Protocol::WebChat => line(&json!({"result": {"response": {"token": "", "isSoftStop": true}}})),
        };
        let last = match protocol {
            Protocol::OpenAi => b"data: [DONE]\n\n".to_vec(),
            Protocol::Anthropic => event(&json!({"type": "message_stop"})),
            Protocol::WebChat => line(&json!({"result": {"response": {"modelResponse": {"message": ""}}}})),
        };
        match self {
            End::Proper => [stop, last].concat(),
            End::Stopped => stop,
            End::Cut => Vec::new(),
        }
    }
}

fn event(value: &Value) -> Vec<u8> {
    format!("data: {value}\n\n").into_bytes()
}

fn line(value: &Value) -> Vec<u8> {
    format!("{value}\n").into_bytes()
}

fn noise(protocol: Protocol, which: usize) -> Vec<u8> {
    let all: &[&str] = match protocol {
        Protocol::OpenAi => {
            &[": ping\n\n", "data: ping\n\n", "event: x\r\nid: 1\r\n\r\n", "data: {\"choices\":[]}\n\n"]
        }
        Protocol::Anthropic => {
            &[": ping\n\n", "event: ping\ndata: {\"type\":\"ping\"}\n\n", "data: {\"type\":\"new\"}\n\n"]
        }
        Protocol::WebChat => {
            &["\n", "\r\n", "{\"result\":{\"response\":{\"uiLayout\":{}}}}\n", "{\"new\":1}\n"]
        }
    };
    all[which % all.len()].as_bytes().to_vec()
}

fn failure(protocol: Protocol, which: usize) -> Vec<u8> {
    let sse: &[&str] = &[
        "data: {\"error\":{\"message\":\"boom\"}}\n\n",
        "data: {\"object\":\"error\",\"message\":\"boom\",\"code\":400}\n\n",
        "error: {\"code\":500,\"message\":\"boom\"}\n\n",
        "{\n \"error\": {\"message\":\"boom\"}\n}\n\n",
        "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"boom\"}}\n\n",
        "data: {\"code\":\"Throttling\",\"message\":\"boom\"}\n\n",
    ];
    let lines: &[&str] = &[
        "{\"error\":{\"message\":\"boom\",\"code\":8}}\n",
        "{\"result\":{\"error\":{\"message\":\"boom\"}}}\n",
        "{\"code\":1001,\"msg\":\"boom\"}\n",
        "[{\"error\":{\"message\":\"boom\"}}]\n",
        "{\"result\":{\"response\":{\"error\":{\"message\":\"boom\"}}}}\n",
        "{\"result\":{\"response\":{\"modelResponse\":{\"message\":\"x\",\"streamErrors\":[{\"message\":\"boom\"}]}}}}\n",
    ];
    let all = if protocol == Protocol::WebChat { lines } else { sse };
    all[which % all.len()].as_bytes().to_vec()
}
