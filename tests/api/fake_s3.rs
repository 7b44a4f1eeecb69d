//! A bucket that keeps what it is sent, and fails as the test says.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// What goes wrong from now on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Every request is refused so.
    Refuses(&'static str, &'static str),
    /// A new object is read halfway, then the connection closes.
    CutsUploads,
    /// A new object is kept, then the connection closes without an answer.
    LosesAnswers,
    /// An object is sent halfway.
    CutsDownloads,
    /// The list is no XML of S3's.
    Babbles,
    /// Conditions are not implemented, and said to be so.
    KnowsNoConditions,
    /// Conditions are not implemented, and passed over.
    IgnoresConditions,
}

/// An object with the process that wrote it.
type Object = (Vec<u8>, String);

struct State {
    objects: BTreeMap<String, Object>,
    fault: Fault,
    /// The methods of all requests.
    requests: Vec<String>,
}

/// A running bucket.
#[derive(Clone)]
pub struct FakeS3 {
    pub url: String,
    state: Arc<Mutex<State>>,
}

impl FakeS3 {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let state = State { objects: BTreeMap::new(), fault: Fault::None, requests: Vec::new() };
        let fake = FakeS3 { url, state: Arc::new(Mutex::new(state)) };
        let serving = fake.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serving = serving.clone();
                thread::spawn(move || while serving.answer(&stream).is_some() {});
            }
        });
        fake
    }

    pub fn fails(&self, fault: Fault) {
        self.state().fault = fault;
    }

    pub fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        self.state().objects.iter().map(|(key, (content, _))| (key.clone(), content.clone())).collect()
    }

    pub fn put(&self, key: &str, content: Vec<u8>) {
        self.state().objects.insert(key.into(), (content, "another".into()));
    }

    pub fn remove(&self, key: &str) {
        self.state().objects.remove(key);
    }

    /// The objects that hold a snapshot.
    pub fn snapshots(&self) -> BTreeMap<String, Vec<u8>> {
        self.objects().into_iter().filter(|(_, content)| content.len() > 512).collect()
    }

    /// The methods of all requests.
    pub fn requests(&self) -> Vec<String> {
        self.state().requests.clone()
    }

    /// How many requests of this method came.
    pub fn count(&self, method: &str) -> usize {
        self.requests().iter().filter(|request| request.as_str() == method).count()
    }

    /// Waits until something holds of the bucket.
    pub async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let begin = Instant::now();
        while !holds(self) {
            assert!(begin.elapsed() < Duration::from_secs(20), "never: {what}; {:?}", self.objects().keys());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no test panics with the lock")
    }

    /// Answers one request; whether another may come.
    fn answer(&self, stream: &TcpStream) -> Option<()> {
        let (mut reader, mut writer) = (BufReader::new(stream), stream);
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_string()),
            }
        }
        let header = |name: &str| {
            let pairs = lines.iter().filter_map(|line| line.split_once(": "));
            pairs.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_string()).next()
        };
        let (method, target) = lines[0].split_once(' ').expect("a request");
        let target = target.split(' ').next().expect("a target");
        let (path, query) = target.split_once('?').expect("a signed URL");
        assert!(query.contains("X-Amz-Signature="), "it is not signed: {target}");
        let fault = self.state().fault;
        self.state().requests.push(method.to_string());
        let length: usize = header("content-length").map_or(0, |text| text.parse().expect("a number"));
        let cut = fault == Fault::CutsUploads && method == "PUT";
        let mut body = vec![0; if cut { length / 2 } else { length }];
        reader.read_exact(&mut body).ok()?;
        if cut {
            return None;
        }
        let key = path.strip_prefix("/bucket/").unwrap_or_default().to_string();
        let upload = (method == "PUT").then(|| (body, header("x-amz-meta-writer").expect("a writer")));
        let is_conditional = header("if-none-match").is_some();
        let whole = self.reply(method, &key, upload, is_conditional);
        let sent = match fault {
            Fault::LosesAnswers if method == "PUT" => return None,
            Fault::CutsDownloads if method == "GET" && !key.is_empty() => &whole[..whole.len() / 2],
            _ => &whole[..],
        };
        writer.write_all(sent).ok().filter(|()| sent.len() == whole.len())
    }

    /// The answer to a request, whole.
    fn reply(&self, method: &str, key: &str, upload: Option<Object>, is_conditional: bool) -> Vec<u8> {
        let mut state = self.state();
        let fault = state.fault;
        let there = state.objects.get(key).cloned();
        match (method, upload, there) {
            _ if let Fault::Refuses(status, code) = fault => failure(status, code),
            ("PUT", Some(_), _) if is_conditional && fault == Fault::KnowsNoConditions => {
                failure("501 Not Implemented", "NotImplemented")
            }
            ("PUT", Some(_), Some(_)) if is_conditional && fault != Fault::IgnoresConditions => {
                failure("412 Precondition Failed", "PreconditionFailed")
            }
            ("PUT", Some(upload), _) => {
                state.objects.insert(key.into(), upload);
                response("200 OK", "", b"")
            }
            ("DELETE", ..) => {
                state.objects.remove(key);
                response("204 No Content", "", b"")
            }
            ("GET", ..) if key.is_empty() && fault == Fault::Babbles => response("200 OK", "", b"<html>"),
            ("GET", ..) if key.is_empty() => response("200 OK", "", list(&state.objects).as_bytes()),
            ("GET", _, Some((content, _))) => response("200 OK", "", &content),
            ("HEAD", _, Some((content, writer))) => {
                let head = response("200 OK", &format!("x-amz-meta-writer: {writer}\r\n"), &content);
                head[..head.len() - content.len()].to_vec()
            }
            _ => failure("404 Not Found", "NoSuchKey"),
        }
    }
}

fn response(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn failure(status: &str, code: &str) -> Vec<u8> {
    response(status, "", format!("<Error><Code>{code}</Code></Error>").as_bytes())
}

fn list(objects: &BTreeMap<String, Object>) -> String {
    let contents: String = objects
        .iter()
        .map(|(key, (content, _))| {
            format!(
                "<Contents><Key>{}</Key><LastModified>2026-11-26T00:00:00.000Z</LastModified>\
                 <ETag>\"x\"</ETag><Size>{}</Size><StorageClass>STANDARD</StorageClass></Contents>",
                key.replace('/', "%2F"),
                content.len()
            )
        })
        .collect();
    format!(
        "<?xml version=\"1.0\"?><ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>bucket</Name><EncodingType>url</EncodingType>\
         <MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>"
    )
}
