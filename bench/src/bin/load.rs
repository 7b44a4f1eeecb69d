//! The load generator: one thread, keep-alive connections, every latency kept, every answer checked.
//!
//! It reads what to do as JSON from standard input, the fields of `Plan`, and prints one line of JSON. CPU
//! time is read here and not by the caller, at the very moments between which calls are counted.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io::ErrorKind;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use mirrorgate_bench::answer::{self, Form, Script};
use mirrorgate_bench::check::{Check, Expected};
use mirrorgate_bench::process::{Usage, resident};
use mirrorgate_bench::{http, now};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{sleep, timeout};

/// How long a call may take.
const CALL_TIME: Duration = Duration::from_secs(60);
const SAMPLE_TIME: Duration = Duration::from_millis(250);
/// After a failure, so that a target that is down is not asked a million times.
const PAUSE: Duration = Duration::from_millis(50);

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Json,
    Events,
    /// Those of a web chat: the upstream's own form.
    Lines,
    /// A tool's call.
    Chat,
}

/// How the bytes of an answer are looked at.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Strictness {
    /// They are the upstream's.
    Exact,
    /// Its tokens are all there, in order.
    Text,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Plan {
    target: String,
    path: String,
    kind: Kind,
    model: String,
    key: String,
    /// One more line of the head, or nothing.
    header: String,
    /// Processes under test, and others of the benchmark, whose CPU time is read.
    pids: Vec<u32>,
    own_pids: Vec<u32>,
    connections: u64,
    check: Strictness,
    /// Calls go round and round; what ends within the second span counts.
    warmup_ms: u64,
    measure_ms: u64,
    /// Instead: one call a connection, begun evenly within the ramp.
    once: bool,
    ramp_ms: u64,
    /// Of a tool's calls: how many a conversation has before the next one begins; 0: none is gone on with.
    turns: usize,
    /// Conversations to go on with in turn.
    conversations: Vec<String>,
    /// Between an answer and the next call of the connection.
    think_ms: u64,
}

