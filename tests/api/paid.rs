//! Paid once: whatever breaks while a question is asked, the upstreams get it once. What they got is
//! counted here, for each break on each face. One more is allowed only where a used connection breaks at
//! once: then the upstream may have closed it before.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use crate::faces::{Face, good, good_body};
use crate::helpers::{TestApp, spawn_before};
use crate::upstream::{Fake, Request, Step};

/// How far the question and its answer are when the connection breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum When {
    /// The upstream has read the beginning.
    Writing,
    /// It has read all of it.
    Written,
    /// It has begun to answer.
    Answering,
}

/// A break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Break {
    when: When,
    /// How long after that.
    after: Duration,
    /// Whether the connection is reset, and not just closed.
    reset: bool,
    /// Whether an earlier question was answered on the connection.
    used: bool,
}

fn breaks() -> Vec<Break> {
    let mut all = Vec::new();
    for when in [When::Writing, When::Written, When::Answering] {
        let waits: &[u64] = if when == When::Writing { &[0, 50] } else { &[0, 50, 3000] };
        for after in waits.iter().copied().map(Duration::from_millis) {
            for (reset, used) in [(false, false), (false, true), (true, false), (true, true)] {
                all.push(Break { when, after, reset, used });
            }
        }
    }
    all
}

/// What the upstreams of one test know and have seen.
#[derive(Default)]
struct Upstreams {
    /// What is to happen to a question, by its first word.
    plans: HashMap<String, Break>,
    /// How often each question came.
    came: HashMap<String, usize>,
    /// The questions on whose connections the break happened.
    broken: HashSet<String>,
}

type Shared = Arc<Mutex<Upstreams>>;

/// Starts an upstream, and gives its address.
async fn start(protocol: &'static str, shared: &Shared) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            tokio::spawn(serve(stream, protocol, Arc::clone(&shared)));
        }
    });
    url
}

/// Serves one connection until it breaks or the gateway leaves.
async fn serve(mut stream: TcpStream, protocol: &'static str, shared: Shared) {
    let mut bytes = Vec::new();
    for earlier in 0.. {
        let question = loop {
            if !read(&mut stream, &mut bytes).await {
                return;
            }
            if let Some(question) = named(&bytes) {
                break question;
            }
        };
        let (plan, wants_new) = {
            let mut shared = shared.lock().expect("no test panics with the lock");
            let count = shared.came.entry(question.clone()).or_default();
            *count += 1;
            let is_first = *count == 1;
            let wanted = shared.plans.get(&question).copied().filter(|_| is_first);
            let plan = wanted.filter(|plan| plan.used == (earlier > 0));
            if plan.is_some() {
                shared.broken.insert(question);
            }
            (plan, wanted.is_some_and(|plan| !plan.used))
        };
        if let Some(Break { when: When::Writing, after, reset, .. }) = plan {
            return end(stream, after, reset).await;
        }
        while rest(&bytes) > 0 {
            if !read(&mut stream, &mut bytes).await {
                return;
            }
        }
        let request = request(&bytes, earlier);
        bytes.clear();
        if let Some(Break { when, after, reset, .. }) = plan {
            if when == When::Answering {
                let (media, body) = good_body(protocol, &request, "Hello");
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: {media}\r\nContent-Length: {}\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all((head + &body[..10]).as_bytes()).await;
            }
            return end(stream, after, reset).await;
        }
        let answer = good(protocol, &request, "Hello");
        if stream.write_all(answer.as_bytes()).await.is_err() || wants_new {
            return;
        }
    }
}

async fn end(mut stream: TcpStream, after: Duration, reset: bool) {
    sleep(after).await;
    if reset {
        let _ = stream.set_zero_linger();
        return;
    }
    // What is not read when a connection is dropped would make it a reset.
    let _ = stream.shutdown().await;
    let mut rest = [0; 65536];
    while stream.read(&mut rest).await.is_ok_and(|size| size > 0) {}
}

/// Whether more has come.
async fn read(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> bool {
    stream.read_buf(bytes).await.is_ok_and(|size| size > 0)
}

/// The word that a question begins with, once it is there.
fn named(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4096)]);
    let (_, name) = text.split_once("question-")?;
    Some(name.split_once(' ')?.0.to_string())
}

/// How many bytes of a request whose head is there are still to come.
fn rest(bytes: &[u8]) -> usize {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4096)]).to_lowercase();
    let head = text.find("\r\n\r\n").expect("a head") + 4;
    let length = text.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
    let length: usize = length.and_then(|digits| digits.parse().ok()).expect("a length");
    (head + length).saturating_sub(bytes.len())
}

fn request(bytes: &[u8], earlier: usize) -> Request {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let (line, head) = head.split_once("\r\n").expect("a line");
    Request { line: line.into(), head: head.into(), body: body.into(), earlier }
}

