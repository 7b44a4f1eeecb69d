//! The demo upstream of a first run: a small server on a loopback port that speaks the OpenAI
//! protocol, so that everything can be tried before a mirror is at hand.
//!
//! It is reached over HTTP through the same client as any mirror, and says in every answer what it
//! is and what to set. It thinks nothing and keeps nothing: a conversation's history comes with
//! each question.

use std::convert::Infallible;
use std::time::Duration;

use actix_web::dev::{Server, ServerHandle};
use actix_web::web::{Bytes, Json};
use actix_web::{App, HttpResponse, HttpServer, Responder, get, post};
use futures_util::{StreamExt, stream};
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

const MODELS: [&str; 2] = ["demo", "demo-upper"];

/// How long a streamed answer takes between its words.
const PACE: Duration = Duration::from_millis(5);

/// The running demo.
pub struct Demo {
    /// Its base URL.
    pub url: Url,
    /// To stop it.
    pub handle: ServerHandle,
}

/// Starts the demo on a free loopback port. It runs until its handle stops it.
///
/// # Errors
/// When no loopback port can be bound.
pub fn start() -> std::io::Result<(Demo, Server)> {
    let server = HttpServer::new(|| App::new().service(models).service(complete))
        .workers(1)
        .disable_signals()
        .shutdown_timeout(1)
        .bind(("127.0.0.1", 0))?;
    let address =
        server.addrs().first().copied().ok_or_else(|| std::io::Error::other("the demo has no address"))?;
    let url = Url::parse(&format!("http://{address}/v1")).map_err(std::io::Error::other)?;
    let server = server.run();
    Ok((Demo { url, handle: server.handle() }, server))
}

#[derive(Deserialize)]
struct Request {
    model: Option<String>,
    messages: Vec<Message>,
    #[serde(default)]
    stream: bool,
}

#[derive(Deserialize)]
struct Message {
    role: String,
    content: Value,
}

impl Message {
    /// What it says: a text, or the texts of its parts.
    fn text(&self) -> String {
        let parts = self.content.as_array().into_iter().flatten();
        let parts = parts.filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join(" ");
        self.content.as_str().map_or(parts, String::from)
    }
}

#[get("/v1/models")]
async fn models() -> impl Responder {
    let models = MODELS.map(|id| json!({ "id": id, "object": "model", "owned_by": "mirrorgate-demo" }));
    Json(json!({ "object": "list", "data": models }))
}

#[post("/v1/chat/completions")]
async fn complete(request: Json<Request>) -> HttpResponse {
    let request = request.into_inner();
    let model = request.model.as_deref().unwrap_or(MODELS[0]);
    if !MODELS.contains(&model) {
        let message = format!("The model `{}` does not exist", model.chars().take(40).collect::<String>());
        return HttpResponse::NotFound()
            .json(json!({ "error": { "message": message, "code": "model_not_found" } }));
    }
    let answer = answer(model, &request.messages);
    let tokens = |text: &str| text.split_whitespace().count();
    let prompt_tokens: usize = request.messages.iter().map(|message| tokens(&message.text())).sum();
    let completion_tokens = tokens(&answer);
    let usage = json!({
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    });
    let of = |object: &str, choice: Value, usage: Value| json!({ "id": "demo-answer", "object": object, "created": 0, "model": model, "choices": [choice], "usage": usage });
    if !request.stream {
        let message = json!({ "role": "assistant", "content": answer });
        return HttpResponse::Ok().json(of(
            "chat.completion",
            json!({ "index": 0, "message": message, "finish_reason": "stop" }),
            usage,
        ));
    }
    let chunk = |delta: Value, finish: Value, usage: Value| {
        format!(
            "data: {}\n\n",
            of(
                "chat.completion.chunk",
                json!({ "index": 0, "delta": delta, "finish_reason": finish }),
                usage
            )
        )
    };
    let mut chunks = vec![chunk(json!({ "role": "assistant", "content": "" }), Value::Null, Value::Null)];
    chunks.extend(
        answer.split_inclusive(' ').map(|word| chunk(json!({ "content": word }), Value::Null, Value::Null)),
    );
    chunks.push(chunk(json!({}), "stop".into(), usage));
    chunks.push("data: [DONE]\n\n".into());
    let chunks = stream::iter(chunks).then(|chunk| async move {
        tokio::time::sleep(PACE).await;
        Ok::<_, Infallible>(Bytes::from(chunk))
    });
    HttpResponse::Ok().content_type("text/event-stream").streaming(chunks)
}

fn answer(model: &str, messages: &[Message]) -> String {
    let asked: Vec<String> =
        messages.iter().filter(|message| message.role == "user").map(Message::text).collect();
    let quote = |text: &str| text.chars().take(200).collect::<String>();
    let last = asked.last().map(|text| quote(text)).unwrap_or_default();
    let before = match asked.len() {
        0 | 1 => String::new(),
        count => format!(
            " This is question {count} of our conversation; before it you said: \"{}\".",
            quote(&asked[count - 2])
        ),
    };
    let answer = format!(
        "This is mirrorgate's built-in demo, no model is connected. You said: \"{last}\".{before} \
         To connect your mirror, open /console here, or set UPSTREAM_URL (and UPSTREAM_API_KEY or UPSTREAM_COOKIE) and restart."
    );
    if model == "demo-upper" { answer.to_uppercase() } else { answer }
}
