//! Dify's calls, made again: the tool `list_models` with the key in each form in which Dify sends it,
//! and where tokens may be spent, the tool `chat` and the ping of a model provider.

use std::time::Duration;

use futures_util::future::join_all;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::finding::Finding;
use super::http::{self, Answer};
use super::{QUESTION_TIME, Service, TIME};

/// One form in which Dify sends the key.
struct Form {
    check: &'static str,
    name: &'static str,
    header: Option<(&'static str, String)>,
    query: String,
}

impl Form {
    /// All forms: the one that people are told to use first.
    fn all(key: &str) -> [Self; 5] {
        let form = |check, name, header: &'static str, value: String| Form {
            check,
            name,
            header: Some((header, value)),
            query: String::new(),
        };
        let query = url::form_urlencoded::Serializer::new(String::new()).append_pair("key", key).finish();
        [
            form("replay.bearer", "Bearer", "authorization", format!("Bearer {key}")),
            // Dify's default prefix: the key as it is, and not in base64.
            form("replay.basic", "Basic", "authorization", format!("Basic {key}")),
            form("replay.custom", "Custom", "authorization", key.to_string()),
            form("replay.header", "X-API-Key", "x-api-key", key.to_string()),
            Form { check: "replay.query", name: "?key=", header: None, query: format!("?{query}") },
        ]
    }
}

/// Replays the calls; in the address only a key that is taken from there.
pub async fn check(service: &Service, key_in_address: bool, findings: &mut Vec<Finding>) {
    let key = service.key.as_ref().map(|key| key.expose_secret().trim().to_string()).unwrap_or_default();
    let forms = Form::all(&key);
    let (bearer, others) = forms.split_first().expect("there are five forms");
    // The first alone: a wrong key sent five times would look like guessing.
    let answer = list_models(service, (!key.is_empty()).then_some(bearer)).await;
    let accepted = matches!(&answer, Ok(answer) if !matches!(answer.status, 401 | 403));
    findings.push(listed(service, bearer.check, &key, &answer));
    if !accepted || key.is_empty() {
        return;
    }
    let tried: Vec<_> = others.iter().filter(|form| key_in_address || form.query.is_empty()).collect();
    let answers = join_all(tried.iter().map(|form| list_models(service, Some(form)))).await;
    for (form, answer) in tried.into_iter().zip(answers) {
        findings.push(match answer {
            Ok(answer) if matches!(answer.status, 401 | 403) => Finding::broken(
                form.check,
                format!("the key is not accepted as {} (HTTP {})", form.name, answer.status),
                "see whether a proxy in front of the service changes the header or the query (the admin key is not taken from the query); in Dify choose Bearer",
            ),
            Ok(_) => Finding::ok(form.check, format!("the key is accepted as {}", form.name)),
            Err(why) => Finding::broken(form.check, why, "see the findings above"),
        });
    }
    if service.questions {
        let model =
            answer.ok().and_then(|answer| envelope(&answer)).map(|body| body["default_model"].clone());
        findings.push(chat(service, bearer).await);
        findings.push(ping(service, bearer, model.unwrap_or_default()).await);
    }
}

async fn list_models(service: &Service, form: Option<&Form>) -> Result<Answer, String> {
    let query = form.map(|form| form.query.as_str()).unwrap_or_default();
    call(&format!("{}/api/models{query}", service.base), form, None, TIME).await
}

async fn call(
    url: &str,
    form: Option<&Form>,
    body: Option<Value>,
    limit: Duration,
) -> Result<Answer, String> {
    let mut headers = vec![("accept", "*/*".to_string()), ("user-agent", "python-httpx/0.28.1".to_string())];
    headers.extend(form.and_then(|form| form.header.clone()));
    let body = body.map(|body| body.to_string());
    http::send(http::Request { url, headers: &headers, body, limit }).await
}

fn envelope(answer: &Answer) -> Option<Value> {
    serde_json::from_str::<Value>(answer.text.trim()).ok().filter(|body| body["success"].is_boolean())
}

