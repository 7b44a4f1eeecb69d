//! The upstream of the benchmark: one thread, one write an answer or a token, and the same bytes
//! for the same question. It speaks the OpenAI protocol and a web chat's lines.
//!
//! `upstream --port 9000 [--idle-close-ms 20]`; the second makes it close connections that were idle
//! for so long, as hosts do that keep them shorter than their clients.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io::{ErrorKind, Read, Write};
use std::rc::Rc;
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use mirrorgate_bench::answer::{Form, MARK, NUMBER_DIGITS, Script, TIME_DIGITS};
use mirrorgate_bench::arguments::Arguments;
use mirrorgate_bench::{http, now};

const LISTENER: Token = Token(usize::MAX);

fn main() -> std::io::Result<()> {
    let arguments = Arguments::of_process();
    let port: u16 = arguments.get("port", 0);
    let idle_close = arguments.get("idle-close-ms", 0_u64) * 1_000_000;
    let mut listener = TcpListener::bind(([127, 0, 0, 1], port).into())?;
    let mut server = Server {
        poll: Poll::new()?,
        connections: Vec::new(),
        free: Vec::new(),
        timers: BinaryHeap::new(),
        answers: HashMap::new(),
        tokens: HashMap::new(),
        idle_close,
        counts: Counts::default(),
    };
    server.poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    println!("{}", listener.local_addr()?);
    let mut events = Events::with_capacity(1024);
    loop {
        let wait =
            server.timers.peek().map(|Reverse((due, ..))| Duration::from_nanos(due.saturating_sub(now())));
        match server.poll.poll(&mut events, wait) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result?,
        }
        for event in &events {
            match event.token() {
                LISTENER => server.accept(&listener)?,
                Token(index) => {
                    if event.is_readable() {
                        server.read(index);
                    }
                    if event.is_writable() {
                        server.flush(index);
                    }
                }
            }
        }
        server.run_timers();
    }
}

struct Server {
    poll: Poll,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    /// When what is due: the time, the connection, and the request that it belongs to.
    timers: BinaryHeap<Reverse<(u64, usize, u64)>>,
    /// Answers that go out in one write.
    answers: HashMap<(Form, String), Rc<Vec<u8>>>,
    /// The chunk of a token, to be filled in.
    tokens: HashMap<(Form, String), Rc<Template>>,
    idle_close: u64,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    connections: u64,
    requests: u64,
    /// When a client last left in the middle of an answer.
    left_at: u64,
}

struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
    /// What the system has not taken yet.
    unsent: Vec<u8>,
    play: Option<Play>,
    /// The number of requests so far: timers of an earlier one are void.
    serial: u64,
}

/// A paced answer that is under way.
struct Play {
    form: Form,
    model: String,
    template: Rc<Template>,
    script: Script,
    next: usize,
    first_at: u64,
}

struct Template {
    chunk: Vec<u8>,
    time_at: usize,
}

impl Template {
    fn new(form: Form, model: &str) -> Self {
        let chunk = chunk(&form.token(model, 0, 0));
        let mark = memchr::memchr(MARK, &chunk).expect("a token holds the mark");
        Template { chunk, time_at: mark + 1 }
    }

    fn fill(&self, number: usize, time: u64) -> Vec<u8> {
        let mut chunk = self.chunk.clone();
        let number_at = self.time_at + TIME_DIGITS + 1;
        write!(&mut chunk[self.time_at..self.time_at + TIME_DIGITS], "{time:016x}").expect("it fits");
        write!(&mut chunk[number_at..number_at + NUMBER_DIGITS], "{number:05}").expect("it fits");
        chunk
    }
}

