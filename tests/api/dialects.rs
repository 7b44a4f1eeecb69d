//! What real servers answered oddly, as literal bytes, and what each face must make of it. A new report
//! is one more [`Case`]: its bytes, and the right value.

mod anthropic;
mod web_chat;

use serde_json::{Value, json};

use crate::helpers::{KEY, TestApp, spawn_before};
use crate::upstream::{Fake, Step, chunked, response, send};

/// The face whose codes are the gateway's own, whatever the upstream says.
const CHAT: &str = "/api/chat";

/// What every face must give.
enum Right {
    /// A success with this text.
    Text(&'static str),
    /// A failure with this code, and with these words of the upstream.
    Fails(&'static str, &'static str),
    /// A success with these tool calls, on `/v1` alone: names and arguments.
    Calls(&'static [(&'static str, &'static str)]),
}

/// One answer.
struct Case {
    /// What the person met.
    met: &'static str,
    protocol: &'static str,
    /// The answer as a stream: SSE, or a web chat's lines.
    stream: &'static str,
    /// The answer where no stream was asked for; empty where the stream comes all the same.
    whole: &'static str,
    right: Right,
}

const fn openai(met: &'static str, stream: &'static str, whole: &'static str, right: Right) -> Case {
    Case { met, protocol: "openai", stream, whole, right }
}

const fn anthropic(met: &'static str, stream: &'static str, right: Right) -> Case {
    Case { met, protocol: "anthropic", stream, whole: "", right }
}

const fn web_chat(met: &'static str, stream: &'static str, right: Right) -> Case {
    Case { met, protocol: "web-chat", stream, whole: "", right }
}

use Right::{Calls, Fails, Text};

const HELLO: &str = r#"data: {"id":"x","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":"Hello"},"finish_reason":null}]}

"#;

/// Cases in which the stream begins with the word Hello.
const AFTER_A_WORD: &[Case] = &[
    openai(
        "vLLM reports an error after words, and then [DONE]",
        "data: {\"object\":\"error\",\"message\":\"boom ctx\",\"type\":\"BadRequestError\",\"code\":400}\n\ndata: [DONE]\n\n",
        "",
        Fails("upstream_rejected", "boom ctx"),
    ),
    openai(
        "DashScope reports one by code and message",
        "data: {\"code\":\"DataInspectionFailed\",\"message\":\"boom ctx\",\"request_id\":\"r\"}\n\ndata: [DONE]\n\n",
        "",
        Fails("upstream_rejected", "boom ctx"),
    ),
    openai(
        "a provider behind OpenRouter dies, told beside the choice",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\"},\"finish_reason\":\"error\",\"error\":{\"code\":502,\"message\":\"boom ctx\"}}]}\n\ndata: [DONE]\n\n",
        r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"Hello"},"finish_reason":"error","error":{"code":502,"message":"boom ctx"}}]}"#,
        Fails("upstream_error", "boom ctx"),
    ),
    openai(
        "only the finish_reason says that the answer broke off",
        "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"network_error\"}]}\n\ndata: [DONE]\n\n",
        r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"Hello"},"finish_reason":"network_error"}]}"#,
        Fails("upstream_error", "network_error"),
    ),
    openai(
        "llama.cpp reports an error in a field of that name",
        "error: {\"code\":500,\"message\":\"boom ctx\",\"type\":\"server_error\"}\n\ndata: [DONE]\n\n",
        "",
        Fails("upstream_error", "boom ctx"),
    ),
    openai(
        "an error stands there over several lines, without a field",
        "{\n  \"error\": {\n    \"message\": \"boom ctx\"\n  }\n}\n\n",
        "",
        Fails("upstream_error", "boom ctx"),
    ),
    openai(
        "a content comes as an object, and one in parts",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":{\"type\":\"text\",\"text\":\" brave\"}}}]}\n\ndata: {\"choices\":[{\"index\":0,\"delta\":{\"content\":[{\"type\":\"text\",\"text\":\" world\"}]},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
        "",
        Text("Hello brave world"),
    ),
    openai(
        "the last message is the whole answer in other words",
        "data: {\"object\":\"chat.completion\",\"choices\":[{\"index\":0,\"finish_reason\":\"stop\",\"delta\":{},\"message\":{\"role\":\"assistant\",\"content\":\"Hallo\"}}]}\n\ndata: [DONE]\n\n",
        "",
        Text("Hello"),
    ),
    openai(
        "words are spoken as well",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"audio\":{\"transcript\":\"Hello\"}},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
        "",
        Text("Hello"),
    ),
    openai(
        "a part has its address under the name of its type",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":[{\"type\":\"text\",\"text\":\": \"},{\"type\":\"document_url\",\"document_url\":\"https://a.example/x\"},{\"type\":\"file\",\"file\":{\"file_id\":\"f\"}}]},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
        "",
        Text("Hello: https://a.example/x"),
    ),
    openai(
        "a key comes twice in a chunk",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"reasoning_content\":\"hm\",\"content\":\" world\",\"reasoning_content\":\"hm\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
        "",
        Text("Hello world"),
    ),
    openai(
        "a chunk in the middle is broken",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\" brave\"\n\ndata: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\" world\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
        "",
        Fails("upstream_invalid", ""),
    ),
    openai(
        "a chunk after a finish_reason, which stands on every one, is broken",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\" brave\"},\"finish_reason\":\"stop\"}]}\n\ndata: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\" world\n\ndata: [DONE]\n\n",
        "",
        Fails("upstream_invalid", ""),
    ),
    openai(
        "MiniMax reports an error beside a choice",
        "data: {\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}],\"base_resp\":{\"status_code\":1027,\"status_msg\":\"boom ctx\"}}\n\ndata: [DONE]\n\n",
        r#"{"object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"Hello"},"finish_reason":"stop"}],"base_resp":{"status_code":1027,"status_msg":"boom ctx"}}"#,
        Fails("upstream_error", "boom ctx"),
    ),
    openai(
        "a success that is none stands beside the last choice",
        "data: {\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}],\"success\":false,\"message\":\"boom ctx\"}\n\ndata: [DONE]\n\n",
        r#"{"object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"Hello"},"finish_reason":"stop"}],"success":false,"message":"boom ctx"}"#,
        Fails("upstream_error", "boom ctx"),
    ),
    openai(
        "Spark wraps its failure in a header",
        "data: {\"header\":{\"code\":10013,\"message\":\"boom ctx\",\"sid\":\"x\"}}\n\ndata: [DONE]\n\n",
        "",
        Fails("upstream_error", "boom ctx"),
    ),
    openai(
        "an event without choices says something of another protocol",
        "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\" brave\"}]}}]}\n\ndata: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\" world\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
        "",
        Fails("upstream_invalid", ""),
    ),
    openai(
        "Mistral's thoughts are parts of a content, and a reference has no words",
        "data: {\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":{\"content\":[{\"type\":\"thinking\",\"thinking\":[{\"type\":\"text\",\"text\":\"hm\"}]},{\"type\":\"reference\",\"reference_ids\":[1]},{\"type\":\"text\",\"text\":\" brave\"}]}}]}\n\ndata: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\" world\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
        r#"{"object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":[{"type":"thinking","thinking":[{"type":"text","text":"hm"}]},{"type":"text","text":"Hello brave"},{"type":"text","text":" world"}]},"finish_reason":"stop"}]}"#,
        Text("Hello brave world"),
    ),
    openai(
        "a part of a content is of no known form",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":[{\"type\":\"new\",\"said\":\" brave\"}]},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
        "",
        Fails("upstream_invalid", ""),
    ),
    openai(
        "words stand in a message, in a text and in a delta that is a text",
        "data: {\"choices\":[{\"index\":0,\"message\":{\"content\":\" bra\"}}]}\n\ndata: {\"choices\":[{\"index\":0,\"text\":\"ve\"}]}\n\ndata: {\"choices\":{\"index\":0,\"delta\":\" world\",\"finish_reason\":\"stop\"}}\n\ndata: [DONE]\n\n",
        "",
        Text("Hello brave world"),
    ),
    openai(
        "an error that says nothing stands beside the words",
        "data: {\"object\":\"chat.completion.chunk\",\"error\":{\"message\":null,\"code\":null},\"choices\":[{\"index\":0,\"delta\":{\"content\":\" world\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
        r#"{"error":{"message":null,"code":null},"choices":[{"index":0,"message":{"role":"assistant","content":"Hello world"},"finish_reason":"stop"}]}"#,
        Text("Hello world"),
    ),
    openai(
        "an event called an error has plain words",
        "event: error\ndata: boom ctx\n\ndata: [DONE]\n\n",
        "",
        Fails("upstream_error", "boom ctx"),
    ),
    openai(
        "a field called an error has plain words",
        "error: boom ctx\n\ndata: [DONE]\n\n",
        "",
        Fails("upstream_error", "boom ctx"),
    ),
    openai(
        "an event called an error has a message alone",
        "event: error\ndata: {\"message\":\"boom ctx\"}\n\ndata: [DONE]\n\n",
        "",
        Fails("upstream_error", "boom ctx"),
    ),
    openai(
        "two choices of a chunk have one index",
        "data: {\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" brave\"}},{\"index\":0,\"delta\":{\"content\":\" world\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
        "",
        Text("Hello brave world"),
    ),
    openai(
        "the last chunk has the whole message once more",
        "data: {\"choices\":[{\"index\":0,\"delta\":{},\"message\":{\"role\":\"assistant\",\"content\":\"Hello\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
        "",
        Text("Hello"),
    ),
    openai(
        "MiniMax's last chunk is the whole answer once more, without a delta",
        "data: {\"object\":\"chat.completion\",\"choices\":[{\"index\":0,\"finish_reason\":\"stop\",\"message\":{\"role\":\"assistant\",\"content\":\"Hello\"}}],\"base_resp\":{\"status_code\":0,\"status_msg\":\"\"}}\n\n",
        "",
        Text("Hello"),
    ),
    openai(
        "each chunk has the whole message so far",
        "data: {\"choices\":[{\"index\":0,\"message\":{\"content\":\"Hello brave\"}}]}\n\ndata: {\"choices\":[{\"index\":0,\"message\":{\"content\":\"Hello brave world\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
        "",
        Text("Hello brave world"),
    ),
    openai(
        "a finish_reason that is none is written as a text",
        "data: {\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" brave\"},\"finish_reason\":\"null\"}]}\n\ndata: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\" world\"},\"finish_reason\":\"None\"}]}\n\ndata: [DONE]\n\n",
        "",
        Text("Hello brave world"),
    ),
    openai(
        "a body ends after a finish_reason that is none",
        "data: {\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" wor\"},\"finish_reason\":\"null\"}]}\n\n",
        "",
        Fails("upstream_truncated", ""),
    ),
    openai(
        "an error's type and words stand beside the last choice",
        "data: {\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}],\"error_type\":\"BadRequestError\",\"error_message\":\"boom ctx\"}\n\ndata: [DONE]\n\n",
        r#"{"object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"Hello"},"finish_reason":"stop"}],"error_type":"BadRequestError","error_message":"boom ctx"}"#,
        Fails("upstream_rejected", "boom ctx"),
    ),
    openai(
        "Groq says in x_groq why it stopped early",
        "data: {\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}],\"x_groq\":{\"id\":\"r\",\"error\":\"over_capacity ctx\"}}\n\ndata: [DONE]\n\n",
        "",
        Fails("upstream_error", "over_capacity ctx"),
    ),
    openai(
        "an event has the code of a failure and no words",
        "data: {\"code\":429,\"data\":null}\n\ndata: [DONE]\n\n",
        "",
        Fails("upstream_rate_limited", ""),
    ),
    openai(
        "an event has the words of an error alone",
        "data: {\"error_msg\":\"boom ctx\"}\n\ndata: [DONE]\n\n",
        "",
        Fails("upstream_error", "boom ctx"),
    ),
    openai(
        "an event is called an exception",
        "event: exception\ndata: {\"message\":\"boom ctx\"}\n\ndata: [DONE]\n\n",
        "",
        Fails("upstream_error", "boom ctx"),
    ),
    openai(
        "a list with an error stands there without a field, over several lines",
        "[{\n  \"error\": {\"code\": 503, \"message\": \"boom ctx\"}\n}]\n\n",
        "",
        Fails("upstream_error", "boom ctx"),
    ),
    openai(
        "only [DONE] ends an answer in which something was no chunk",
        "data: {\"kind\":\"new\"}\n\ndata: [DONE]\n\n",
        "",
        Fails("upstream_truncated", ""),
    ),
    openai(
        "codes and words of success stand beside the choices, and a sign of life between them",
        "data: {\"type\":\"heartbeat\",\"message\":\"still here\"}\n\ndata: {\"object\":\"chat.completion.chunk\",\"code\":\"000000\",\"message\":\"操作成功\",\"error\":\"no error\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" world\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
        r#"{"object":"chat.completion","code":20000,"msg":"成功","choices":[{"index":0,"message":{"role":"assistant","content":"Hello world"},"finish_reason":"stop"}]}"#,
        Text("Hello world"),
    ),
    openai(
        "an image comes after words",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"images\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"https://a.example/x.png\"}}]},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
        r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"Hello","images":[{"type":"image_url","image_url":{"url":"https://a.example/x.png"}}]},"finish_reason":"stop"}]}"#,
        Text("Hello"),
    ),
    openai(
        "a chunk lost its beginning",
        "data: \"delta\":{\"content\":\" brave\"}}]}\n\ndata: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\" world\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
        "",
        Fails("upstream_invalid", ""),
    ),
];

