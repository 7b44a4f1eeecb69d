//! The load generator: one thread, keep-alive connections, every latency kept, every answer checked.
//!
//! `load --target 127.0.0.1:8080 --path /v1/chat/completions --kind json --model json --connections 64`
//!
//! | option | meaning |
//! | --- | --- |
//! | `--kind` | `json`, `events`, `lines` (the upstream's own form), or `chat` (a tool call) |
//! | `--check` | `exact`: the answer's bytes are the upstream's; `text`: its tokens are all there in order |
//! | `--warmup-ms`, `--measure-ms` | calls go round and round; what ends within the second span counts |
//! | `--once yes`, `--ramp-ms` | instead: one call a connection, begun evenly within the ramp |
//! | `--turns` | `chat`: calls in a conversation before the next one begins; 0: none is gone on with |
//! | `--conversations` | `chat`: a file of ids, a line each, to go on with in turn |
//! | `--think-ms` | pause between an answer and the next call of the connection |
//! | `--pids`, `--own-pids` | processes under test, and others of the benchmark, whose CPU time is read |
//! | `--key`, `--header` | bearer key; one more header line |
//!
//! The result is one line of JSON. CPU time is read here and not by the caller, at the very moments
//! between which calls are counted.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use mirrorgate_bench::answer::{self, Form, Script};
use mirrorgate_bench::arguments::{Arguments, fail};
use mirrorgate_bench::check::{Check, Expected};
use mirrorgate_bench::process::{self, Usage};
use mirrorgate_bench::{http, now};
use serde_json::{Value, json};

/// How long a call may take.
const CALL_TIME: u64 = 60_000_000_000;
const SAMPLE_TIME: u64 = 250_000_000;

fn main() -> std::io::Result<()> {
    let plan = Plan::new(&Arguments::of_process());
    let mut run = Run::new(plan)?;
    run.go()?;
    println!("{}", run.result());
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain(Form),
    Chat,
}

struct Plan {
    target: SocketAddr,
    kind: Kind,
    model: String,
    script: Script,
    exact: bool,
    head: String,
    connections: usize,
    warmup: u64,
    measure: u64,
    once: bool,
    ramp: u64,
    turns: usize,
    conversations: Vec<String>,
    think: u64,
    message: String,
    pids: Vec<u32>,
    own_pids: Vec<u32>,
}

impl Plan {
    fn new(arguments: &Arguments) -> Self {
        let kind = match arguments.need("kind") {
            "json" => Kind::Plain(Form::Json),
            "events" => Kind::Plain(Form::Events),
            "lines" => Kind::Plain(Form::NewLines),
            "chat" => Kind::Chat,
            other => fail(&format!("unknown --kind {other}")),
        };
        let target = arguments.need("target");
        let mut head = format!(
            "POST {} HTTP/1.1\r\nHost: {target}\r\nContent-Type: application/json\r\nAccept: */*\r\n",
            arguments.need("path")
        );
        if let Some(key) = arguments.text("key") {
            head += &format!("Authorization: Bearer {key}\r\n");
        }
        if let Some(line) = arguments.text("header") {
            head += &format!("{line}\r\n");
        }
        let milliseconds = |name, default| arguments.get(name, default) * 1_000_000_u64;
        let pids = |name| {
            let list = arguments.text(name).unwrap_or_default().split(',');
            list.filter_map(|pid| pid.parse().ok()).collect()
        };
        let model = arguments.need("model").to_string();
        Plan {
            target: target.parse().unwrap_or_else(|_| fail("--target is not an address")),
            kind,
            script: Script::of(&model),
            model,
            exact: arguments.text("check") == Some("exact"),
            head,
            connections: arguments.get("connections", 1),
            warmup: milliseconds("warmup-ms", 300),
            measure: milliseconds("measure-ms", 2000),
            once: arguments.text("once") == Some("yes"),
            ramp: milliseconds("ramp-ms", 0),
            turns: arguments.get("turns", 0),
            conversations: arguments.text("conversations").map_or_else(Vec::new, |path| {
                let text =
                    std::fs::read_to_string(path).unwrap_or_else(|error| fail(&format!("{path}: {error}")));
                text.lines().map(String::from).collect()
            }),
            think: milliseconds("think-ms", 0),
            message: arguments
                .get("message-bytes", 120)
                .pipe(|bytes: usize| "Explain it. ".repeat(bytes.div_ceil(12))),
            pids: pids("pids"),
            own_pids: pids("own-pids"),
        }
    }

