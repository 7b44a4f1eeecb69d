//! The HTTP client towards one server: every limit, timeout and policy of its connections.

use std::convert::Infallible;
use std::io;
use std::iter;
use std::sync::Arc;
use std::time::Duration;

use actix_http::body::SizedStream;
use awc::error::{ConnectError, HttpError, InvalidUrl, SendRequestError};
use awc::http::{Method, Uri, header};
use awc::{ClientRequest, ClientResponse, Connector};
use bytes::Bytes;
use futures_util::stream;
use rustls::ClientConfig;
use url::Url;

use super::connect::Connect;
use super::exchange::Exchange;
use super::tls;
use crate::telemetry::mending::{self, Mending};

/// How long an idle connection is kept. Short, because awc notices a connection that the server
/// closed only when it takes it up again, and a request may lose that race.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const CONNECTION_LIFETIME: Duration = Duration::from_secs(300);

/// More than any number of streams that a process carries: awc fails those beyond its limit.
const MAX_CONNECTIONS: usize = 16_384;

/// awc copies what it is given at once: a long body is given to it in pieces of so many bytes.
const PIECE_BYTES: usize = 64 << 10;

/// A client of one server, so that its pool holds connections to no other. It stays on the thread that
/// made it.
pub struct Client {
    pooled: awc::Client,
    /// Never uses a connection twice.
    fresh: awc::Client,
    /// Host and port, as the pool names the server.
    authority: String,
    /// The `Host` header.
    host: String,
}

/// A request that got no answer.
#[derive(Debug)]
pub struct Unanswered {
    /// Why.
    pub error: SendRequestError,
    /// Whether nothing of it was written, so that nobody can have begun to work on it.
    pub is_unsent: bool,
}

impl Client {
    /// A client of the server at this address. Opening a connection may take `connect` in all.
    pub fn new(server: &Url, connect: Duration) -> Self {
        Client::with_tls(server, connect, tls::mozilla())
    }

    fn with_tls(server: &Url, timeout: Duration, tls: Arc<ClientConfig>) -> Self {
        let name = server.host_str().unwrap_or_default();
        let port = server.port_or_known_default().unwrap_or_default();
        let connect = Connect::new(name, port, (server.scheme() == "https").then_some(tls));
        let client = |keep_alive: Duration| {
            let connector = Connector::new()
                .connector(connect.clone())
                .timeout(timeout)
                .conn_keep_alive(keep_alive)
                .conn_lifetime(CONNECTION_LIFETIME)
                .limit(MAX_CONNECTIONS);
            let builder = awc::Client::builder().connector(connector);
            builder.disable_timeout().disable_redirects().no_default_headers().finish()
        };
        Client {
            pooled: client(KEEP_ALIVE),
            fresh: client(Duration::ZERO),
            authority: format!("{name}:{port}"),
            host: server.port().map_or_else(|| name.to_string(), |port| format!("{name}:{port}")),
        }
    }

    /// The path and query of a URL at this server, as [`Client::send`] takes it. awc is told nothing of
    /// TLS, which [`Connect`] makes.
    ///
    /// # Errors
    /// When it cannot be written as a request.
    pub fn uri(&self, url: &Url) -> Result<Uri, SendRequestError> {
        let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
        Uri::try_from(format!("http://{}{}{query}", self.authority, url.path()))
            .map_err(|error| SendRequestError::Url(InvalidUrl::HttpError(HttpError::from(error))))
    }

    /// Sends a request with the headers that `dress` gives it, and awaits the head of the answer.
    ///
    /// It is sent once more, on a connection of its own, only when it took up a connection that the
    /// server had closed already. On a new connection, or when the server may have begun to work, it is
    /// never sent twice.
    ///
    /// # Errors
    /// When no answer begins.
    pub async fn send(
        &self,
        method: &Method,
        uri: &Uri,
        body: Option<&Bytes>,
        dress: impl Fn(ClientRequest) -> ClientRequest,
    ) -> Result<ClientResponse, Unanswered> {
        let attempt = async |client: &awc::Client| {
            let request = client.request(method.clone(), uri.clone());
            let request = dress(request.insert_header((header::HOST, self.host.as_str())));
            Exchange::watch(dispatch(request, body)).await
        };
        let (mut outcome, mut exchange) = attempt(&self.pooled).await;
        if outcome.is_err() && exchange.was_closed() {
            mending::tell(Mending::ConnectionReplaced, &self.authority, 1);
            (outcome, exchange) = attempt(&self.fresh).await;
        }
        outcome.map_err(|error| Unanswered { error, is_unsent: exchange.is_unsent() })
    }

    /// Sends a body of this length as its pieces are read, with a PUT, and awaits the head of the answer. It
    /// goes over a connection of its own, which no server has closed already, and is never sent twice.
    ///
    /// # Errors
    /// When no answer begins.
    pub async fn upload(
        &self,
        uri: &Uri,
        length: u64,
        pieces: impl Iterator<Item = io::Result<Bytes>> + 'static,
        dress: impl Fn(ClientRequest) -> ClientRequest,
    ) -> Result<ClientResponse, SendRequestError> {
        let request = self.fresh.request(Method::PUT, uri.clone());
        let request = dress(request.insert_header((header::HOST, self.host.as_str())));
        request.send_body(SizedStream::new(length, stream::iter(pieces))).await
    }
}