const CASES: &[Case] = &[
    openai(
        "a firewall's page asks for a browser check, with a good status",
        "<!doctype html>\n<html><head>\n<title>Just a moment...</title></head><body>login</body></html>",
        "<!doctype html>\n<html><head>\n<title>Just a moment...</title></head><body>login</body></html>",
        Fails("upstream_challenge", ""),
    ),
    web_chat(
        "a page of the proxy before the mirror is no end of the session",
        "<html>\n<head><title>502 Bad Gateway</title></head>\n<body>nginx</body>\n</html>\n",
        Fails("upstream_html", ""),
    ),
    web_chat(
        "a page of the mirror asks for a login",
        "<!doctype html>\n<html>\n<title>Sign in</title>\n</html>\n",
        Fails("upstream_auth_expired", ""),
    ),
    web_chat(
        "the second of the model's failures says something, the first nothing",
        "{\"result\":{\"response\":{\"token\":\"Hello\"}}}\n{\"result\":{\"response\":{\"modelResponse\":{\"message\":\"Hello\",\"streamErrors\":[{},{\"message\":\"boom ctx\"}]}}}}\n",
        Fails("upstream_error", "boom ctx"),
    ),
    web_chat(
        "a usage limit is named, with nothing in it",
        "{\"error\":{\"usageLimitReached\":{}}}\n",
        Fails("upstream_error", ""),
    ),
    openai(
        "nothing is said, and the answer ends as if it were",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
        r#"{"choices":[{"index":0,"message":{"role":"assistant","content":""},"finish_reason":"stop"}]}"#,
        Fails("upstream_empty", "no text"),
    ),
    openai(
        "a content filter withheld the answer",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\"},\"finish_reason\":\"content_filter\"}]}\n\ndata: [DONE]\n\n",
        r#"{"choices":[{"index":0,"message":{"role":"assistant","content":null},"finish_reason":"content_filter"}]}"#,
        Fails("upstream_empty", "content filter"),
    ),
    openai(
        "the answer is an image alone",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\",\"images\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"https://a.example/x.png\"}}]}}]}\n\ndata: {\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
        r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"","images":[{"type":"image_url","image_url":{"url":"https://a.example/x.png"}}]},"finish_reason":"stop"}]}"#,
        Text("https://a.example/x.png"),
    ),
    openai(
        "an image alone comes after thoughts",
        "data: {\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"reasoning_content\":\"h\"}}]}\n\ndata: {\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":{\"reasoning_content\":\"m\"}}]}\n\ndata: {\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":{\"reasoning_content\":\"m\"}}]}\n\ndata: {\"choices\":[{\"index\":0,\"delta\":{\"images\":[{\"image_url\":{\"url\":\"https://a.example/x.png\"}}]},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
        "",
        Text("https://a.example/x.png"),
    ),
    openai(
        "Gemini's filter withheld the answer, which is blank",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\\n\"},\"finish_reason\":\"content_filter: PROHIBITED_CONTENT\"}]}\n\ndata: [DONE]\n\n",
        r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"\n\n"},"finish_reason":"content_filter: PROHIBITED_CONTENT"}]}"#,
        Fails("upstream_empty", "content filter"),
    ),
    openai(
        "half of a character stands alone within a text",
        "data: {\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"a\\ud83d b\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
        r#"{"object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"a\ud83d b"},"finish_reason":"stop"}]}"#,
        Text("a\u{fffd} b"),
    ),
    openai(
        "the answer is an object that only has words of a failure",
        r#"{"message":"boom ctx"}"#,
        r#"{"message":"boom ctx"}"#,
        Fails("upstream_invalid", "boom ctx"),
    ),
    openai(
        "the answer is an image alone, and only [DONE] ends it",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"images\":[{\"url\":\"https://a.example/x.png\"}]}}]}\n\ndata: [DONE]\n\n",
        "",
        Text("https://a.example/x.png"),
    ),
    openai(
        "an answer in one piece does not say why it ends",
        r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"Hello"}}]}"#,
        r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"Hello"}}]}"#,
        Text("Hello"),
    ),
    openai(
        "an answer in one piece has its words in a delta, and one choice alone",
        r#"{"choices":{"index":0,"delta":{"content":"Hello"},"finish_reason":"stop"}}"#,
        r#"{"choices":{"index":0,"delta":{"content":"Hello"},"finish_reason":"stop"}}"#,
        Text("Hello"),
    ),
    openai(
        "the answer is plain text that reports a limit",
        "Too many requests: boom ctx\n",
        "Too many requests: boom ctx\n",
        Fails("upstream_rate_limited", "boom ctx"),
    ),
    openai(
        "the answer is plain text of any other kind",
        "boom ctx",
        "boom ctx",
        Fails("upstream_invalid", "boom ctx"),
    ),
    openai(
        "MiniMax reports an error in base_resp",
        "data: {\"id\":\"x\",\"choices\":null,\"base_resp\":{\"status_code\":1008,\"status_msg\":\"boom ctx\"}}\n\n",
        r#"{"id":"x","choices":null,"base_resp":{"status_code":1008,"status_msg":"boom ctx"}}"#,
        Fails("upstream_error", "boom ctx"),
    ),
    openai(
        "the model has no room now, which is no unknown model",
        "data: {\"error\":{\"code\":503,\"message\":\"The model is overloaded and not available right now.\"}}\n\n",
        "",
        Fails("upstream_error", "overloaded"),
    ),
    openai(
        "finish_reason stands on every chunk",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"one \"},\"finish_reason\":\"stop\"}]}\n\ndata: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"two\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
        "",
        Text("one two"),
    ),
    openai(
        "the model refuses: its words are the answer",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"refusal\":\"I can't\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
        "{\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":null,\"refusal\":\"I can't\"},\"finish_reason\":\"stop\"}]}",
        Text("I can't"),
    ),
    openai(
        "parallel tool calls all have index 0",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"a\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"a\\\":1}\"}}]}}]}\n\ndata: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"b\",\"type\":\"function\",\"function\":{\"name\":\"g\",\"arguments\":\"{\\\"b\\\":2}\"}}]},\"finish_reason\":\"tool_calls\"}]}\n\ndata: [DONE]\n\n",
        "",
        Calls(&[("f", "{\"a\":1}"), ("g", "{\"b\":2}")]),
    ),
    openai(
        "two tool calls are written at once, piece by piece",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"a\",\"function\":{\"name\":\"f\",\"arguments\":\"\"}},{\"index\":1,\"id\":\"b\",\"function\":{\"name\":\"g\",\"arguments\":\"\"}}]}}]}\n\ndata: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":1,\"function\":{\"arguments\":\"{\\\"b\\\":\"}},{\"index\":0,\"function\":{\"arguments\":\"{\\\"a\\\":\"}}]}}]}\n\ndata: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"1}\"}},{\"index\":1,\"function\":{\"arguments\":\"2}\"}}]},\"finish_reason\":\"tool_calls\"}]}\n\ndata: [DONE]\n\n",
        "",
        Calls(&[("f", "{\"a\":1}"), ("g", "{\"b\":2}")]),
    ),
    openai(
        "tool calls have neither index nor id, and objects as arguments",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":{\"a\":1}}},{\"function\":{\"name\":\"g\",\"arguments\":{\"b\":2}}}]}}]}\n\ndata: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"tool_calls\"}]}\n\ndata: [DONE]\n\n",
        "",
        Calls(&[("f", "{\"a\":1}"), ("g", "{\"b\":2}")]),
    ),
    openai(
        "a tool call is flat, and one is a list of its own",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":{\"id\":\"a\",\"name\":\"f\",\"arguments\":{\"a\":1}}}}]}\n\ndata: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":{\"1\":{\"id\":\"b\",\"function\":{\"name\":\"g\",\"arguments\":\"{}\"}}}}}]}\n\ndata: [DONE]\n\n",
        r#"{"choices":[{"index":0,"message":{"role":"assistant","tool_calls":[{"name":"f","arguments":{"a":1}},{"function":{"name":"g","arguments":"{}"}}]},"finish_reason":"tool_calls"}]}"#,
        Calls(&[("f", "{\"a\":1}"), ("g", "{}")]),
    ),
    openai(
        "a tool call stands in a message beside an empty delta, and comes twice",
        "data: {\"choices\":[{\"index\":0,\"delta\":{},\"message\":{\"tool_calls\":[{\"index\":0,\"id\":\"a\",\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"a\\\":1}\"}}]}}]}\n\ndata: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"a\",\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"a\\\":1}\"}}]},\"finish_reason\":\"tool_calls\"}]}\n\ndata: [DONE]\n\n",
        "",
        Calls(&[("f", "{\"a\":1}")]),
    ),
    openai(
        "two tool calls have one id",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"a\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]}}]}\n\ndata: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":1,\"id\":\"a\",\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"b\\\":2}\"}}]},\"finish_reason\":\"tool_calls\"}]}\n\ndata: [DONE]\n\n",
        r#"{"choices":[{"index":0,"message":{"role":"assistant","tool_calls":[{"id":"a","function":{"name":"f","arguments":"{}"}},{"id":"a","function":{"name":"f","arguments":"{\"b\":2}"}}]},"finish_reason":"tool_calls"}]}"#,
        Calls(&[("f", "{}"), ("f", "{\"b\":2}")]),
    ),
    openai(
        "a tool call is of no known form",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[\"f()\"]},\"finish_reason\":\"tool_calls\"}]}\n\ndata: [DONE]\n\n",
        r#"{"choices":[{"index":0,"message":{"role":"assistant","tool_calls":["f()"]},"finish_reason":"tool_calls"}]}"#,
        Fails("upstream_invalid", ""),
    ),
    web_chat(
        "an overload is told in the response, and a message without words follows",
        "{\"result\":{\"conversation\":{\"conversationId\":\"c\"}}}\n{\"result\":{\"response\":{\"error\":{\"message\":\"Admission denied boom ctx\"},\"responseId\":\"r\"}}}\n{\"result\":{\"response\":{\"modelResponse\":{\"message\":\"\",\"responseId\":\"r\"}}}}\n",
        Fails("upstream_error", "Admission denied"),
    ),
    web_chat(
        "a usage limit is told in streamErrors",
        "{\"result\":{\"response\":{\"modelResponse\":{\"message\":\"\",\"responseId\":\"r\",\"streamErrors\":[{\"message\":\"You've reached your usage limit.\"}]}}}}\n",
        Fails("upstream_rate_limited", "usage limit"),
    ),
    openai(
        "a character comes in two halves, each in an event of its own",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hi \\ud83d\"}}]}\n\ndata: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\\ude00!\"}}]}\n\ndata: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
        "",
        Text("Hi \u{1f600}!"),
    ),
    openai(
        "a sign of life comes between the halves of a character",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hi \\ud83d\"}}]}\n\ndata: {\"id\":\"x\",\"choices\":[]}\n\ndata: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\\ude00!\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
        "",
        Text("Hi \u{1f600}!"),
    ),
    openai(
        "half of a character is never followed by the other",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hi \\ud83d\"}}]}\n\ndata: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
        "",
        Fails("upstream_invalid", ""),
    ),
    openai(
        "a probability is no number",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hello NaN\"},\"logprobs\":{\"x\":NaN,\"y\":-Infinity}}]}\n\ndata: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
        r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"Hello NaN"},"logprobs":{"x":NaN,"y":-Infinity},"finish_reason":"stop"}]}"#,
        Text("Hello NaN"),
    ),
    web_chat(
        "a character comes in two halves, each in a token of its own",
        "{\"result\":{\"response\":{\"token\":\"Hi \\ud83d\"}}}\n{\"result\":{\"response\":{\"token\":\"\\ude00!\"}}}\n{\"result\":{\"response\":{\"token\":\"\",\"isSoftStop\":true}}}\n",
        Text("Hi \u{1f600}!"),
    ),
    web_chat(
        "the final message is empty after tokens",
        "{\"result\":{\"response\":{\"token\":\"Hello\",\"responseId\":\"r\"}}}\n{\"result\":{\"response\":{\"token\":\" world\",\"responseId\":\"r\"}}}\n{\"result\":{\"response\":{\"modelResponse\":{\"message\":\"\",\"responseId\":\"r\"}}}}\n",
        Text("Hello world"),
    ),
    web_chat(
        "tokens are tagged as cards and results of tools",
        "{\"result\":{\"response\":{\"token\":\"<x>\",\"messageTag\":\"tool_usage_card\"}}}\n{\"result\":{\"response\":{\"token\":\"raw\",\"messageTag\":\"raw_function_result\"}}}\n{\"result\":{\"response\":{\"token\":\"Hello\",\"messageTag\":\"final\"}}}\n{\"result\":{\"response\":{\"token\":\"\",\"isSoftStop\":true}}}\n",
        Text("Hello"),
    ),
    web_chat(
        "cards stand in the words, and the final message has them too",
        "{\"result\":{\"response\":{\"cardAttachment\":{\"jsonData\":\"{\\\"id\\\":\\\"c1\\\",\\\"url\\\":\\\"https://a.example/x\\\"}\"}}}}\n{\"result\":{\"response\":{\"token\":\"Hello<grok:ren\"}}}\n{\"result\":{\"response\":{\"token\":\"der card_id=\\\"c1\\\"></grok:render>!<xai:x>y</xai:x>\"}}}\n{\"result\":{\"response\":{\"modelResponse\":{\"message\":\"Hello<grok:render card_id=\\\"c1\\\"></grok:render>!<xai:x>y</xai:x>\"}}}}\n",
        Text("Hello [a.example](https://a.example/x)!"),
    ),
    web_chat(
        "a partial message comes before the last words",
        "{\"result\":{\"response\":{\"modelResponse\":{\"message\":\"Hello\",\"partial\":true}}}}\n{\"result\":{\"response\":{\"token\":\" world\"}}}\n{\"result\":{\"response\":{\"token\":\"\",\"isSoftStop\":true}}}\n",
        Text("Hello world"),
    ),
];