    fn request(&self, conversation: Option<&str>) -> Vec<u8> {
        let (model, message) = (&self.model, &self.message);
        let body = match self.kind {
            Kind::Chat => match conversation {
                Some(id) => json!({"message": message, "model": model, "conversation_id": id}),
                None => json!({"message": message, "model": model}),
            },
            Kind::Plain(Form::NewLines | Form::NextLines) => json!({"message": message, "modelName": model}),
            Kind::Plain(form) => {
                let mut body = json!({"model": model, "messages": [{"role": "user", "content": message}]});
                if form == Form::Events {
                    body["stream"] = true.into();
                }
                body
            }
        }
        .to_string();
        format!("{}Content-Length: {}\r\n\r\n{body}", self.head, body.len()).into_bytes()
    }

    fn expected(&self) -> Expected {
        let text = answer::text(self.script);
        match self.kind {
            Kind::Plain(form) if self.exact => Expected::bytes(form.body(self.script, &self.model)),
            Kind::Plain(Form::Json) => Expected::part(text),
            Kind::Plain(_) => Expected::tokens(self.script.tokens()),
            Kind::Chat => Expected::envelope(text),
        }
    }
}

trait Pipe: Sized {
    fn pipe<T>(self, f: impl FnOnce(Self) -> T) -> T {
        f(self)
    }
}
impl Pipe for usize {}

struct Run {
    plan: Plan,
    expected: Expected,
    request: Vec<u8>,
    poll: Poll,
    connections: Vec<Connection>,
    /// When a connection has something to do, by its call's number.
    timers: BinaryHeap<Reverse<(u64, usize, u64)>>,
    begin: u64,
    window: Option<Window>,
    /// How many of the conversations given were gone on with.
    used: usize,
    finished: usize,
    over: bool,
}

/// The span in which calls are counted.
struct Window {
    from: u64,
    to: Option<u64>,
    usage: (Usage, Option<Usage>),
    next_sample: u64,
    resident: u64,
    latencies: Vec<u64>,
    firsts: Vec<u64>,
    transits: Vec<u64>,
    stretches: Vec<u64>,
    chunks: u64,
    reads: u64,
    errors: BTreeMap<String, u64>,
}

struct Connection {
    stream: Option<TcpStream>,
    unsent: Vec<u8>,
    input: Vec<u8>,
    body: Option<http::Body>,
    close: bool,
    check: Check,
    started: u64,
    first: Option<u64>,
    call: u64,
    busy: bool,
    conversation: Option<String>,
    turn: usize,
}

impl Run {
    fn new(plan: Plan) -> std::io::Result<Self> {
        let connections = (0..plan.connections).map(|_| Connection {
            stream: None,
            unsent: Vec::new(),
            input: Vec::new(),
            body: None,
            close: false,
            check: Check::default(),
            started: 0,
            first: None,
            call: 0,
            busy: false,
            conversation: None,
            turn: 0,
        });
        Ok(Run {
            expected: plan.expected(),
            request: plan.request(None),
            poll: Poll::new()?,
            connections: connections.collect(),
            timers: BinaryHeap::new(),
            begin: now(),
            window: None,
            used: 0,
            finished: 0,
            over: false,
            plan,
        })
    }