/// Asks until a question met its break, and checks that it came once.
async fn check(app: &TestApp, shared: &Shared, face: Face, plan: Break, name: String) {
    for attempt in 0..100 {
        let name = format!("{name}-{attempt}");
        shared.lock().expect("no test panics with the lock").plans.insert(name.clone(), plan);
        // One that is relayed may be so long that the sockets' buffers hold only a part of it.
        let size = match (plan.when, face) {
            (When::Writing, Face::Relayed) if !plan.after.is_zero() => 8 << 20,
            (When::Writing, _) => 100 << 10,
            _ => 1,
        };
        let given = face.ask(app, &format!("question-{name} {}", "x".repeat(size))).await;
        let (broken, came) = {
            let shared = shared.lock().expect("no test panics with the lock");
            (shared.broken.contains(&name), shared.came.get(&name).copied())
        };
        if !broken {
            assert_eq!((given, came), (Ok("Hello".into()), Some(1)), "{face:?}, without a break");
            continue;
        }
        let came = came.unwrap_or_default();
        let may_have_been_closed = plan.used && plan.after.is_zero() && plan.when != When::Answering;
        let most = if may_have_been_closed { 2 } else { 1 };
        assert!(came <= most, "{face:?}, {plan:?}: it came {came} times");
        match given {
            Ok(text) => assert!(came == 2 && text == "Hello", "{face:?}, {plan:?}: {text} is no answer"),
            Err(failed) => {
                let codes: &[&str] = match plan.when {
                    When::Answering => &["upstream_truncated"],
                    _ => &["upstream_disconnected"],
                };
                assert!(codes.contains(&failed.code.as_str()), "{face:?}, {plan:?}: {failed:?}");
            }
        }
        return;
    }
    panic!("{face:?}, {plan:?}: no connection was such");
}

async fn all_breaks(protocol: &'static str) {
    for count in [1, 2] {
        let shared = Shared::default();
        let urls = join_all((0..count).map(|_| start(protocol, &shared))).await.join(",");
        let settings = [
            ("MODELS", "m"),
            ("DATABASE_URL", "memory:"),
            ("MEMORY_BUDGET_BYTES", "1000000000"),
            ("HEADER_TIMEOUT_SECONDS", "60"),
        ];
        let app = spawn_before(&urls, protocol, &settings).await;
        // The gateway learns how long a round trip takes while nothing else holds it up.
        for _ in 0..20 {
            assert_eq!(Face::Chat.ask(&app, "question-first x").await, Ok("Hello".into()));
        }
        let faces = Face::before(protocol).iter().copied();
        let cases = faces.flat_map(|face| breaks().into_iter().map(move |plan| (face, plan)));
        let checks = cases
            .enumerate()
            .map(|(number, (face, plan))| check(&app, &shared, face, plan, number.to_string()));
        stream::iter(checks).buffer_unordered(50).collect::<()>().await;
    }
}

/// Takes connections and drops them unread; gives its address, and how many came.
async fn hanging_up(reset: bool) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            if reset {
                let _ = stream.set_zero_linger();
            }
        }
    });
    (url, count)
}

const PROTOCOLS: [&str; 3] = ["openai", "web-chat", "anthropic"];

#[actix_web::test]
async fn a_new_connection_that_breaks_before_the_question_is_read_is_not_replaced() {
    for (protocol, reset) in PROTOCOLS.into_iter().flat_map(|protocol| [(protocol, false), (protocol, true)])
    {
        let (url, count) = hanging_up(reset).await;
        let app = spawn_before(&url, protocol, &[("MODELS", "m"), ("DATABASE_URL", "memory:")]).await;
        for (before, face) in Face::before(protocol).iter().enumerate() {
            let failed = face.ask(&app, "hi").await.expect_err("no answer");
            // The break may come before the system tells that the connection is there.
            let codes = ["upstream_disconnected", "upstream_unreachable"];
            assert!(codes.contains(&failed.code.as_str()), "{protocol} {face:?}: {failed:?}");
            assert_eq!(count.load(Ordering::Relaxed), before + 1, "{protocol} {face:?}");
        }
    }
}

#[actix_web::test]
async fn a_connection_that_was_closed_while_idle_is_replaced_and_the_question_paid_once() {
    for (protocol, idle) in PROTOCOLS.into_iter().flat_map(|protocol| [(protocol, 0), (protocol, 20)]) {
        let fake = Fake::start(move |request| {
            let answer = good(protocol, request, "Hello").into_bytes();
            vec![Step::Send(answer), Step::Pause(Duration::from_millis(idle)), Step::Close]
        })
        .await;
        let app = spawn_before(&fake.url, protocol, &[("MODELS", "m"), ("DATABASE_URL", "memory:")]).await;
        let faces = Face::before(protocol).repeat(4);
        for face in &faces {
            assert_eq!(face.ask(&app, "hi").await, Ok("Hello".into()), "{protocol} {face:?} {idle}");
            sleep(Duration::from_millis(2 * idle)).await;
        }
        assert_eq!(fake.requests().len(), faces.len(), "{protocol}, closed after {idle} ms");
    }
}

#[actix_web::test]
async fn a_question_to_openais_protocol_is_paid_once() {
    all_breaks("openai").await;
}

#[actix_web::test]
async fn a_question_to_a_web_chat_is_paid_once() {
    all_breaks("web-chat").await;
}

#[actix_web::test]
async fn a_question_to_anthropics_protocol_is_paid_once() {
    all_breaks("anthropic").await;
}