/// What a face gave: the text and the tool calls of a success, or the code and the message.
type Given = Result<(String, Vec<(String, String)>), (String, String)>;

fn failure(error: &Value) -> (String, String) {
    let text = |key: &str| error[key].as_str().unwrap_or_default().to_string();
    (text("code"), text("message"))
}

async fn chat(app: &TestApp) -> Given {
    let envelope = app.chat(json!({"message": "hi", "model": "m"})).await.json();
    match envelope["success"] == true {
        true => Ok((envelope["answer"].as_str().unwrap_or_default().into(), Vec::new())),
        false => Err(failure(&envelope["error"])),
    }
}

async fn completion(app: &TestApp, stream: bool) -> Given {
    let body = json!({"model": "m", "stream": stream, "messages": [{"role": "user", "content": "hi"}]});
    let answer = app.post("/v1/chat/completions", KEY, &body.to_string()).await;
    if answer.status != 200 {
        return Err(failure(&answer.json()["error"]));
    }
    let mut text = String::new();
    let mut calls: Vec<(String, String)> = Vec::new();
    let mut take = |message: &Value| {
        let said = ["content", "refusal"].map(|key| message[key].as_str().unwrap_or_default());
        text.extend(said);
        let pieces = message["tool_calls"].as_array().map(Vec::as_slice).unwrap_or_default();
        assert!(!stream || pieces.len() < 2, "some clients read the first call of a chunk alone: {message}");
        for call in pieces {
            let of = |key: &str| call["function"][key].as_str().unwrap_or_default().to_string();
            // As Dify joins them: a piece without an id belongs to the latest call.
            match calls.last_mut().filter(|_| call["id"].is_null()) {
                Some(latest) => latest.1.push_str(&of("arguments")),
                None => calls.push((of("name"), of("arguments"))),
            }
        }
    };
    if !stream {
        take(&answer.json()["choices"][0]["message"]);
        return Ok((text, calls));
    }
    let mut done = false;
    for data in answer.text.lines().filter_map(|line| line.strip_prefix("data: ")) {
        done = data == "[DONE]";
        let Ok(chunk) = serde_json::from_str::<Value>(data) else { continue };
        if !chunk["error"].is_null() {
            return Err(failure(&chunk["error"]));
        }
        take(&chunk["choices"][0]["delta"]);
    }
    assert!(done, "a stream that does not fail ends with [DONE]: {}", answer.text);
    Ok((text, calls))
}

