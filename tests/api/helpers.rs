//! Starts the service as it runs, and calls it as its callers do.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use awc::http::StatusCode;
use awc::http::header::HeaderMap;
use mirrorgate::app::Application;
use mirrorgate::config::Config;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The gateway key of every test's service.
pub const KEY: &str = "k3y-of-the-tests-9f2c";

/// A second key, of somebody else.
pub const OTHER_KEY: &str = "0ther-t3nants-k3y-77";

/// The key of every test's service's owner.
pub const ADMIN_KEY: &str = "0wners-k3y-of-the-tests-5d";

/// A running service.
pub struct TestApp {
    pub address: SocketAddr,
    handle: ServerHandle,
}

/// An answer of the service.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The code of the error in the envelope.
    pub fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_string()
    }
}

/// A folder of its own under the build's.
pub fn temporary_folder() -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let name = format!("test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    path.to_str().expect("a path in UTF-8").to_string()
}

/// Starts the service with these settings on a free port.
pub async fn spawn(settings: &[(&str, &str)]) -> TestApp {
    let mut settings: Vec<(String, String)> =
        settings.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let folder = temporary_folder();
    let keys = format!("tests:{KEY},other:{OTHER_KEY}");
    for (name, value) in
        [("PORT", "0"), ("DATA_DIR", &folder), ("GATEWAY_API_KEYS", &keys), ("ADMIN_KEY", ADMIN_KEY)]
    {
        if !settings.iter().any(|(set, _)| set == name) {
            settings.push((name.into(), value.into()));
        }
    }
    let lookup = |name: &str| settings.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    let config = Config::load(&lookup, std::iter::empty()).unwrap_or_else(|problems| panic!("{problems}"));
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        actix_web::rt::System::new().block_on(async move {
            let application = Application::start(config).await.expect("the service starts");
            sender.send((application.address, application.handle())).expect("the test waits");
            application.run().await.expect("the service serves");
        });
    });
    let (address, handle) = receiver.recv().expect("the service starts");
    TestApp { address, handle }
}

/// Starts the service in front of an upstream of either protocol; `m` is the default model.
pub async fn spawn_before(url: &str, protocol: &str, more: &[(&str, &str)]) -> TestApp {
    let mut settings = vec![("UPSTREAM_URL", url), ("UPSTREAM_PROTOCOL", protocol), ("DEFAULT_MODEL", "m")];
    settings.extend_from_slice(more);
    spawn(&settings).await
}

impl TestApp {
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A GET with the key.
    pub async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, &[("authorization", &format!("Bearer {KEY}"))], None).await
    }

    /// A GET with the owner's key.
    pub async fn get_as_owner(&self, path: &str) -> Answer {
        self.call("GET", path, &[("x-api-key", ADMIN_KEY)], None).await
    }

    /// A question with the key.
    pub async fn chat(&self, body: Value) -> Answer {
        self.post("/api/chat", KEY, &body.to_string()).await
    }

    pub async fn post(&self, path: &str, key: &str, body: &str) -> Answer {
        post(self.address, path, key, body).await
    }

    pub async fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Vec<u8>>,
    ) -> Answer {
        call(self.address, method, path, headers, body).await
    }
}

/// Calls a service and reads the whole answer.
pub async fn call(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<Vec<u8>>,
) -> Answer {
    let client = awc::Client::builder().disable_redirects().disable_timeout().finish();
    let method = method.parse().expect("a method");
    let mut request = client.request(method, format!("http://{address}{path}")).no_decompress();
    for (name, value) in headers {
        request = request.insert_header((*name, *value));
    }
    let response = match body {
        Some(body) => request.send_body(body).await,
        None => request.send().await,
    };
    let mut response = response.unwrap_or_else(|error| panic!("{path}: {error}"));
    let bytes = response.body().limit(32 << 20).await.expect("a whole body");
    Answer {
        status: response.status(),
        headers: response.headers().clone(),
        text: String::from_utf8_lossy(&bytes).into_owned(),
    }
}

/// Posts JSON with a key.
pub async fn post(address: SocketAddr, path: &str, key: &str, body: &str) -> Answer {
    let key = format!("Bearer {key}");
    let headers = [("authorization", key.as_str()), ("content-type", "application/json")];
    call(address, "POST", path, &headers, Some(body.as_bytes().to_vec())).await
}

/// Sends these bytes on a connection of their own and reads until the service closes it or has said
/// nothing for a while.
pub async fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    // A service that refuses early may close before it has read everything.
    let _ = stream.write_all(bytes).await;
    let mut all = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(Ok(count)) = timeout(Duration::from_secs(2), stream.read(&mut chunk)).await {
        if count == 0 {
            break;
        }
        all.extend_from_slice(&chunk[..count]);
    }
    String::from_utf8_lossy(&all).into_owned()
}

impl Drop for TestApp {
    fn drop(&mut self) {
        // The future need not be awaited: calling it is what stops the server.
        drop(self.handle.stop(false));
    }
}
