//! Upstreams that differ from the protocol in more than an answer to a question: parameters that they refuse,
//! streams that came where none was asked for, and relayed answers that are not what they are declared as.

use serde_json::{Value, json};

use crate::helpers::{KEY, spawn_before};
use crate::upstream::{Fake, chunked, response, send};

const STREAM: &str = concat!(
    "data: {\"id\":\"x\",\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"Hello\"},\"logprobs\":{\"content\":[{\"token\":\"Hel\"}]},\"finish_reason\":null}]}\n\n",
    "data: {\"id\":\"x\",\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":{\"audio\":{\"id\":\"a\",\"data\":\"AA\"},\"function_call\":{\"name\":\"f\",\"arguments\":\"{\"}},\"logprobs\":{\"content\":[{\"token\":\"lo\"}]}}]}\n\n",
    "data: {\"id\":\"x\",\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":{\"audio\":{\"id\":\"a\",\"data\":\"BB\"},\"function_call\":{\"arguments\":\"}\"}},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":\"3\",\"completion_tokens\":2.0,\"total_tokens\":1e30}}\n\n",
    "data: [DONE]\n\n",
);

fn asked(more: Value) -> String {
    let mut asked = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": true});
    asked.as_object_mut().expect("an object").extend(more.as_object().expect("fields").clone());
    asked.to_string()
}

#[actix_web::test]
async fn a_parameter_that_is_refused_is_mended_for_callers_of_the_protocol_too() {
    let whole = r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"Hello"},"finish_reason":"stop"}]}"#;
    let refusal =
        |error: &str| send(response("400 X", "application/json", &format!("{{\"error\":{error}}}")));
    for (parameter, error, more, left) in [
        (
            "stream_options",
            r#"{"message":"No.","param":"stream_options","code":"unknown_parameter"}"#,
            json!({"stream_options": {"include_usage": true}}),
            None,
        ),
        (
            "max_tokens",
            r#"{"message":"Use 'max_completion_tokens' instead of 'max_tokens'."}"#,
            json!({"max_tokens": 5}),
            Some("max_completion_tokens"),
        ),
        ("stream", r#"{"message":"Streaming is not supported"}"#, json!({}), None),
    ] {
        let fake = Fake::start(move |request| match request.json() {
            body if body.get(parameter).is_some() => refusal(error),
            body if body["stream"] == true => send(chunked("text/event-stream", STREAM)),
            _ => send(response("200 OK", "application/json", whole)),
        })
        .await;
        let app = spawn_before(&fake.url, "openai", &[]).await;
        let workers = std::thread::available_parallelism().expect("a number").get();
        for _ in 0..workers + 2 {
            let answer = app.post("/v1/chat/completions", KEY, &asked(more.clone())).await;
            assert!(
                answer.status == 200 && answer.text.contains("Hello"),
                "{parameter}: {} {}",
                answer.status,
                answer.text
            );
            assert!(answer.text.ends_with("data: [DONE]\n\n"), "{parameter}: {}", answer.text);
        }
        let refused =
            fake.requests().iter().filter(|request| request.json().get(parameter).is_some()).count();
        assert!((1..=workers).contains(&refused), "each worker remembers it: {parameter}, {refused}");
        let last = fake.requests().last().expect("a question").json();
        assert!(left.is_none_or(|name| last[name] == 5), "{last}");
    }
    // One that cannot be mended is asked once.
    let fake = Fake::start(move |_| refusal(r#"{"message":"No.","param":"stream_options"}"#)).await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    let answer = app.post("/v1/chat/completions", KEY, &asked(json!({}))).await;
    assert_eq!((answer.status.as_u16(), fake.requests().len()), (400, 1), "{}", answer.text);
}

#[actix_web::test]
async fn a_stream_in_place_of_a_whole_answer_loses_nothing() {
    let fake = Fake::start(|_| send(chunked("text/event-stream", STREAM))).await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    let answer = app.post("/v1/chat/completions", KEY, &asked(json!({"stream": false}))).await;
    let completion = answer.json();
    let choice = &completion["choices"][0];
    assert_eq!(
        choice["message"],
        json!({
            "role": "assistant",
            "content": "Hello",
            "audio": {"id": "a", "data": "AABB"},
            "function_call": {"name": "f", "arguments": "{}"},
        })
    );
    assert_eq!(choice["logprobs"]["content"], json!([{"token": "Hel"}, {"token": "lo"}]));
    let usage = json!({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5});
    assert_eq!((&choice["finish_reason"], &completion["usage"]), (&json!("stop"), &usage));
}

#[actix_web::test]
async fn a_tool_call_is_no_answer_where_no_tools_were_offered() {
    let call = "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"a\",\"function\":{\"name\":\"look_up\",\"arguments\":\"{}\"}}]},\"finish_reason\":\"tool_calls\"}]}\n\ndata: [DONE]\n\n";
    let fake = Fake::start(move |_| send(chunked("text/event-stream", call))).await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    let answer = app.chat(json!({"message": "hi"})).await.json();
    assert_eq!((&answer["success"], &answer["error"]["code"]), (&json!(false), &json!("upstream_empty")));
    assert!(answer["error"]["message"].as_str().is_some_and(|words| words.contains("look_up")), "{answer}");
}

#[actix_web::test]
async fn relayed_answers_are_what_their_bytes_say() {
    let events = "data: {\"choices\":[{\"index\":0,\"text\":\"Hello\",\"finish_reason\":\"stop\"}]}\n\n";
    for (media, body, status, given, words) in [
        // SSE declared as a page, which ends with its body after a finish_reason.
        ("text/html", events, 200, "text/event-stream", "Hello"),
        ("text/html", "<html><title>502 Bad Gateway</title></html>", 502, "application/json", "web page"),
        ("text/plain", "{\"error\":{\"message\":\"boom ctx\"}}", 502, "application/json", "boom ctx"),
        ("text/plain", "{\"data\":[1]}", 200, "application/json", "[1]"),
        ("text/plain", "data: not JSON, a transcript", 200, "text/plain", "a transcript"),
        ("text/plain", "{laughs} hello", 200, "text/plain", "{laughs}"),
        ("text/plain", "event: the party\n", 200, "text/plain", "the party"),
        (
            "text/event-stream",
            "data: {\"choices\":[{\"index\":0,\"text\":\"Hello\",\"finish_reason\":\"stop\"}]}\n\ndata: {\"timings\":{}}\n\n",
            200,
            "text/event-stream",
            "timings",
        ),
        (
            "text/event-stream",
            "{\n\"error\": {\"message\":\"boom ctx\"}}\n",
            502,
            "application/json",
            "boom ctx",
        ),
        (
            "application/json",
            "{\"id\":\"x\",\"object\":\"text_completion\",\"error\":{\"message\":\"boom ctx\"}}",
            502,
            "application/json",
            "boom ctx",
        ),
        ("application/json", "[{\"error\":{\"message\":\"boom ctx\"}}]", 502, "application/json", "boom ctx"),
        ("application/json", "{\"data\":[NaN,1]}", 200, "application/json", "[null,1]"),
        ("text/event-stream", "event: error\ndata: boom ctx\n\n", 502, "application/json", "boom ctx"),
        (
            "text/event-stream",
            "error: {\"code\":500,\"message\":\"boom ctx\"}\n\n",
            500,
            "application/json",
            "boom ctx",
        ),
    ] {
        let answer = chunked(media, body);
        let fake = Fake::start(move |_| send(answer.clone())).await;
        let app = spawn_before(&fake.url, "openai", &[]).await;
        let answer = app.post("/v1/completions", KEY, r#"{"model":"m","prompt":"hi"}"#).await;
        let said = answer.header("content-type").unwrap_or_default();
        assert!(
            answer.status.as_u16() == status && said.starts_with(given) && answer.text.contains(words),
            "{media} {body}: {} {said} {}",
            answer.status,
            answer.text
        );
    }
    // Not all choices have ended, or none has said why.
    for cut in [
        "data: {\"choices\":[{\"index\":1,\"text\":\"a\"}]}\n\ndata: {\"choices\":[{\"index\":0,\"text\":\"b\",\"finish_reason\":\"stop\"}]}\n\n",
        "data: {\"choices\":[{\"index\":0,\"text\":\"a\",\"finish_reason\":\"\"}]}\n\n",
    ] {
        let fake = Fake::start(move |_| send(chunked("text/event-stream", cut))).await;
        let app = spawn_before(&fake.url, "openai", &[]).await;
        let answer = app.post("/v1/completions", KEY, r#"{"model":"m","prompt":"hi","stream":true}"#).await;
        assert!(answer.text.contains("upstream_truncated"), "{}", answer.text);
    }
}

#[actix_web::test]
async fn what_one_model_refuses_another_is_asked_with() {
    let fake = Fake::start(|request| match (request.json()["model"].as_str(), request.json()) {
        (Some("old"), body) if body.get("max_completion_tokens").is_some() => send(response(
            "422 X",
            "application/json",
            r#"{"detail":[{"loc":["body","max_completion_tokens"],"msg":"Extra inputs are not permitted"}]}"#,
        )),
        (Some("new"), body) if body.get("max_tokens").is_some() => send(response(
            "400 X",
            "application/json",
            r#"{"error":{"message":"Use 'max_completion_tokens' instead of 'max_tokens'."}}"#,
        )),
        _ => send(chunked("text/event-stream", STREAM)),
    })
    .await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    for model in ["new", "old", "new", "old"] {
        for _ in 0..4 {
            let answer =
                app.post("/v1/chat/completions", KEY, &asked(json!({"model": model, "max_tokens": 5}))).await;
            assert_eq!(answer.status, 200, "{model}: {}", answer.text);
        }
    }
}

#[actix_web::test]
async fn a_limit_of_ours_is_no_end_of_an_answer() {
    let line = |words: &str, stops: bool| {
        json!({"result": {"response": {"token": words, "isSoftStop": stops}}}).to_string() + "\n"
    };
    let long = "x".repeat(3000);
    let lines: String =
        std::iter::once(line("Hello", true)).chain((0..40).map(|_| line(&long, true))).collect();
    let fake = Fake::start(move |_| send(chunked("application/json", &lines))).await;
    let app = spawn_before(&fake.url, "web-chat", &[("MAX_ANSWER_BYTES", "65536")]).await;
    let answer = app.chat(json!({"message": "hi"})).await.json();
    assert_eq!(
        (&answer["success"], &answer["error"]["code"]),
        (&json!(false), &json!("upstream_too_large")),
        "{}",
        answer["error"]
    );
}

#[actix_web::test]
async fn words_after_a_sign_of_the_end_need_one_of_their_own_where_the_connection_breaks() {
    let token = |words: &str| json!({"result": {"response": {"token": words}}}).to_string() + "\n";
    let stop = json!({"result": {"response": {"token": "", "isSoftStop": true}}}).to_string() + "\n";
    for (lines, success) in [(token("Hi") + &stop + &token(" the answ"), false), (token("Hi") + &stop, true)]
    {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
        let bytes = format!("{head}{:x}\r\n{lines}\r\nnonsense\r\n", lines.len());
        let fake = Fake::start(move |_| send(bytes.clone())).await;
        let app = spawn_before(&fake.url, "web-chat", &[]).await;
        let answer = app.chat(json!({"message": "hi"})).await.json();
        assert_eq!(answer["success"], success, "{lines}: {answer}");
    }
}