fn check(case: &Case, face: &str, given: &Given) {
    let context = format!("{} ({face}): {given:?}", case.met);
    match (&case.right, given) {
        (Text(text), Ok((said, _))) => assert_eq!(text, said, "{context}"),
        (Calls(calls), Ok((_, made))) => {
            let made: Vec<_> = made.iter().map(|(name, arguments)| (&**name, &**arguments)).collect();
            assert_eq!(&made, calls, "{context}");
        }
        (Fails(code, words), Err((named, message))) => {
            // On /v1 the upstream's own code goes on, where it gave one.
            let is_named = face != CHAT || code == named;
            assert!(is_named && message.contains(words), "{context}");
        }
        _ => panic!("{context}"),
    }
}

async fn try_case(case: &'static Case, before: &str) {
    let media = match case.protocol {
        "web-chat" => "application/json",
        _ => "text/event-stream",
    };
    let stream = chunked(media, &format!("{before}{}", case.stream));
    let fake = Fake::start(move |request| {
        let asks_whole = case.protocol == "openai" && !request.body.contains("\"stream\":true");
        if asks_whole && !case.whole.is_empty() {
            return send(response("200 OK", "application/json", case.whole));
        }
        vec![Step::Send(stream.clone().into_bytes())]
    })
    .await;
    let more = [("MODELS", "m")];
    let app = spawn_before(&fake.url, case.protocol, &more).await;
    if !matches!(case.right, Calls(_)) {
        check(case, CHAT, &chat(&app).await);
    }
    check(case, "/v1", &completion(&app, false).await);
    check(case, "/v1, streamed", &completion(&app, true).await);
}