/// What the first call's answer says.
fn listed(service: &Service, check: &'static str, key: &str, answer: &Result<Answer, String>) -> Finding {
    let answer = match answer {
        Ok(answer) => answer,
        Err(why) => {
            let seen = format!("{}/api/models: {why}", service.base);
            return Finding::broken(
                check,
                seen,
                "see whether the service runs, and whether its mirror is slow",
            );
        }
    };
    if let Some(target) = answer.redirect() {
        return Finding::broken(
            check,
            format!("calls are redirected to {target} (HTTP {})", answer.status),
            "the key gets lost on the way: set PUBLIC_URL to the final address",
        );
    }
    let Some(body) = envelope(answer) else {
        return Finding::broken(
            check,
            format!("list_models answers HTTP {} and not mirrorgate's JSON", answer.status),
            "check that the address is mirrorgate's base URL, and what stands in front of it",
        );
    };
    let error = &body["error"];
    let told = |name: &str| error[name].as_str().unwrap_or_default().to_string();
    match (answer.status, key.is_empty()) {
        (401 | 403, true) if service.open => {
            Finding::broken(check, "a key is asked for, though none is needed", "look at GATEWAY_AUTH")
        }
        (401 | 403, true) => Finding::warning(
            check,
            "Dify's calls were not replayed: the service asks for a gateway key",
            "give one: `mirrorgate doctor --key KEY`; `mirrorgate key new NAME` makes one",
        ),
        (401 | 403, false) => Finding::broken(
            check,
            format!("the key is not accepted: {} ({})", told("message"), told("code")),
            told("hint"),
        ),
        (200, empty) => accepted(check, answer, &body, empty && !service.open),
        (_, _) if error["code"] == "models_unknown" => Finding::warning(
            check,
            "the key is accepted, and list_models has no models to give (models_unknown)",
            told("hint"),
        ),
        (status, _) => Finding::broken(
            check,
            format!("list_models fails: {} ({}, HTTP {status})", told("message"), told("code")),
            told("hint"),
        ),
    }
}

/// What a good list says; without a key where one is due, it should not have come.
fn accepted(check: &'static str, answer: &Answer, body: &Value, unguarded: bool) -> Finding {
    if answer.header("content-type") != Some("application/json") {
        let media = answer.header("content-type").unwrap_or("nothing");
        return Finding::broken(
            check,
            format!("the answer is declared as `{media}`"),
            "Dify reads JSON only from `application/json`: see what a proxy in front changes",
        );
    }
    if unguarded {
        return Finding::warning(
            check,
            "anyone may call: no gateway key is asked for",
            "set GATEWAY_API_KEYS and remove GATEWAY_AUTH=none, before the service is public",
        );
    }
    // An agent is shown an answer twice unless its bytes are those of Python's json.dumps.
    if !answer.text.trim_start().starts_with("{\"success\": ") {
        return Finding::warning(
            check,
            "the answer's bytes are not as the service writes them, so an agent sees it twice",
            "see what stands in front of the service and rewrites JSON",
        );
    }
    let count = body["models"].as_array().map(Vec::len).unwrap_or_default();
    Finding::ok(check, format!("list_models with Bearer gives {count} model(s)"))
}

/// The tool `chat`, as an agent calls it.
async fn chat(service: &Service, form: &Form) -> Finding {
    const CHECK: &str = "replay.chat";
    let url = format!("{}/api/chat", service.base);
    let body = json!({ "message": "Reply with the word pong." });
    let answer = match call(&url, Some(form), Some(body), QUESTION_TIME).await {
        Ok(answer) => answer,
        Err(why) => {
            return Finding::broken(CHECK, why, "Dify waits 60 seconds: see whether the mirror is slow");
        }
    };
    let body = envelope(&answer).unwrap_or_default();
    if body["success"] == true && body["answer"].as_str().is_some_and(|text| !text.is_empty()) {
        return Finding::ok(CHECK, format!("the tool chat answers after {} ms", answer.took.as_millis()));
    }
    let told = |name: &str| body["error"][name].as_str().unwrap_or("unknown").to_string();
    let seen = format!("the tool chat fails: {} ({}, HTTP {})", told("message"), told("code"), answer.status);
    Finding::broken(CHECK, seen, told("hint"))
}

/// What Dify sends to validate a model provider: `max_tokens` 5 and one "ping", answered by 200 with
/// the object `chat.completion`, or without an object.
async fn ping(service: &Service, form: &Form, model: Value) -> Finding {
    const CHECK: &str = "replay.ping";
    let url = format!("{}/v1/chat/completions", service.base);
    let mut body =
        json!({ "messages": [{ "role": "user", "content": "ping" }], "max_tokens": 5, "stream": false });
    if model.is_string() {
        body["model"] = model;
    }
    let answer = match call(&url, Some(form), Some(body), QUESTION_TIME).await {
        Ok(answer) => answer,
        Err(why) => return Finding::broken(CHECK, why, "see whether the mirror is slow"),
    };
    let body: Value = serde_json::from_str(answer.text.trim()).unwrap_or_default();
    let object = &body["object"];
    match answer.status {
        200 if object.is_null() || object == "chat.completion" => Finding::ok(
            CHECK,
            format!("a model provider's ping is answered after {} ms", answer.took.as_millis()),
        ),
        404 if body["error"]["code"] != "model_not_found" => Finding::warning(
            CHECK,
            "the service has no /v1, so Dify cannot use it as a model provider",
            "use it as a tool, or run a version with the OpenAI-compatible face",
        ),
        status => {
            let told = body["error"]["message"].as_str().unwrap_or("the answer is no chat.completion");
            let seen = format!("a model provider's ping is answered with HTTP {status}: {told}");
            Finding::broken(CHECK, seen, "see the findings about the mirror")
        }
    }
}
