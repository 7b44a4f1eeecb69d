//! `DATABASE_URL` of a PostgreSQL server: which of its parameters are understood, and TLS.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use secrecy::{ExposeSecret, SecretString};
use tokio_postgres::{Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::domain::error::{Error, Kind};
use crate::outbound::tls::mozilla_roots;

/// How long the operating system waits for what was sent to be taken.
const SEND_TIME: Duration = Duration::from_secs(10);

/// How long one of several servers is waited for before the next is tried.
const SERVER_TIME: Duration = Duration::from_secs(1);

/// A server, and how a connection to it is made.
pub struct Server {
    config: Config,
    tls: MakeRustlsConnect,
}

impl Server {
    /// Makes a connection. Within a runtime, where it then lives.
    pub async fn connect(&self) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = self.config.connect(self.tls.clone()).await?;
        log::debug!("a connection to PostgreSQL is made");
        tokio::spawn(async move {
            // Whoever waits for an answer is told; for the others it is no failure.
            if let Err(error) = connection.await {
                log::debug!(
                    "a connection to PostgreSQL has ended with a failure: {}",
                    error.code().map_or("none", |code| code.code())
                );
            }
        });
        Ok(client)
    }
}

/// Which certificates of the server are accepted.
enum Trust {
    /// Any, as libpq does for `prefer` and `require`: what is sent is encrypted, to whomever.
    Any,
    /// One that these roots vouch for, with the server's name in it.
    Roots(RootCertStore),
}

/// Reads the URL.
///
/// # Errors
/// What of it is not understood. The text never quotes a value, which may be the password.
pub fn parse(url: &SecretString) -> Result<Server, Error> {
    // Several servers, `HOST:PORT,HOST:PORT`, are libpq's way and the driver's, but none that is a URL's.
    let (address, query) = url.expose_secret().split_once('?').unwrap_or((url.expose_secret(), ""));
    let pairs = url::form_urlencoded::parse(query.as_bytes()).into_owned();
    let mut trust = Trust::Any;
    let (mut kept, mut roots) = (Vec::new(), None);
    for (name, value) in pairs {
        match (name.as_str(), value.as_str()) {
            ("sslmode", "disable" | "prefer" | "require") => kept.push((name, value)),
            ("sslmode", "allow") => kept.push((name, "prefer".into())),
            ("sslmode", "verify-ca" | "verify-full") => {
                trust = Trust::Roots(mozilla_roots());
                kept.push((name, "require".into()));
            }
            ("sslmode", _) => {
                return Err(misread("`sslmode` is not understood")
                    .hinted("give disable, allow, prefer, require or verify-full"));
            }
            ("sslrootcert", "system") => roots = Some(mozilla_roots()),
            ("sslrootcert", path) => roots = Some(read_roots(path)?),
            (
                "host" | "hostaddr" | "port" | "user" | "password" | "dbname" | "options"
                | "application_name",
                _,
            )
            | ("sslnegotiation" | "channel_binding" | "target_session_attrs" | "connect_timeout", _)
            | ("keepalives" | "keepalives_idle" | "keepalives_interval" | "keepalives_retries", _)
            | ("tcp_user_timeout" | "load_balance_hosts", _) => kept.push((name, value)),
            // Other drivers' own, which mean nothing here.
            ("pgbouncer" | "connection_limit" | "pool_timeout" | "gssencmode" | "sslcompression", _) => {}
            _ => {
                return Err(misread(format_args!(
                    "the parameter `{}` is not supported",
                    name.escape_debug()
                ))
                .hinted("remove it from `DATABASE_URL`"));
            }
        }
    }
    trust = roots.map_or(trust, Trust::Roots);
    // Not as a form: the driver takes `+` for itself.
    let encode = |text: &str| {
        url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
    };
    let query: Vec<_> = kept.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
    let url = format!("{address}?{}", query.join("&"));
    let mut config: Config = url.parse().map_err(|_| misread("a part of it is not understood"))?;
    if config.get_application_name().is_none() {
        config.application_name("mirrorgate");
    }
    if config.get_connect_timeout().is_none() && config.get_hosts().len() > 1 {
        config.connect_timeout(SERVER_TIME);
    }
    config.tcp_user_timeout(SEND_TIME);
    Ok(Server { config, tls: MakeRustlsConnect::new(tls(trust)) })
}

fn misread(what: impl std::fmt::Display) -> Error {
    Error::new(Kind::StorageUnavailable, format!("DATABASE_URL is not understood: {what}"))
        .hinted("give postgres://USER:PASSWORD@HOST/NAME, as the database's host shows it")
}

fn read_roots(path: &str) -> Result<RootCertStore, Error> {
    let unreadable = || misread("`sslrootcert` names no file of certificates");
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|_| unreadable())? {
        roots.add(certificate.map_err(|_| unreadable())?).map_err(|_| unreadable())?;
    }
    if roots.is_empty() { Err(unreadable()) } else { Ok(roots) }
}

fn tls(trust: Trust) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("ring supports the default TLS versions");
    match trust {
        Trust::Roots(roots) => builder.with_root_certificates(roots).with_no_client_auth(),
        Trust::Any => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth(),
    }
}

/// Takes any certificate, whose key must yet have signed the handshake. Supabase's is of its own
/// authority, so that a stricter `require` would keep people out who follow its guide.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use tokio_postgres::config::{ChannelBinding, SslMode, TargetSessionAttrs};

    use super::*;

    #[test]
    fn the_addresses_that_hosts_show_are_understood() {
        let neon =
            "postgresql://u:p%40ss@ep-x-pooler.eu.aws.neon.tech/db?sslmode=require&channel_binding=require";
        let config = parse(&neon.into()).expect("Neon's").config;
        assert_eq!(
            (config.get_ssl_mode(), config.get_channel_binding()),
            (SslMode::Require, ChannelBinding::Require)
        );
        assert_eq!(config.get_password(), Some(b"p@ss".as_slice()));
        let supabase = "postgres://postgres.x:p@aws-0-eu.pooler.supabase.com:6543/postgres?pgbouncer=true&connection_limit=1";
        let config = parse(&supabase.into()).expect("Supabase's").config;
        assert_eq!((config.get_ssl_mode(), config.get_ports()), (SslMode::Prefer, [6543].as_slice()));
        let options = "postgres://u@h/d?sslmode=verify-full&options=-c%20a%3Db%2B1&application_name=mine";
        let config = parse(&options.into()).expect("libpq's").config;
        assert_eq!((config.get_ssl_mode(), config.get_options()), (SslMode::Require, Some("-c a=b+1")));
        assert_eq!(config.get_application_name(), Some("mine"));
        let pair = "postgres://u:p%40ss@a:5433,b:5434/d?target_session_attrs=read-write";
        let config = parse(&pair.into()).expect("two servers").config;
        assert_eq!((config.get_ports(), config.get_dbname()), ([5433, 5434].as_slice(), Some("d")));
        assert_eq!(config.get_target_session_attrs(), TargetSessionAttrs::ReadWrite);
    }

    #[test]
    fn what_is_not_supported_is_named_without_its_value() {
        for (query, name) in [
            ("sslmode=s3cret", "sslmode"),
            ("sslcert=s3cret", "sslcert"),
            ("sslrootcert=/s3cret", "sslrootcert"),
            ("channel_binding=s3cret", "part"),
        ] {
            let error = parse(&format!("postgres://u:s3cret@h/d?{query}").into()).err().expect(query);
            let text = format!("{} {}", error.message, error.hint());
            assert!(text.contains(name) && !text.contains("s3cret"), "{text}");
        }
    }
}