    fn go(&mut self) -> std::io::Result<()> {
        self.begin = now();
        for index in 0..self.connections.len() {
            let at = self.begin + self.plan.ramp * index as u64 / self.plan.connections as u64;
            self.timers.push(Reverse((at, index, 0)));
        }
        if self.plan.once {
            self.open_window();
        }
        let mut events = Events::with_capacity(1024);
        let mut buffer = vec![0; 262_144];
        while !self.over {
            self.run_timers();
            self.keep_time();
            let next = self.timers.peek().map_or(u64::MAX, |Reverse((at, ..))| *at);
            let wait = Duration::from_nanos(next.saturating_sub(now()).min(20_000_000));
            match self.poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => result?,
            }
            for event in &events {
                let Token(index) = event.token();
                if event.is_writable() {
                    self.flush(index);
                }
                if event.is_readable() {
                    self.read(index, &mut buffer);
                }
            }
        }
        Ok(())
    }

    fn open_window(&mut self) {
        self.window = Some(Window {
            from: now(),
            to: None,
            usage: (Usage::of(&self.plan.pids, &self.plan.own_pids), None),
            next_sample: 0,
            resident: 0,
            latencies: Vec::new(),
            firsts: Vec::new(),
            transits: Vec::new(),
            stretches: Vec::new(),
            chunks: 0,
            reads: 0,
            errors: BTreeMap::new(),
        });
    }

    fn keep_time(&mut self) {
        let time = now();
        let all_done = self.finished == self.plan.connections;
        let Some(window) = &mut self.window else {
            if time >= self.begin + self.plan.warmup {
                self.open_window();
            }
            return;
        };
        if time >= window.next_sample {
            window.next_sample = time + SAMPLE_TIME;
            window.resident = window.resident.max(process::resident(&self.plan.pids));
        }
        let ends = if self.plan.once { all_done } else { time >= window.from + self.plan.measure };
        if ends {
            window.usage.1 = Some(Usage::of(&self.plan.pids, &self.plan.own_pids));
            window.to = Some(now());
            self.over = true;
        }
    }

    fn run_timers(&mut self) {
        let time = now();
        while let Some(&Reverse((at, index, call))) = self.timers.peek() {
            if at > time {
                return;
            }
            self.timers.pop();
            let connection = &self.connections[index];
            if connection.call != call {
                continue;
            }
            if connection.busy {
                self.fail(index, "timeout");
            } else {
                self.begin_call(index);
            }
        }
    }

    fn begin_call(&mut self, index: usize) {
        let time = now();
        let connection = &mut self.connections[index];
        connection.call += 1;
        connection.busy = true;
        if !self.plan.conversations.is_empty() {
            let next = self.used % self.plan.conversations.len();
            connection.conversation = Some(self.plan.conversations[next].clone());
            self.used += 1;
        }
        connection.body = None;
        connection.check = Check::default();
        connection.first = None;
        connection.started = time;
        connection.input.clear();
        connection.unsent = match &connection.conversation {
            Some(id) => self.plan.request(Some(id)),
            None => self.request.clone(),
        };
        // One timer a second of patience is enough, but one for every call would fill the heap.
        if self.plan.once || connection.call % 1024 == 1 {
            self.timers.push(Reverse((time + CALL_TIME, index, connection.call)));
        }
        if connection.stream.is_none() {
            match TcpStream::connect(self.plan.target) {
                Ok(mut stream) => {
                    let interest = Interest::READABLE | Interest::WRITABLE;
                    let registered = self.poll.registry().register(&mut stream, Token(index), interest);
                    registered.unwrap_or_else(|error| fail(&error.to_string()));
                    connection.stream = Some(stream);
                }
                Err(error) => self.fail(index, &format!("connect: {error}")),
            }
        } else {
            self.flush(index);
        }
    }

    fn flush(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        let Some(stream) = &mut connection.stream else { return };
        if connection.unsent.is_empty() {
            return;
        }
        if connection.call == 1 {
            let _ = stream.set_nodelay(true);
        }
        match stream.write(&connection.unsent) {
            Ok(count) => drop(connection.unsent.drain(..count)),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {}
            Err(error) => self.fail(index, &format!("send: {}", error.kind())),
        }
    }

    fn read(&mut self, index: usize, buffer: &mut [u8]) {
        loop {
            let connection = &mut self.connections[index];
            let Some(stream) = &mut connection.stream else { return };
            match stream.read(buffer) {
                Ok(0) if connection.busy => {
                    let until_close = connection.body == Some(http::Body::UntilClose);
                    if until_close {
                        connection.close = true;
                        self.end_call(index);
                    } else {
                        self.fail(index, "closed early");
                    }
                    return;
                }
                Ok(0) => {
                    connection.stream = None;
                    return;
                }
                Ok(count) => {
                    self.take(index, &buffer[..count]);
                    if count < buffer.len() {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if connection.busy => return self.fail(index, &format!("read: {}", error.kind())),
                Err(_) => {
                    connection.stream = None;
                    return;
                }
            }
        }
    }

    fn take(&mut self, index: usize, bytes: &[u8]) {
        let time = now();
        let connection = &mut self.connections[index];
        if !connection.busy {
            return self.fail(index, "bytes after the answer");
        }
        let mut joined = Vec::new();
        let mut bytes = bytes;
        if connection.body.is_none() {
            if !connection.input.is_empty() {
                connection.input.extend_from_slice(bytes);
                joined = std::mem::take(&mut connection.input);
                bytes = &joined;
            }
            let Some(head) = http::head(bytes, true) else {
                if joined.is_empty() {
                    connection.input.extend_from_slice(bytes);
                } else {
                    connection.input = joined;
                }
                return;
            };
            let status = head.first.split(' ').nth(1).unwrap_or_default();
            if status != "200" {
                let message = format!("status {status}");
                return self.fail(index, &message);
            }
            connection.close = head.close;
            connection.body = Some(head.body);
            bytes = &bytes[head.size..];
        }
        let Some(body) = &mut connection.body else { return };
        let (check, expected, first) = (&mut connection.check, &self.expected, &mut connection.first);
        let mut window = self.window.as_mut();
        if let Some(window) = &mut window {
            window.reads += 1;
        }
        let fed = body.feed(bytes, |part| {
            check.feed(expected, part, |sent| {
                // The first token is what a person waits for; what comes before it is no text yet.
                first.get_or_insert(time);
                if let Some(window) = &mut window {
                    window.chunks += 1;
                    if sent > 0 {
                        window.transits.push(time.saturating_sub(sent));
                    }
                }
            });
        });
        match fed {
            None => self.fail(index, "bad framing"),
            Some((taken, true)) if taken < bytes.len() => self.fail(index, "bytes after the answer"),
            Some((_, true)) => self.end_call(index),
            Some((_, false)) => {}
        }
    }

    fn end_call(&mut self, index: usize) {
        let time = now();
        let connection = &mut self.connections[index];
        if let Err(why) = connection.check.finish(&self.expected) {
            return self.fail(index, &why);
        }
        connection.busy = false;
        let took = time - connection.started;
        if let Some(window) = &mut self.window {
            window.latencies.push(took);
            let in_window = connection.started >= window.from;
            window
                .firsts
                .extend(connection.first.filter(|_| in_window).map(|first| first - connection.started));
            let ideal = self.plan.script.pause() * (self.plan.script.tokens() as u64 - 1);
            if ideal > 0 && in_window {
                window.stretches.push(took * 1_000_000 / ideal);
            }
        }
        if connection.close {
            connection.stream = None;
        }
        if self.plan.kind == Kind::Chat && self.plan.turns > 0 {
            connection.turn += 1;
            let goes_on = connection.turn < self.plan.turns;
            connection.conversation = connection.check.conversation().filter(|_| goes_on);
            if !goes_on {
                connection.turn = 0;
            }
        }
        self.next_call(index);
    }

    fn next_call(&mut self, index: usize) {
        let call = self.connections[index].call;
        if self.plan.once {
            self.finished += 1;
        } else if self.plan.think > 0 {
            self.timers.push(Reverse((now() + self.plan.think, index, call)));
        } else {
            self.begin_call(index);
        }
    }

    fn fail(&mut self, index: usize, why: &str) {
        let connection = &mut self.connections[index];
        connection.stream = None;
        connection.busy = false;
        connection.conversation = None;
        connection.turn = 0;
        let call = connection.call;
        match &mut self.window {
            Some(window) => *window.errors.entry(why.to_string()).or_default() += 1,
            None => eprintln!("in the warm-up: {why}"),
        }
        if self.plan.once {
            self.finished += 1;
        } else {
            // A pause, so that a target that is down is not asked a million times.
            self.timers.push(Reverse((now() + 50_000_000, index, call)));
        }
    }

    fn result(&mut self) -> Value {
        let Some(window) = &mut self.window else { fail("nothing was measured") };
        let seconds = (window.to.unwrap_or(window.from) - window.from) as f64 / 1e9;
        let (from, Some(to)) = (&window.usage.0, &window.usage.1) else { fail("the end was not measured") };
        let requests = window.latencies.len();
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        let nanoseconds = seconds * 1e9 * cores;
        json!({
            "requests": requests,
            "errors": window.errors,
            "seconds": seconds,
            "requests_per_second": requests as f64 / seconds,
            "latency_us": summary(&mut window.latencies),
            "first_us": summary(&mut window.firsts),
            "transit_us": summary(&mut window.transits),
            "stretch_ppm": summary(&mut window.stretches),
            "chunks": window.chunks,
            "reads": window.reads,
            "cpu_us": (to.target - from.target) as f64 / 1e3,
            "own_cpu_us": (to.own - from.own) as f64 / 1e3,
            "resident_bytes": window.resident,
            // What others used and what the host took away: the noise of this one cell.
            "foreign_share": (to.busy.saturating_sub(from.busy) as f64
                - (to.target + to.own - from.target - from.own) as f64) / nanoseconds,
            "stolen_share": (to.stolen - from.stolen) as f64 / nanoseconds,
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
    json!({"p50": rank(0.5), "p90": rank(0.9), "p99": rank(0.99), "max": rank(1.0)})
}