#[actix_web::test]
async fn odd_answers_are_understood_on_every_face() {
    for case in [CASES, web_chat::CASES, anthropic::CASES].into_iter().flatten() {
        try_case(case, "").await;
    }
    for case in AFTER_A_WORD {
        try_case(case, HELLO).await;
    }
}

/// An error status, what the upstream says with it, and the code that callers see.
const STATUSES: &[(&str, &str, &str, &str, &str)] = &[
    (
        "400 X",
        "application/json",
        r#"[{"error":{"code":400,"message":"boom ctx","status":"INVALID_ARGUMENT"}}]"#,
        "upstream_rejected",
        "boom ctx",
    ),
    (
        "422 X",
        "application/json",
        r#"{"detail":[{"loc":["body","messages"],"msg":"field required","type":"missing"}]}"#,
        "upstream_rejected",
        "body.messages: field required",
    ),
    ("400 X", "text/plain", "model is required boom ctx", "upstream_rejected", "boom ctx"),
    ("400 X", "application/json", r#"{"code":1001,"msg":"boom ctx"}"#, "upstream_rejected", "boom ctx"),
    (
        "400 X",
        "application/json",
        r#"{"error":{"message":"Provider returned error","code":400,"metadata":{"raw":"{\"error\":{\"message\":\"boom ctx\"}}"}}}"#,
        "upstream_rejected",
        "boom ctx",
    ),
    (
        "400 X",
        "application/json",
        r#"{"code":"Client specified an invalid argument","error":"Incorrect API key provided: xx***yy"}"#,
        "upstream_auth_expired",
        "Incorrect API key",
    ),
    (
        "429 X",
        "application/json",
        r#"{"error":{"message":"You exceeded your current quota","type":"insufficient_quota","code":"insufficient_quota"}}"#,
        "upstream_refused",
        "current quota",
    ),
    (
        "400 X",
        "application/json",
        r#"{"error":{"message":"Unsupported parameter: 'logit_bias' is not supported with this model.","param":"logit_bias","code":"unsupported_parameter"}}"#,
        "upstream_rejected",
        "not supported with this model",
    ),
    (
        "429 X",
        "application/json",
        r#"{"error":{"message":"您的账户已欠费，请充值后重试。boom ctx","code":"1113"}}"#,
        "upstream_refused",
        "boom ctx",
    ),
    (
        "429 X",
        "text/event-stream",
        "data: {\"error\":{\"message\":\"boom ctx\",\"code\":\"insufficient_quota\"}}\n\ndata: [DONE]\n\n",
        "upstream_refused",
        "boom ctx",
    ),
    (
        "503 X",
        "text/html",
        "<html><body><h1>503 boom ctx</h1>\nNo server\n</body></html>",
        "upstream_error",
        "503 boom ctx",
    ),
    ("400 X", "application/json", r#"{"errors":{"model":["boom ctx"]}}"#, "upstream_rejected", "boom ctx"),
    (
        "400 X",
        "application/json",
        r#"{"error":{"message":"model could not process image: image URL not found","code":"invalid_image_url"}}"#,
        "upstream_rejected",
        "image URL not found",
    ),
    (
        "404 X",
        "application/json",
        r#"{"error":{"message":"No endpoints found for x.","code":404}}"#,
        "model_not_found",
        "No endpoints",
    ),
    (
        "404 X",
        "application/json",
        r#"{"error":{"code":"DeploymentNotFound","message":"The API deployment for this resource is gone."}}"#,
        "model_not_found",
        "deployment",
    ),
    (
        "400 X",
        "application/json",
        r#"{"code":"InvalidApiKey","message":"boom ctx"}"#,
        "upstream_auth_expired",
        "boom ctx",
    ),
    (
        "503 X",
        "application/json",
        r#"{"error":{"message":"No available channel for model m","code":"model_not_found"}}"#,
        "model_not_found",
        "No available channel",
    ),
    ("403 X", "text/plain", "error code: 1020", "upstream_challenge", "1020"),
    (
        "401 X",
        "application/json",
        r#"{"error":{"message":"该令牌额度已用尽 boom ctx","type":"one_api_error"}}"#,
        "upstream_refused",
        "boom ctx",
    ),
    (
        "500 X",
        "application/json",
        r#"{"error":{"code":13,"message":"Failed to load model catalog in region"}}"#,
        "upstream_error",
        "catalog in region",
    ),
];

#[actix_web::test]
async fn errors_keep_their_words_and_codes_decide_before_prose() {
    for (status, media, body, code, words) in STATUSES {
        let fake = Fake::start(move |_| send(response(status, media, body))).await;
        let app = spawn_before(&fake.url, "openai", &[]).await;
        let (named, message) = chat(&app).await.expect_err("a failure");
        assert!(named == *code && message.contains(words), "{status} {body}: {named} {message}");
        for given in [completion(&app, false).await, completion(&app, true).await] {
            let (_, message) = given.expect_err("a failure");
            assert!(message.contains(words), "{status} {body}: {message}");
        }
    }
}
