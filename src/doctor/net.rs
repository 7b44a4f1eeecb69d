//! The steps below HTTP, one by one, so that it shows which of them fails: name, connection, TLS.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConnection, RootCertStore};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout};
use url::Url;

use super::TIME;
use super::finding::Finding;
use crate::outbound::tls;

/// A certificate that ends sooner than this should have been renewed already.
const RENEWAL: Duration = Duration::from_secs(14 * 24 * 3600);

/// The names of the checks on one host.
pub struct Checks {
    /// The host's name.
    pub dns: &'static str,
    /// The connection.
    pub tcp: &'static str,
    /// The certificate.
    pub tls: &'static str,
    /// The setting that names the host.
    pub setting: &'static str,
}

/// Looks the host of a URL up, connects to it, and makes a TLS handshake where the URL is https.
/// The first failure ends it, since what follows would fail for the same reason.
pub async fn reach(url: &Url, checks: &Checks, roots: RootCertStore, findings: &mut Vec<Finding>) -> bool {
    let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else { return false };
    let host = host.trim_start_matches('[').trim_end_matches(']').to_string();
    let setting = checks.setting;
    let addresses = match timeout(TIME, lookup_host((host.as_str(), port))).await {
        Ok(Ok(addresses)) => addresses.collect::<Vec<_>>(),
        Ok(Err(_)) => Vec::new(),
        Err(_) => {
            findings.push(Finding::broken(
                checks.dns,
                format!("no name server answers for `{host}` within {} seconds", TIME.as_secs()),
                "check this machine's network and name servers",
            ));
            return false;
        }
    };
    if addresses.is_empty() {
        findings.push(Finding::broken(
            checks.dns,
            format!("`{host}` has no address"),
            format!("check the spelling of the host in {setting}, that its name is registered, and that this machine has a network"),
        ));
        return false;
    }
    findings.push(Finding::ok(checks.dns, format!("`{host}` has {} address(es)", addresses.len())));
    let address = match connect(&addresses).await {
        Ok((address, took)) => {
            findings.push(Finding::ok(checks.tcp, format!("{address} connects in {} ms", took.as_millis())));
            address
        }
        Err(why) => {
            findings.push(Finding::broken(
                checks.tcp,
                format!("{host}:{port}: {why}"),
                format!("check host and port in {setting}, that a server runs there, and firewalls between"),
            ));
            return false;
        }
    };
    if url.scheme() != "https" {
        return true;
    }
    let finding = match handshake(roots, host.clone(), address).await {
        Ok(Certificate { ends_soon: false }) => {
            Finding::ok(checks.tls, format!("the certificate of `{host}` is good"))
        }
        Ok(Certificate { ends_soon: true }) => Finding::warning(
            checks.tls,
            format!("the certificate of `{host}` ends within 14 days"),
            "renew it, or look at why its automatic renewal does not",
        ),
        Err(why) => Finding::broken(checks.tls, format!("{host}:{port}: {why}"), why_advice(setting)),
    };
    let good = finding.advice.is_none() || finding.level < super::finding::Level::Broken;
    findings.push(finding);
    good
}

fn why_advice(setting: &str) -> String {
    format!(
        "give the server a certificate of a public authority for this very name (Caddy and the platforms do it by themselves), or correct {setting}"
    )
}

async fn connect(addresses: &[SocketAddr]) -> Result<(SocketAddr, Duration), String> {
    let start = Instant::now();
    let mut last = "it cannot be reached".to_string();
    for address in addresses {
        match timeout(TIME.saturating_sub(start.elapsed()), TcpStream::connect(address)).await {
            Ok(Ok(_)) => return Ok((*address, start.elapsed())),
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                last = "nothing listens there".into();
            }
            Ok(Err(error)) => last = error.to_string(),
            Err(_) => return Err(format!("no connection within {} seconds", TIME.as_secs())),
        }
    }
    Err(last)
}

/// A certificate that was accepted.
#[derive(Debug, PartialEq, Eq)]
struct Certificate {
    /// Whether it would not be accepted any more in [`RENEWAL`].
    ends_soon: bool,
}

