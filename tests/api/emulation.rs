//! Tools before a web chat: offered in words, and read out of words.

use serde_json::{Value, json};

use crate::helpers::{Answer, KEY, TestApp, spawn_before};
use crate::upstream::{Fake, Request, Step, chunked, response, send};

const CALLS: &str = "Let me see.\n\n```tool_call\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Paris\"}}\n```\n```tool_call\n{\"name\": \"weather\", \"arguments\": {\"city\": \"臺北\"}}\n```\n";

/// A web chat that says the first of these where no result was told, and the second where one was.
async fn saying(first: &'static str, second: &'static str, settles: bool) -> Fake {
    Fake::start(move |request: &Request| {
        let told =
            request.json()["message"].as_str().is_some_and(|asked| asked.contains("The result of the tool"));
        answer(if told { second } else { first }, settles)
    })
    .await
}

/// The words in pieces of a few letters, settled at the end or not.
fn answer(words: &str, settles: bool) -> Vec<Step> {
    let letters: Vec<char> = words.chars().collect();
    let mut lines = vec![json!({"result": {"conversation": {"conversationId": "c1"}}})];
    lines.extend(letters.chunks(3).map(|part| {
        json!({"result": {"response": {"token": part.iter().collect::<String>(), "responseId": "r1"}}})
    }));
    lines.push(match settles {
        true => json!({"result": {"response": {"modelResponse": {"message": words, "responseId": "r1"}}}}),
        false => json!({"result": {"response": {"token": "", "isSoftStop": true, "responseId": "r1"}}}),
    });
    let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
    send(chunked("application/x-ndjson", &lines))
}

fn question(more: Value) -> Value {
    let function = |name: &str| {
        let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}}});
        json!({"type": "function", "function": {"name": name, "description": "tells it", "parameters": parameters}})
    };
    let mut body = json!({
        "messages": [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "How is the weather?"}],
        "tools": [function("weather"), function("time")],
    });
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    body
}

async fn complete(app: &TestApp, body: &Value) -> Answer {
    app.post("/v1/chat/completions", KEY, &body.to_string()).await
}

fn chunks(answer: &Answer) -> Vec<Value> {
    assert!(answer.text.ends_with("data: [DONE]\n\n"), "{}", answer.text);
    let data =
        answer.text.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
    data.map(|data| serde_json::from_str(data).expect("JSON")).collect()
}

#[actix_web::test]
async fn calls_are_read_and_their_results_told_in_the_same_conversation() {
    for settles in [true, false] {
        let fake = saying(CALLS, "Fine in both.", settles).await;
        let app = spawn_before(&fake.url, "web-chat", &[]).await;
        let mut body = question(json!({}));
        let answer = complete(&app, &body).await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("x-tools")),
            (200, Some("emulated")),
            "{}",
            answer.text
        );
        let choice = answer.json()["choices"][0].clone();
        assert_eq!(
            (&choice["finish_reason"], &choice["message"]["content"]),
            (&json!("tool_calls"), &json!("Let me see."))
        );
        let calls = choice["message"]["tool_calls"].as_array().expect("calls").clone();
        let called: Vec<_> = calls.iter().map(|call| call["function"].clone()).collect();
        let function =
            |city: &str| json!({"name": "weather", "arguments": json!({"city": city}).to_string()});
        assert_eq!(called, [function("Paris"), function("臺北")]);
        assert!(calls[0]["id"] != calls[1]["id"] && calls[0]["type"] == "function");

        let asked = fake.requests()[0].json()["message"].as_str().expect("a text").to_string();
        assert!(asked.ends_with("Be brief\n\nHow is the weather?"), "{asked}");
        assert!(
            asked.contains("```tool_call\n{\"name\": \"NAME\"") && asked.contains(r#""name":"time""#),
            "{asked}"
        );

        let messages = body["messages"].as_array_mut().expect("messages");
        let mut said = choice["message"].clone();
        // Dify writes the arguments anew.
        said["tool_calls"][0]["function"]["arguments"] = r#"{"city": "Paris"}"#.into();
        messages.push(said);
        for (call, told) in calls.iter().zip(["sunny", ""]) {
            messages.push(json!({"role": "tool", "tool_call_id": call["id"], "content": told}));
        }
        let last = complete(&app, &body).await.json();
        assert_eq!(last["choices"][0]["message"], json!({"role": "assistant", "content": "Fine in both."}));
        assert_eq!(last["choices"][0]["finish_reason"], "stop");
        let second = &fake.requests()[1];
        assert!(second.line.contains("/conversations/c1/responses"), "{}", second.line);
        let asked = second.json()["message"].as_str().expect("a text").to_string();
        assert!(asked.contains("The result of the tool weather: sunny"), "{asked}");
        assert!(!asked.contains("How is the weather?") && asked.contains("You can call tools"), "{asked}");
    }
}

