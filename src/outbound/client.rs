//! The HTTP client towards the upstream: every limit, timeout and policy of its connections.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_service::{Service, apply_fn};
use actix_tls::connect::{ConnectError, ConnectInfo, Connection, ConnectorService};
use awc::http::Uri;
use awc::{Client, Connector};
use tokio::net::TcpStream;

use crate::config;

/// How long an idle connection is kept. Short, because awc notices a connection that the upstream
/// closed only when it takes it up again, and a request may lose that race.
pub const KEEP_ALIVE: Duration = Duration::from_secs(15);
const CONNECTION_LIFETIME: Duration = Duration::from_secs(300);

/// More than any number of streams that a process carries: awc fails those beyond its limit.
const MAX_CONNECTIONS: usize = 16_384;

tokio::task_local! {
    /// How long the request of this task took to open a connection, if it has opened one.
    pub static CONNECTED: Cell<Option<Duration>>;
}

/// A client that keeps an idle connection for this long.
pub fn client(timeouts: &config::Timeouts, keep_alive: Duration) -> Client {
    let opened = |address: ConnectInfo<Uri>, connector: &ConnectorService| {
        let (begun, connection) = (Instant::now(), connector.call(address));
        async move {
            let connection: Connection<Uri, TcpStream> = connection.await?;
            // The pool opens connections within the request that needs one, outside of it in none.
            let _ = CONNECTED.try_with(|connected| connected.set(Some(begun.elapsed())));
            // Nagle's algorithm and delayed acknowledgements together would hold small requests back.
            let _ = connection.io_ref().set_nodelay(true);
            Ok::<_, ConnectError>(connection)
        }
    };
    let connect = apply_fn::<_, _, _, _, _, ConnectInfo<Uri>, _, _>(
        actix_tls::connect::Connector::default().service(),
        opened,
    );
    let connector = Connector::new()
        .connector(connect)
        .rustls_0_23(tls(mozilla_roots()))
        .timeout(timeouts.connect)
        .handshake_timeout(timeouts.connect)
        .conn_keep_alive(keep_alive)
        .conn_lifetime(CONNECTION_LIFETIME)
        .limit(MAX_CONNECTIONS);
    Client::builder().connector(connector).disable_timeout().disable_redirects().no_default_headers().finish()
}

/// The Mozilla roots that are compiled in: a container may hold no CA files.
pub fn mozilla_roots() -> rustls::RootCertStore {
    rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }
}

/// TLS that trusts these roots.
pub fn tls(roots: rustls::RootCertStore) -> Arc<rustls::ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring supports the default TLS versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}
