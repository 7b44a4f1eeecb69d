//! Opening a connection: name, TCP and TLS, all under awc, so that [`Heads`] sees what passes in plain.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_service::{Service, always_ready};
use actix_tls::connect::{ConnectError, ConnectInfo, Connection};
use awc::http::Uri;
use futures_util::future::LocalBoxFuture;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;

use super::exchange::Watch;
use super::heads::Heads;

/// A connection to a server, with TLS or without.
pub trait Io: AsyncRead + AsyncWrite + Unpin + fmt::Debug {}

impl<T: AsyncRead + AsyncWrite + Unpin + fmt::Debug> Io for T {}

/// Opens connections to one server.
#[derive(Clone)]
pub struct Connect {
    /// Its name or address, without the brackets that a URL has around one of IPv6.
    host: Rc<str>,
    port: u16,
    /// The TLS that it speaks, if it does.
    tls: Option<Arc<ClientConfig>>,
    /// The shortest time that a connection took to open.
    round_trip: Rc<Cell<Duration>>,
}

impl Connect {
    /// Opens connections to a URL's host, with this TLS or without any.
    pub fn new(host: &str, port: u16, tls: Option<Arc<ClientConfig>>) -> Self {
        let host = host.trim_start_matches('[').trim_end_matches(']').into();
        Connect { host, port, tls, round_trip: Rc::new(Cell::new(Duration::MAX)) }
    }

    async fn open(&self) -> Result<Heads<Box<dyn Io>>, ConnectError> {
        let (tcp, took) = dial(&self.host, self.port).await?;
        self.round_trip.set(self.round_trip.get().min(took));
        // Nagle's algorithm and delayed acknowledgements together would hold small requests back.
        let _ = tcp.set_nodelay(true);
        let io: Box<dyn Io> = match &self.tls {
            None => Box::new(tcp),
            Some(tls) => {
                let name = ServerName::try_from(self.host.to_string())
                    .map_err(|error| ConnectError::Io(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
                let connector = TlsConnector::from(Arc::clone(tls));
                Box::new(connector.connect(name, tcp).await.map_err(ConnectError::Io)?)
            }
        };
        Ok(Heads::new(io, Rc::clone(&self.host), Watch::new(Rc::clone(&self.round_trip))))
    }
}

impl Service<ConnectInfo<Uri>> for Connect {
    type Response = Connection<Uri, Heads<Box<dyn Io>>>;
    type Error = ConnectError;
    type Future = LocalBoxFuture<'static, Result<Self::Response, Self::Error>>;

    always_ready!();

    fn call(&self, info: ConnectInfo<Uri>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let connection = this.open().await?;
            Ok(Connection::new(info.request().clone(), connection))
        })
    }
}

/// Connects to the first address of a host that takes the connection, and tells how long that took:
/// about a round trip, since neither looking the name up nor another address counts.
async fn dial(host: &str, port: u16) -> Result<(TcpStream, Duration), ConnectError> {
    let addresses = lookup_host((host, port)).await.map_err(|error| ConnectError::Resolver(error.into()))?;
    let mut failure = ConnectError::NoRecords;
    for address in addresses {
        let begun = Instant::now();
        match TcpStream::connect(address).await {
            Ok(tcp) => return Ok((tcp, begun.elapsed())),
            Err(error) => failure = ConnectError::Io(error),
        }
    }
    Err(failure)
}