/// Why a request got no answer, in words.
pub fn trouble(error: &SendRequestError) -> String {
    match error {
        SendRequestError::Connect(ConnectError::Resolver(_) | ConnectError::NoRecords) => {
            "the host name has no address".into()
        }
        SendRequestError::Connect(ConnectError::Timeout) | SendRequestError::Timeout => {
            "the connection takes too long".into()
        }
        SendRequestError::Connect(ConnectError::Io(error)) => match error.kind() {
            std::io::ErrorKind::ConnectionRefused => "nothing listens there".into(),
            std::io::ErrorKind::InvalidData => "TLS fails: the certificate is not accepted".into(),
            _ => "no connection".into(),
        },
        SendRequestError::Connect(_) => "no connection".into(),
        SendRequestError::Response(_) => "what answers there is not HTTP".into(),
        SendRequestError::Url(_) => "the address is no URL".into(),
        _ => "the connection breaks before an answer".into(),
    }
}

async fn dispatch(request: ClientRequest, body: Option<&Bytes>) -> Result<ClientResponse, SendRequestError> {
    match body {
        Some(body) if body.len() > PIECE_BYTES => {
            request.send_body(SizedStream::new(body.len() as u64, stream::iter(pieces(body.clone())))).await
        }
        Some(body) => request.send_body(body.clone()).await,
        None => request.send().await,
    }
}

fn pieces(mut body: Bytes) -> impl Iterator<Item = Result<Bytes, Infallible>> {
    iter::from_fn(move || {
        let piece = body.split_to(body.len().min(PIECE_BYTES));
        (!piece.is_empty()).then_some(Ok(piece))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures_util::StreamExt;
    use rustls::pki_types::PrivatePkcs8KeyDer;
    use rustls::{RootCertStore, ServerConfig};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// What a server got: the name that TLS asked for, and how many requests came before on the same
    /// connection, with each request's head.
    type Got = Arc<Mutex<Vec<(Option<String>, usize, String)>>>;

    /// Serves by the path of each request: with or without an interim answer, and framing.
    async fn serve(listener: TcpListener, tls: TlsAcceptor, got: Got) {
        while let Ok((tcp, _)) = listener.accept().await {
            let Ok(mut stream) = tls.accept(tcp).await else { continue };
            let name = stream.get_ref().1.server_name().map(String::from);
            let mut head = Vec::new();
            for earlier in 0.. {
                head.clear();
                while !head.ends_with(b"\r\n\r\n")
                    && stream.read_buf(&mut head).await.is_ok_and(|size| size > 0)
                {}
                let text = String::from_utf8_lossy(&head).into_owned();
                let unframed = text.starts_with("GET /unframed");
                let framing = if unframed { "" } else { "Content-Length: 5\r\n" };
                got.lock().expect("no panic").push((name.clone(), earlier, text));
                let answer = format!("HTTP/1.1 103 X\r\n\r\nHTTP/1.1 200 OK\r\n{framing}\r\nhello");
                if stream.write_all(answer.as_bytes()).await.is_err() || unframed {
                    // Without the end that TLS has of its own, as many servers leave.
                    break;
                }
            }
        }
    }

    #[actix_rt::test]
    async fn answers_over_tls_are_seen_in_plain_and_host_and_name_are_as_configured() {
        let issued = rcgen::generate_simple_self_signed(["localhost".to_string()]).expect("a certificate");
        let key = PrivatePkcs8KeyDer::from(issued.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.expect("ring supports them").with_no_client_auth();
        let config = config.with_single_cert(vec![issued.cert.der().clone()], key.into()).expect("a pair");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let got = Got::default();
        actix_rt::spawn(serve(listener, TlsAcceptor::from(Arc::new(config)), Arc::clone(&got)));

        let mut roots = RootCertStore::empty();
        roots.add(issued.cert.der().clone()).expect("a root");
        let server = Url::parse(&format!("https://localhost:{port}/v1")).expect("a URL");
        let client = Client::with_tls(&server, Duration::from_secs(5), tls::trusting(roots));
        for path in ["/a?b=c", "/d", "/unframed", "/e"] {
            let uri = client.uri(&server.join(path).expect("a URL")).expect("a URI");
            let sent = client.send(&Method::GET, &uri, None, |request| request).await;
            let mut response = sent.expect("an answer");
            assert_eq!(response.status(), 200, "{path}");
            let mut body = Vec::new();
            while let Some(Ok(bytes)) = response.next().await {
                body.extend_from_slice(&bytes);
            }
            assert_eq!(body, b"hello", "{path}");
        }
        let got = got.lock().expect("no panic").clone();
        assert_eq!(got.iter().map(|(_, earlier, _)| *earlier).collect::<Vec<_>>(), [0, 1, 2, 0]);
        assert!(got[0].2.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{}", got[0].2);
        for (name, _, head) in got.iter() {
            assert_eq!(name.as_deref(), Some("localhost"));
            assert!(head.to_lowercase().contains(&format!("\r\nhost: localhost:{port}\r\n")), "{head}");
        }
        let stranger = Client::new(&server, Duration::from_secs(5));
        let uri = stranger.uri(&server).expect("a URI");
        let refused = stranger.send(&Method::GET, &uri, None, |request| request).await;
        assert!(refused.is_err_and(|unanswered| unanswered.is_unsent), "the certificate is not trusted");
    }

    #[test]
    fn a_client_speaks_with_its_own_server_alone() {
        for (server, url, uri, host) in [
            ("https://a.example/v1", "https://b.example/x?y=z", "http://a.example:443/x?y=z", "a.example"),
            ("http://a.example:443", "http://a.example:443/", "http://a.example:443/", "a.example:443"),
            ("http://[::1]:8080", "http://[::1]:8080/x", "http://[::1]:8080/x", "[::1]:8080"),
        ] {
            let parsed = |text| Url::parse(text).expect("a URL");
            let client = Client::new(&parsed(server), Duration::from_secs(1));
            let asked = client.uri(&parsed(url)).expect("a URI");
            assert_eq!((asked.to_string().as_str(), client.host.as_str()), (uri, host));
        }
    }
}