#[actix_web::test]
async fn a_streams_words_go_on_until_a_call_begins_and_calls_come_whole() {
    for settles in [true, false] {
        let fake = saying(CALLS, "", settles).await;
        let app = spawn_before(&fake.url, "web-chat", &[]).await;
        let answer = complete(&app, &question(json!({"stream": true}))).await;
        assert_eq!(answer.header("x-tools"), Some("emulated"));
        let chunks = chunks(&answer);
        let deltas: Vec<&Value> = chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]).collect();
        let words: String = deltas.iter().filter_map(|delta| delta["content"].as_str()).collect();
        assert_eq!(words, "Let me see.");
        assert!(deltas.len() > 5, "words come in pieces");
        let calls: Vec<_> = deltas.iter().filter_map(|delta| delta["tool_calls"].as_array()).collect();
        assert!(calls.iter().all(|calls| calls.len() == 1), "each in a chunk of its own");
        let told: Vec<_> =
            calls.iter().map(|calls| (&calls[0]["index"], &calls[0]["function"]["arguments"])).collect();
        assert_eq!(
            told,
            [(&json!(0), &json!(r#"{"city":"Paris"}"#)), (&json!(1), &json!(r#"{"city":"臺北"}"#))]
        );
        assert!(
            calls.iter().all(|calls| calls[0]["id"].is_string() && calls[0]["function"]["name"] == "weather")
        );
        let reasons: Vec<_> =
            chunks.iter().filter_map(|chunk| chunk["choices"][0]["finish_reason"].as_str()).collect();
        assert_eq!(reasons, ["tool_calls"]);
    }
}

const BROKEN: &str = "Let me see.\n\n```tool_call\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Par";
const AGAIN: &str =
    "Sorry!\n```tool_call\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Paris\"}}\n```";

/// A web chat that says this, and at last, asked once more for a readable call, what comes of `again`.
async fn mistaken(first: &'static str, settles: bool, again: fn() -> Vec<Step>) -> Fake {
    Fake::start(move |request: &Request| {
        let asked = request.json()["message"].as_str().expect("a text").to_string();
        if asked.contains("cannot be read as the call") {
            again()
        } else if asked.contains("The result of the tool") {
            answer("Fine.", settles)
        } else {
            answer(first, settles)
        }
    })
    .await
}

#[actix_web::test]
async fn a_call_that_cannot_be_read_is_asked_for_once_more_in_the_same_conversation() {
    for (settles, stream) in [(true, true), (true, false), (false, true), (false, false)] {
        let fake = mistaken(BROKEN, settles, || {
            let lines = json!({"result": {"token": AGAIN, "responseId": "r2"}});
            let end = json!({"result": {"isSoftStop": true, "responseId": "r2"}});
            send(chunked("application/x-ndjson", &format!("{lines}\n{end}\n")))
        })
        .await;
        let app = spawn_before(&fake.url, "web-chat", &[]).await;
        let mut body = question(json!({"stream": stream}));
        let answer = complete(&app, &body).await;
        let said = if stream { joined(&chunks(&answer)) } else { answer.json()["choices"][0].clone() };
        assert_eq!(
            (&said["message"]["content"], &said["finish_reason"]),
            (&json!("Let me see."), &json!("tool_calls")),
            "{}",
            answer.text
        );
        let call = said["message"]["tool_calls"][0].clone();
        assert_eq!(call["function"], json!({"name": "weather", "arguments": r#"{"city":"Paris"}"#}));
        let requests = fake.requests();
        assert_eq!(requests.len(), 2);
        assert!(requests[1].line.contains("/conversations/c1/responses"), "{}", requests[1].line);
        let asked = requests[1].json();
        assert_eq!(asked["parentResponseId"], "r1");
        let asked = asked["message"].as_str().expect("a text").to_string();
        assert!(asked.ends_with("There are these tools: weather, time"), "{asked}");

        // The conversation goes on after the call that was read.
        let messages = body["messages"].as_array_mut().expect("messages");
        messages.push(json!({"role": "assistant", "content": "Let me see.", "tool_calls": [call]}));
        messages.push(json!({"role": "tool", "tool_call_id": call["id"], "content": "sunny"}));
        assert_eq!(complete(&app, &body).await.status.as_u16(), 200);
        assert_eq!(fake.requests()[2].json()["parentResponseId"], "r2");
    }
}

#[actix_web::test]
async fn an_answer_stands_as_it_was_said_where_asking_once_more_is_in_vain() {
    let fails = || send(response("500 Internal Server Error", "application/json", "{}"));
    let breaks_off = || {
        let line = json!({"result": {"token": AGAIN, "responseId": "r2"}});
        send(chunked("application/x-ndjson", &format!("{line}\n")))
    };
    let again: [fn() -> Vec<Step>; 4] =
        [|| answer(BROKEN, true), || answer("I called nothing.", false), fails, breaks_off];
    for again in again {
        let fake = mistaken(BROKEN, true, again).await;
        let app = spawn_before(&fake.url, "web-chat", &[]).await;
        let mut body = question(json!({}));
        let whole = complete(&app, &body).await;
        let said = whole.json()["choices"][0].clone();
        assert_eq!(
            (whole.status.as_u16(), &said["message"]["content"], &said["finish_reason"]),
            (200, &json!(BROKEN), &json!("stop"))
        );
        assert_eq!(fake.requests().len(), 2, "nothing is asked a third time");
        body["stream"] = true.into();
        let said = joined(&chunks(&complete(&app, &body).await));
        assert_eq!(said["message"]["content"], BROKEN);
    }
}

#[actix_web::test]
async fn what_the_second_question_costs_is_counted() {
    let tokens = async |first: &'static str| {
        let fake = mistaken(first, true, || answer(AGAIN, true)).await;
        let app = spawn_before(&fake.url, "web-chat", &[]).await;
        let usage = complete(&app, &question(json!({}))).await.json()["usage"].clone();
        usage["total_tokens"].as_u64().expect("a number")
    };
    assert!(tokens(BROKEN).await > tokens(AGAIN).await + 50);
}

/// What the pieces of a stream add up to.
fn joined(chunks: &[Value]) -> Value {
    let mut message = json!({"content": ""});
    let mut finish = Value::Null;
    for choice in chunks.iter().filter_map(|chunk| chunk["choices"].get(0)) {
        if let Some(words) = choice["delta"]["content"].as_str() {
            message["content"] = (message["content"].as_str().unwrap_or_default().to_string() + words).into();
        }
        if choice["delta"]["tool_calls"].is_array() {
            message["tool_calls"] = choice["delta"]["tool_calls"].clone();
        }
        if !choice["finish_reason"].is_null() {
            finish = choice["finish_reason"].clone();
        }
    }
    json!({"message": message, "finish_reason": finish})
}

#[actix_web::test]
async fn what_is_no_call_is_told_as_it_was_said() {
    const SAID: &str = "Like this:\n```tool_call\n{\"name\": \"unknown\"}\n```\nor so.";
    let fake = saying(SAID, "", false).await;
    let app = spawn_before(&fake.url, "web-chat", &[]).await;
    let whole = complete(&app, &question(json!({}))).await.json();
    assert_eq!(
        (&whole["choices"][0]["message"]["content"], &whole["choices"][0]["finish_reason"]),
        (&json!(SAID), &json!("stop"))
    );
    let answer = complete(&app, &question(json!({"stream": true}))).await;
    let chunks = chunks(&answer);
    let words: String =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(words, SAID);
    assert_eq!(fake.requests().len(), 4, "each is asked once more, and not a third time");
}

#[actix_web::test]
async fn the_choice_of_tools_is_honoured() {
    let fake = saying(CALLS, "", true).await;
    let app = spawn_before(&fake.url, "web-chat", &[]).await;
    let named = |name: &str| json!({"type": "function", "function": {"name": name}});
    let asked = |fake: &Fake| {
        fake.requests().pop().expect("a request").json()["message"].as_str().expect("a text").to_string()
    };

    let none = complete(&app, &question(json!({"tool_choice": "none"}))).await;
    assert_eq!(
        (none.header("x-tools"), none.json()["choices"][0]["message"].get("tool_calls")),
        (None, None)
    );
    assert_eq!(asked(&fake), "Be brief\n\nHow is the weather?");

    let required =
        complete(&app, &question(json!({"tool_choice": "required", "parallel_tool_calls": false})))
            .await
            .json();
    assert_eq!(required["choices"][0]["message"]["tool_calls"].as_array().map(Vec::len), Some(1));
    assert!(
        asked(&fake).contains("You must call at least one tool now.")
            && asked(&fake).contains("one tool at most")
    );

    let one = complete(&app, &question(json!({"tool_choice": named("weather")}))).await;
    assert_eq!(one.json()["choices"][0]["finish_reason"], "tool_calls");
    assert!(!asked(&fake).contains(r#""name":"time""#), "{}", asked(&fake));
    // The other tool was not to be called, so that no call came.
    for choice in [named("time"), json!("required")] {
        let fake = saying("No.", "", true).await;
        let app = spawn_before(&fake.url, "web-chat", &[]).await;
        let failed = complete(&app, &question(json!({"tool_choice": choice}))).await;
        assert_eq!(
            (failed.status.as_u16(), failed.code().as_str()),
            (502, "upstream_invalid"),
            "{}",
            failed.text
        );
    }
    let before = fake.requests().len();
    for body in [
        question(json!({"tool_choice": named("other")})),
        question(json!({"tools": [], "tool_choice": "required"})),
    ] {
        let refused = complete(&app, &body).await;
        assert_eq!((refused.status.as_u16(), refused.code().as_str()), (400, "unsupported_parameter"));
        assert_eq!(refused.json()["error"]["param"], "tool_choice");
    }
    assert_eq!(fake.requests().len(), before);
}

#[actix_web::test]
async fn without_the_emulation_tools_are_refused_with_advice() {
    let fake = saying(CALLS, "", true).await;
    let app = spawn_before(&fake.url, "web-chat", &[("TOOL_EMULATION", "false")]).await;
    let refused = complete(&app, &question(json!({}))).await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (400, "unsupported_parameter"));
    assert_eq!(refused.json()["error"]["param"], "tools");
    assert!(refused.text.contains("TOOL_EMULATION") && fake.requests().is_empty());
    let unused = complete(&app, &question(json!({"tool_choice": "none"}))).await;
    assert_eq!(unused.status.as_u16(), 200, "tools that may not be called need no emulation");
}

#[actix_web::test]
async fn an_answer_that_breaks_off_within_a_call_fails_with_all_that_came() {
    let fake = Fake::start(|_| {
        let token = |text: &str| json!({"result": {"response": {"token": text, "responseId": "r1"}}});
        let lines = [token("Look: "), token("```tool_call\n{\"name\": \"wea")];
        let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
        send(chunked("application/x-ndjson", &lines))
    })
    .await;
    let app = spawn_before(&fake.url, "web-chat", &[]).await;
    let broken = complete(&app, &question(json!({"stream": true}))).await;
    assert!(!broken.text.contains("[DONE]") && broken.text.contains("upstream_truncated"), "{}", broken.text);
    assert!(broken.text.contains("```tool_call") && !broken.text.contains("tool_calls\""), "{}", broken.text);
    assert_eq!(fake.requests().len(), 1, "nothing is asked again after a failure");
}
