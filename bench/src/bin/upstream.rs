//! The upstream of the benchmark: one thread, one write an answer or a token, and the same bytes
//! for the same question. It speaks the OpenAI protocol and a web chat's lines.
//!
//! `upstream 9000 20`: on that port, and it closes connections that were idle for so many milliseconds, if
//! not 0, as hosts do that keep them shorter than their clients.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Write;
use std::iter::once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mirrorgate_bench::answer::{Form, MARK, NUMBER_DIGITS, Script, TIME_DIGITS};
use mirrorgate_bench::now;
use mirrorgate_bench::upstream::{Request, Step, serve};
use tokio::net::TcpListener;

const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

type Bytes = Cow<'static, [u8]>;
type Steps = Box<dyn Iterator<Item = Step<Bytes>> + Send>;

fn main() -> std::io::Result<()> {
    let mut numbers = std::env::args().skip(1).map(|word| word.parse().expect("PORT IDLE_MILLISECONDS"));
    let port: u16 = numbers.next().unwrap_or(0);
    let idle = numbers.next().filter(|idle| *idle > 0).map(|idle| Duration::from_millis(idle.into()));
    // When a client last left in the middle of an answer.
    let left_at = Arc::new(AtomicU64::new(0));
    let leave = Arc::clone(&left_at);
    let answers = Mutex::new(HashMap::new());
    // All that is due is done before the system is asked again.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.event_interval(1024).enable_all().build()?.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        println!("{}", listener.local_addr()?);
        let script = move |request: &Request| answer(request, &answers, left_at.load(Ordering::Relaxed));
        serve(listener, idle, script, move || leave.store(now(), Ordering::Relaxed)).await;
        Ok(())
    })
}

/// By form and model.
type Answers = Mutex<HashMap<(Form, String), &'static [u8]>>;

fn answer(request: &Request, answers: &Answers, left_at: u64) -> Steps {
    let path = request.line.split(' ').nth(1).unwrap_or_default();
    let streams = || ["\"stream\":true", "\"stream\": true"].iter().any(|words| request.body.contains(words));
    let form = match path {
        _ if path.ends_with("/conversations/new") => Form::NewLines,
        _ if path.ends_with("/responses") => Form::NextLines,
        _ if !path.ends_with("/chat/completions") => {
            return Box::new(once(Step::Send(page(path, left_at).into_bytes().into())));
        }
        _ if streams() => Form::Events,
        _ => Form::Json,
    };
    let model = model(&request.body);
    match Script::of(model) {
        script @ Script::Pace { .. } if form != Form::Json => Box::new(paced(form, script, model)),
        script => {
            let mut answers = answers.lock().expect("one thread alone takes it");
            let bytes =
                answers.entry((form, model.to_string())).or_insert_with(|| whole(form, script, model).leak());
            Box::new(once(Step::Send(Cow::Borrowed(*bytes))))
        }
    }
}

fn page(path: &str, left_at: u64) -> String {
    let body = if path.ends_with("/models") {
        r#"{"object":"list","data":[{"id":"json","object":"model","created":1700000000,"owned_by":"bench"}]}"#
            .to_string()
    } else if path == "/bench/counts" {
        format!(r#"{{"left_at":{left_at}}}"#)
    } else {
        return "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".into();
    };
    json(&body)
}

/// The head with the opening now, the first token at once after it; tokens tell when they are sent.
fn paced(form: Form, script: Script, model: &str) -> impl Iterator<Item = Step<Bytes>> + Send + use<> {
    let template = chunk(&form.token(model, 0, 0));
    let time_at = memchr::memchr(MARK, &template).expect("a token holds the mark") + 1;
    let token = move |number: usize| {
        let mut chunk = template.clone();
        let number_at = time_at + TIME_DIGITS + 1;
        write!(&mut chunk[time_at..time_at + TIME_DIGITS], "{:016x}", now()).expect("it fits");
        write!(&mut chunk[number_at..number_at + NUMBER_DIGITS], "{number:05}").expect("it fits");
        chunk
    };
    let mut closing = chunk(&form.closing(model));
    closing.extend(LAST_CHUNK);
    let opening = [head(form), chunk(&form.opening(model))].concat();
    let begin = once(Step::Send(opening.into()));
    let first_at = now();
    let last = script.tokens() - 1;
    // Each step is made when its turn comes: first a pause, then the token with the time after it.
    begin.chain((0..2 * script.tokens()).map(move |step| {
        let number = step / 2;
        if step % 2 == 0 {
            let due = first_at + number as u64 * script.pause();
            return Step::Pause(Duration::from_nanos(due.saturating_sub(now())));
        }
        let mut bytes = token(number);
        if number == last {
            bytes.extend_from_slice(&closing);
        }
        Step::Send(bytes.into())
    }))
}

/// The model that a request's body names, under either protocol's word for it.
fn model(body: &str) -> &str {
    let find = || {
        let (_, rest) = body.split_once("\"model\":").or_else(|| body.split_once("\"modelName\":"))?;
        rest.trim_start().strip_prefix('"')?.split_once('"')
    };
    find().map_or("json", |(model, _)| model)
}

fn json(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// The head of a stream.
fn head(form: Form) -> Vec<u8> {
    let media = form.media_type();
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {media}\r\nCache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    .into_bytes()
}

/// A chunk of the chunked coding; nothing is none, since an empty one would be the last.
fn chunk(text: &str) -> Vec<u8> {
    if text.is_empty() { Vec::new() } else { format!("{:x}\r\n{text}\r\n", text.len()).into_bytes() }
}

/// An answer that goes out in one write; streamed ones have a chunk for each token all the same.
fn whole(form: Form, script: Script, model: &str) -> Vec<u8> {
    let parts = form.parts(script, model);
    if form == Form::Json {
        return json(&parts.concat()).into_bytes();
    }
    let chunks = parts.iter().map(|part| chunk(part));
    once(head(form)).chain(chunks).chain(once(LAST_CHUNK.to_vec())).flatten().collect()
}
