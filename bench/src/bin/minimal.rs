//! The least that actix-web and awc can do: pass completions on, and join the lines of a web chat for
//! `/api/chat`. No keys, limits, logs, checks or state. What the product costs above it is the
//! product's own.
//!
//! `minimal 9001 http://127.0.0.1:9000`

use std::time::Duration;

use actix_service::ServiceExt;
use actix_tls::connect::Connection;
use actix_web::http::header::CONTENT_TYPE;
use actix_web::web::{Bytes, Data, Json, Payload};
use actix_web::{App, HttpResponse, HttpServer, get, post};
use awc::http::Uri;
use awc::{Client, Connector};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

#[actix_web::main]
async fn main() -> std::io::Result<()> {
    let mut words = std::env::args().skip(1);
    let port: u16 = words.next().and_then(|port| port.parse().ok()).expect("a port");
    let base = Data::new(words.next().expect("the upstream's address"));
    let server = HttpServer::new(move || {
        App::new()
            .app_data(base.clone())
            .app_data(Data::new(client()))
            .service(health)
            .service(pass)
            .service(chat)
    })
    .workers(2)
    .tcp_nodelay(true)
    .bind(("127.0.0.1", port))?;
    server.run().await
}

fn client() -> Client {
    let connect =
        actix_tls::connect::Connector::default().service().map(|connection: Connection<Uri, TcpStream>| {
            let _ = connection.io_ref().set_nodelay(true);
            connection
        });
    let connector =
        Connector::new().connector(connect).conn_keep_alive(Duration::from_secs(15)).limit(16_384);
    Client::builder().connector(connector).disable_timeout().disable_redirects().no_default_headers().finish()
}

#[get("/health")]
async fn health() -> &'static str {
    "ok"
}

type Outcome = Result<HttpResponse, Box<dyn std::error::Error>>;

// A path without a pattern: actix-web would spend a quarter of the request on matching one.
#[post("/v1/chat/completions")]
async fn pass(body: Payload, client: Data<Client>, base: Data<String>) -> Outcome {
    let body = body.to_bytes().await?;
    let request = client.post(format!("{}/v1/chat/completions", base.as_str()));
    let answer = request.insert_header((CONTENT_TYPE, "application/json")).send_body(body).await?;
    let mut response = HttpResponse::build(answer.status());
    if let Some(media) = answer.headers().get(CONTENT_TYPE) {
        response.insert_header((CONTENT_TYPE, media));
    }
    let length = answer.headers().get("content-length").and_then(|value| value.to_str().ok()?.parse().ok());
    Ok(match length {
        Some(length) => response.no_chunking(length).streaming(answer),
        None => response.streaming(answer),
    })
}

#[derive(Deserialize)]
struct Question {
    message: String,
    model: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Upstream {
    message: String,
    model_name: String,
}

#[derive(Serialize)]
struct Envelope {
    success: bool,
    answer: String,
}

#[derive(Deserialize)]
struct Line {
    result: Part,
}

#[derive(Deserialize)]
struct Part {
    token: Option<String>,
    response: Option<Token>,
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
}

#[post("/api/chat")]
async fn chat(question: Json<Question>, client: Data<Client>, base: Data<String>) -> Outcome {
    let Question { message, model } = question.into_inner();
    let request = client.post(format!("{}/rest/app-chat/conversations/new", base.as_str()));
    let mut body = request.send_json(&Upstream { message, model_name: model }).await?;
    let mut answer = String::new();
    let mut rest = Vec::new();
    while let Some(bytes) = body.next().await {
        let bytes: Bytes = bytes?;
        rest.extend_from_slice(&bytes);
        let mut from = 0;
        while let Some(length) = memchr::memchr(b'\n', &rest[from..]) {
            let line: Line = serde_json::from_slice(&rest[from..from + length])?;
            let token = line.result.token.or(line.result.response.and_then(|response| response.token));
            answer.extend(token);
            from += length + 1;
        }
        rest.drain(..from);
    }
    Ok(HttpResponse::Ok().json(Envelope { success: true, answer }))
}