impl Server {
    fn accept(&mut self, listener: &TcpListener) -> std::io::Result<()> {
        loop {
            let mut stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(_) => continue,
            };
            let _ = stream.set_nodelay(true);
            let index = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            self.poll.registry().register(
                &mut stream,
                Token(index),
                Interest::READABLE | Interest::WRITABLE,
            )?;
            // A serial that no timer of the slot's earlier connection has.
            let serial = (self.counts.connections + 1) << 32;
            self.counts.connections += 1;
            self.connections[index] =
                Some(Connection { stream, input: Vec::new(), unsent: Vec::new(), play: None, serial });
        }
    }

    fn close(&mut self, index: usize) {
        if let Some(connection) = self.connections[index].take() {
            if connection.play.is_some() {
                self.counts.left_at = now();
            }
            self.free.push(index);
        }
    }

    fn read(&mut self, index: usize) {
        let mut bytes = [0; 65536];
        loop {
            let Some(connection) = &mut self.connections[index] else { return };
            match connection.stream.read(&mut bytes) {
                Ok(0) => return self.close(index),
                Ok(count) => {
                    connection.input.extend_from_slice(&bytes[..count]);
                    self.take_requests(index);
                    // A short read has emptied the socket: the next byte brings a new event.
                    if count < bytes.len() {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return self.close(index),
            }
        }
    }

    fn take_requests(&mut self, index: usize) {
        while let Some(connection) = &mut self.connections[index] {
            let Some(head) = http::head(&connection.input, false) else { return };
            let mut body = Vec::new();
            let mut framing = head.body;
            let (taken, complete) = match framing {
                http::Body::Length(0) => (0, true),
                _ => {
                    match framing.feed(&connection.input[head.size..], |part| body.extend_from_slice(part)) {
                        Some(progress) => progress,
                        None => return self.close(index),
                    }
                }
            };
            if !complete {
                return;
            }
            let first = head.first.to_string();
            let size = head.size + taken;
            connection.input.drain(..size);
            connection.serial += 1;
            self.counts.requests += 1;
            self.answer(index, &first, &body);
        }
    }

    fn answer(&mut self, index: usize, first: &str, body: &[u8]) {
        let path = first.split(' ').nth(1).unwrap_or_default();
        let form = if path.ends_with("/chat/completions") {
            if memchr::memmem::find(body, b"\"stream\":true").is_some()
                || memchr::memmem::find(body, b"\"stream\": true").is_some()
            {
                Form::Events
            } else {
                Form::Json
            }
        } else if path.ends_with("/conversations/new") {
            Form::NewLines
        } else if path.ends_with("/responses") {
            Form::NextLines
        } else {
            let text = self.page(path);
            return self.send(index, text.as_bytes());
        };
        let model = model(body);
        match Script::of(model) {
            Script::Pace { .. } if form != Form::Json => self.play(index, form, model),
            script => {
                let key = (form, model.to_string());
                let answer = self.answers.entry(key).or_insert_with(|| Rc::new(whole(form, script, model)));
                let answer = Rc::clone(answer);
                self.send(index, &answer);
                self.watch_idle(index);
            }
        }
    }

    fn page(&self, path: &str) -> String {
        let body = if path.ends_with("/models") {
            r#"{"object":"list","data":[{"id":"json","object":"model","created":1700000000,"owned_by":"bench"}]}"#.to_string()
        } else if path == "/bench/counts" {
            let Counts { connections, requests, left_at } = &self.counts;
            format!(r#"{{"connections":{connections},"requests":{requests},"left_at":{left_at}}}"#)
        } else {
            return "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".into();
        };
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    /// Begins a paced answer: the head with the opening now, the first token at once after it.
    fn play(&mut self, index: usize, form: Form, model: &str) {
        let template = self.tokens.entry((form, model.to_string()));
        let template = Rc::clone(template.or_insert_with(|| Rc::new(Template::new(form, model))));
        let Some(connection) = &mut self.connections[index] else { return };
        let first_at = now();
        let serial = connection.serial;
        connection.play =
            Some(Play { form, model: model.into(), template, script: Script::of(model), next: 0, first_at });
        let mut opening = stream_head(form);
        if !form.opening(model).is_empty() {
            opening.extend(chunk(&form.opening(model)));
        }
        self.send(index, &opening);
        self.play_on(index, serial);
    }

    /// Sends what is due, and sets the timer for what follows.
    fn play_on(&mut self, index: usize, serial: u64) {
        let Some(connection) = &mut self.connections[index] else { return };
        let Some(play) = connection.play.as_mut().filter(|_| connection.serial == serial) else { return };
        let pause = play.script.pause();
        let time = now();
        if time < play.first_at + play.next as u64 * pause {
            self.timers.push(Reverse((play.first_at + play.next as u64 * pause, index, serial)));
            return;
        }
        let mut bytes = play.template.fill(play.next, time);
        play.next += 1;
        if play.next == play.script.tokens() {
            bytes.extend(chunk(&play.form.closing(&play.model)));
            bytes.extend(b"0\r\n\r\n");
            connection.play = None;
            self.send(index, &bytes);
            self.watch_idle(index);
        } else {
            let due = play.first_at + play.next as u64 * pause;
            self.timers.push(Reverse((due, index, serial)));
            self.send(index, &bytes);
        }
    }

    fn watch_idle(&mut self, index: usize) {
        if let (1.., Some(connection)) = (self.idle_close, &self.connections[index]) {
            self.timers.push(Reverse((now() + self.idle_close, index, connection.serial)));
        }
    }

    fn run_timers(&mut self) {
        let time = now();
        while let Some(&Reverse((due, index, serial))) = self.timers.peek() {
            if due > time {
                return;
            }
            self.timers.pop();
            let Some(connection) = &self.connections[index] else { continue };
            if connection.serial != serial {
                continue;
            }
            if connection.play.is_some() {
                self.play_on(index, serial);
            } else if self.idle_close > 0 {
                self.close(index);
            }
        }
    }

    fn send(&mut self, index: usize, bytes: &[u8]) {
        let Some(connection) = &mut self.connections[index] else { return };
        if !connection.unsent.is_empty() {
            connection.unsent.extend_from_slice(bytes);
            return;
        }
        match connection.stream.write(bytes) {
            Ok(count) => connection.unsent.extend_from_slice(&bytes[count..]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => connection.unsent.extend_from_slice(bytes),
            Err(_) => self.close(index),
        }
    }

    fn flush(&mut self, index: usize) {
        let Some(connection) = &mut self.connections[index] else { return };
        while !connection.unsent.is_empty() {
            match connection.stream.write(&connection.unsent) {
                Ok(count) => drop(connection.unsent.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => return self.close(index),
            }
        }
    }
}

/// The model that a request's body names, under either protocol's word for it.
fn model(body: &[u8]) -> &str {
    let after = |key: &[u8]| memchr::memmem::find(body, key).map(|at| &body[at + key.len()..]);
    let find = || {
        let rest = after(b"\"model\":")
            .or_else(|| after(b"\"modelName\":"))?
            .trim_ascii_start()
            .strip_prefix(b"\"")?;
        std::str::from_utf8(&rest[..memchr::memchr(b'"', rest)?]).ok()
    };
    find().unwrap_or("json")
}

fn stream_head(form: Form) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {}\r\nCache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n",
        form.media_type()
    )
    .into_bytes()
}

fn chunk(text: &str) -> Vec<u8> {
    format!("{:x}\r\n{text}\r\n", text.len()).into_bytes()
}

/// An answer that goes out in one write; streamed ones have a chunk for each token all the same.
fn whole(form: Form, script: Script, model: &str) -> Vec<u8> {
    if form == Form::Json {
        let body = form.body(script, model);
        return format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes();
    }
    let mut bytes = stream_head(form);
    if !form.opening(model).is_empty() {
        bytes.extend(chunk(&form.opening(model)));
    }
    for number in 0..script.tokens() {
        bytes.extend(chunk(&form.token(model, number, 0)));
    }
    bytes.extend(chunk(&form.closing(model)));
    bytes.extend(b"0\r\n\r\n");
    bytes
}