impl Plan {
    fn request(&self, conversation: Option<&str>) -> Vec<u8> {
        let Plan { target, path, key, model, .. } = self;
        let message = "Explain it. ".repeat(10);
        let messages = json!([{"role": "user", "content": message}]);
        let mut body = match self.kind {
            Kind::Chat => json!({"message": message, "model": model}),
            Kind::Lines => json!({"message": message, "modelName": model}),
            Kind::Json => json!({"model": model, "messages": messages}),
            Kind::Events => json!({"model": model, "messages": messages, "stream": true}),
        };
        if let Some(id) = conversation {
            body["conversation_id"] = id.into();
        }
        let (body, header) = (body.to_string(), &self.header);
        let more = if header.is_empty() { String::new() } else { format!("{header}\r\n") };
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {target}\r\nContent-Type: application/json\r\nAccept: */*\r\nAuthorization: Bearer {key}\r\n{more}"
        );
        format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    }

    fn expected(&self) -> Expected {
        let script = Script::of(&self.model);
        let form = match self.kind {
            Kind::Chat => return Expected::Envelope(answer::text(script)),
            Kind::Json => Form::Json,
            Kind::Events => Form::Events,
            Kind::Lines => Form::NewLines,
        };
        match self.check {
            Strictness::Exact => Expected::Bytes(form.parts(script, &self.model).concat()),
            Strictness::Text if form == Form::Json => Expected::Part(answer::text(script)),
            Strictness::Text => Expected::Tokens(script.tokens()),
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let plan: Plan = serde_json::from_reader(std::io::stdin())?;
    // All that is due is done before the system is asked again.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.event_interval(1024).enable_all().build()?;
    println!("{}", LocalSet::new().block_on(&runtime, measure(Rc::new(Run::new(plan)))));
    Ok(())
}

async fn measure(run: Rc<Run>) -> Value {
    let plan = &run.plan;
    let callers: Vec<_> =
        (0..plan.connections).map(|number| spawn_local(call_again(Rc::clone(&run), number))).collect();
    if !plan.once {
        sleep(Duration::from_millis(plan.warmup_ms)).await;
    }
    run.window.replace(Some(Window::new(plan)));
    let sampling = Rc::clone(&run);
    spawn_local(async move {
        loop {
            sampling.counted(|window| window.resident = window.resident.max(resident(&sampling.plan.pids)));
            sleep(SAMPLE_TIME).await;
        }
    });
    if plan.once {
        for caller in callers {
            caller.await.expect("a caller does not panic");
        }
    } else {
        sleep(Duration::from_millis(plan.measure_ms)).await;
    }
    let window = run.window.take().expect("it was opened above");
    window.result(Usage::of(&plan.pids, &plan.own_pids))
}

struct Run {
    plan: Plan,
    expected: Expected,
    /// A call that goes on with nothing.
    request: Vec<u8>,
    /// What is read goes here, from any connection.
    buffer: RefCell<Vec<u8>>,
    window: RefCell<Option<Window>>,
    /// How many of the conversations given were gone on with.
    used: Cell<usize>,
}

impl Run {
    fn new(plan: Plan) -> Self {
        Run {
            expected: plan.expected(),
            request: plan.request(None),
            buffer: RefCell::new(vec![0; 262_144]),
            window: RefCell::new(None),
            used: Cell::new(0),
            plan,
        }
    }

    /// Counts something, if the time for that has come.
    fn counted(&self, count: impl FnOnce(&mut Window)) {
        self.window.borrow_mut().as_mut().map(count);
    }
}

async fn call_again(run: Rc<Run>, number: u64) {
    let plan = &run.plan;
    sleep(Duration::from_micros(plan.ramp_ms * 1000 * number / plan.connections)).await;
    let mut caller = Caller { run: &run, stream: None, conversation: None, turn: 0 };
    loop {
        let called = timeout(CALL_TIME, caller.call()).await;
        let failed = called.unwrap_or_else(|_| Err("timeout".into())).err();
        if let Some(why) = &failed {
            caller = Caller { run: &run, stream: None, conversation: None, turn: 0 };
            match run.window.borrow_mut().as_mut() {
                Some(window) => *window.errors.entry(why.clone()).or_default() += 1,
                None => eprintln!("in the warm-up: {why}"),
            }
        }
        if plan.once {
            return;
        }
        match failed {
            Some(_) => sleep(PAUSE).await,
            None if plan.think_ms > 0 => sleep(Duration::from_millis(plan.think_ms)).await,
            None => {}
        }
    }
}

struct Caller<'a> {
    run: &'a Run,
    stream: Option<TcpStream>,
    conversation: Option<String>,
    turn: usize,
}

/// An answer on its way.
#[derive(Default)]
struct Answer {
    /// What came of its head.
    head: Vec<u8>,
    body: Option<http::Body>,
    check: Check,
    close: bool,
    /// When its first token came: what a person waits for; what comes before it is no text yet.
    first: Option<u64>,
}

impl Caller<'_> {
    async fn call(&mut self) -> Result<(), String> {
        let plan = &self.run.plan;
        if !plan.conversations.is_empty() {
            let used = self.run.used.replace(self.run.used.get() + 1);
            self.conversation = Some(plan.conversations[used % plan.conversations.len()].clone());
        }
        let with_id = self.conversation.as_deref().map(|id| plan.request(Some(id)));
        let request = with_id.as_ref().unwrap_or(&self.run.request);
        let started = now();
        let mut stream = match self.kept()? {
            Some(stream) => stream,
            None => self.connected().await.map_err(|error| format!("connect: {error}"))?,
        };
        stream.write_all(request).await.map_err(|error| format!("send: {}", error.kind()))?;
        let mut answer = Answer::default();
        while !poll_fn(|context| self.read(&mut stream, &mut answer, context)).await? {}
        answer.check.finish(&self.run.expected)?;
        self.count(started, answer.first);
        self.stream = Some(stream).filter(|_| !answer.close);
        self.turn = (self.turn + 1) % plan.turns.max(1);
        self.conversation = answer.check.conversation.take().filter(|_| self.turn > 0);
        Ok(())
    }

    /// The connection of the call before, unless the target has closed it since.
    fn kept(&mut self) -> Result<Option<TcpStream>, String> {
        let Some(stream) = self.stream.take() else { return Ok(None) };
        match stream.try_read(&mut [0]) {
            Ok(1..) => Err("bytes after the answer".into()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Some(stream)),
            Ok(0) | Err(_) => Ok(None),
        }
    }

    async fn connected(&self) -> std::io::Result<TcpStream> {
        let stream = TcpStream::connect(&self.run.plan.target).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Reads what is there; whether the answer is complete.
    fn read(
        &self,
        stream: &mut TcpStream,
        answer: &mut Answer,
        context: &mut Context,
    ) -> Poll<Result<bool, String>> {
        let buffer = &mut *self.run.buffer.borrow_mut();
        let mut read = ReadBuf::new(buffer);
        let outcome = ready!(Pin::new(stream).poll_read(context, &mut read));
        Poll::Ready(match outcome {
            Err(error) => Err(format!("read: {}", error.kind())),
            Ok(()) if !read.filled().is_empty() => self.take(answer, read.filled()),
            Ok(()) => {
                answer.close = answer.body == Some(http::Body::UntilClose);
                if answer.close { Ok(true) } else { Err("closed early".into()) }
            }
        })
    }

    fn take(&self, answer: &mut Answer, bytes: &[u8]) -> Result<bool, String> {
        let time = now();
        let (mut bytes, mut joined) = (bytes, std::mem::take(&mut answer.head));
        if answer.body.is_none() {
            if !joined.is_empty() {
                joined.extend_from_slice(bytes);
                bytes = &joined;
            }
            let Some(head) = http::head(bytes, true) else {
                answer.head = bytes.to_vec();
                return Ok(false);
            };
            let status = head.first.split(' ').nth(1).unwrap_or_default();
            if status != "200" {
                return Err(format!("status {status}"));
            }
            answer.close = head.close;
            answer.body = Some(head.body);
            bytes = &bytes[head.size..];
        }
        let Some(body) = &mut answer.body else { return Ok(false) };
        let (check, first) = (&mut answer.check, &mut answer.first);
        let window = &mut *self.run.window.borrow_mut();
        let fed = body.feed(bytes, |part| {
            check.feed(&self.run.expected, part, |sent| {
                first.get_or_insert(time);
                if let Some(window) = window {
                    window.chunks += 1;
                    window.transits.extend((sent > 0).then(|| time.saturating_sub(sent)));
                }
            });
        });
        match fed {
            None => Err("bad framing".into()),
            Some((taken, true)) if taken < bytes.len() => Err("bytes after the answer".into()),
            Some((_, is_complete)) => Ok(is_complete),
        }
    }

    fn count(&self, started: u64, first: Option<u64>) {
        let took = now() - started;
        let script = Script::of(&self.run.plan.model);
        let ideal = script.pause() * (script.tokens() as u64 - 1);
        self.run.counted(|window| {
            window.latencies.push(took);
            if started >= window.from {
                window.firsts.extend(first.map(|first| first - started));
                window.stretches.extend((ideal > 0).then(|| took * 1_000_000 / ideal.max(1)));
            }
        });
    }
}

/// The span in which calls are counted.
#[derive(Default)]
struct Window {
    from: u64,
    usage: Usage,
    resident: u64,
    latencies: Vec<u64>,
    firsts: Vec<u64>,
    transits: Vec<u64>,
    stretches: Vec<u64>,
    chunks: u64,
    errors: BTreeMap<String, u64>,
}

impl Window {
    fn new(plan: &Plan) -> Self {
        Window { from: now(), usage: Usage::of(&plan.pids, &plan.own_pids), ..Window::default() }
    }

    fn result(mut self, end: Usage) -> Value {
        let nanoseconds = (now() - self.from) as f64;
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        let since = |then: u64, now: u64| now.saturating_sub(then) as f64;
        let (target, own) = (since(self.usage.target, end.target), since(self.usage.own, end.own));
        let requests = self.latencies.len();
        json!({
            "requests": requests,
            "errors": self.errors,
            "requests_per_second": requests as f64 / (nanoseconds / 1e9),
            "latency_us": summary(&mut self.latencies),
            "first_us": summary(&mut self.firsts),
            "transit_us": summary(&mut self.transits),
            "stretch_ppm": summary(&mut self.stretches),
            "chunks": self.chunks,
            "cpu_us": target / 1e3,
            "own_cpu_us": own / 1e3,
            "resident_bytes": self.resident,
            // What others used and what the host took away: the noise of this one cell.
            "foreign_share": (since(self.usage.busy, end.busy) - target - own) / (nanoseconds * cores),
            "stolen_share": since(self.usage.stolen, end.stolen) / (nanoseconds * cores),
        })
    }
}

fn summary(values: &mut [u64]) -> Value {
    if values.is_empty() {
        return Value::Null;
    }
    values.sort_unstable();
    // The nearest rank: a value that was measured, and none between two.
    let rank = |share: f64| {
        let index = (share * values.len() as f64).ceil() as usize;
        values[index.clamp(1, values.len()) - 1] as f64 / 1e3
    };
    json!({"p50": rank(0.5), "p99": rank(0.99), "max": rank(1.0)})
}