/// Makes a TLS handshake. It runs on a thread of its own, since rustls alone reads and writes
/// synchronously; its sockets have timeouts, so the thread ends by itself.
async fn handshake(roots: RootCertStore, host: String, address: SocketAddr) -> Result<Certificate, String> {
    let work = tokio::task::spawn_blocking(move || {
        let name = ServerName::try_from(host).map_err(|_| "the host is no name for a certificate")?;
        let mut stream =
            std::net::TcpStream::connect_timeout(&address, TIME).map_err(|error| error.to_string())?;
        let timers = stream.set_read_timeout(Some(TIME)).and_then(|()| stream.set_write_timeout(Some(TIME)));
        timers.map_err(|error| error.to_string())?;
        let mut connection = ClientConnection::new(tls::trusting(roots.clone()), name.clone())
            .map_err(|error| error.to_string())?;
        connection.complete_io(&mut stream).map_err(|error| trouble(&error))?;
        let chain = connection.peer_certificates().unwrap_or_default();
        Ok(Certificate { ends_soon: ends_soon(roots, chain, &name) })
    });
    match timeout(TIME, work).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Err("the check itself failed".into()),
        Err(_) => Err(format!("no TLS handshake within {} seconds", TIME.as_secs())),
    }
}

/// Whether the chain is refused once the clock is [`RENEWAL`] ahead: so no certificate need be
/// parsed here.
fn ends_soon(roots: RootCertStore, chain: &[CertificateDer<'_>], name: &ServerName<'_>) -> bool {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let Ok(verifier) = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build() else {
        return false;
    };
    let Some((own, between)) = chain.split_first() else { return false };
    let later = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default() + RENEWAL;
    verifier.verify_server_cert(own, between, name, &[], UnixTime::since_unix_epoch(later)).is_err()
}

/// Why a handshake failed.
fn trouble(error: &io::Error) -> String {
    let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                "the server hangs up during the TLS handshake".into()
            }
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                "the server falls silent during the TLS handshake".into()
            }
            _ => format!("the TLS handshake fails: {error}"),
        };
    };
    match error {
        rustls::Error::InvalidCertificate(why) => match why {
            CertificateError::UnknownIssuer => {
                "the certificate is self-signed, or its issuer is no public authority".into()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the certificate has expired".into()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the certificate is not valid yet, or this machine's clock is wrong".into()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "the certificate is for another name".into()
            }
            other => format!("the certificate is not accepted: {other}"),
        },
        rustls::Error::InvalidMessage(_) => "this port speaks no TLS: is it http?".into(),
        other => format!("the TLS handshake fails: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use rustls::pki_types::PrivateKeyDer;
    use rustls::{ServerConfig, ServerConnection, StreamOwned};

    use super::*;

    /// A handshake with a server whose certificate is for this name and ends that many days from now.
    async fn shaken(name: &str, days: i64) -> Result<Certificate, String> {
        let now = SystemTime::now();
        let day = Duration::from_secs(86_400);
        let mut params = CertificateParams::new([]).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_before = (now - 100 * day).into();
        let key = KeyPair::generate().expect("a key");
        let authority = params.self_signed(&key).expect("a certificate").der().clone();
        let issuer = Issuer::new(params, key);
        let mut params = CertificateParams::new([name.to_string()]).expect("parameters");
        params.not_before = (now - 50 * day).into();
        params.not_after = match days {
            days if days < 0 => now - day * days.unsigned_abs() as u32,
            days => now + day * days as u32,
        }
        .into();
        let key = KeyPair::generate().expect("a key");
        let own = params.signed_by(&key, &issuer).expect("a certificate").der().clone();
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![own], key)
            .expect("a good pair");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a client");
            let connection = ServerConnection::new(Arc::new(config)).expect("a connection");
            // It fails where the client turns the certificate down.
            let _ = StreamOwned::new(connection, stream).flush();
        });
        let mut roots = RootCertStore::empty();
        roots.add(authority).expect("an authority");
        handshake(roots, "m.example.com".into(), address).await
    }

    #[actix_web::test]
    async fn certificates_are_told_apart_by_their_dates_and_names() {
        assert_eq!(shaken("m.example.com", 90).await, Ok(Certificate { ends_soon: false }));
        assert_eq!(shaken("m.example.com", 5).await, Ok(Certificate { ends_soon: true }));
        assert_eq!(shaken("m.example.com", -2).await, Err("the certificate has expired".into()));
        assert_eq!(shaken("other.example.com", 90).await, Err("the certificate is for another name".into()));
    }

    #[actix_web::test]
    async fn a_port_that_speaks_no_tls_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
        });
        let outcome = handshake(tls::mozilla_roots(), "m.example.com".into(), address).await;
        assert!(outcome.as_ref().is_err_and(|why| why.contains("no TLS")), "{outcome:?}");
    }
}
