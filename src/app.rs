//! The composition root: builds the parts, binds the address, and stops in order.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_cors::Cors;
use actix_web::dev::{Server, ServerHandle, Service as _};
use actix_web::http::{Method, header};
use actix_web::middleware::from_fn;
use actix_web::rt::net::TcpStream;
use actix_web::web::{self, Data};
use actix_web::{App, HttpServer};
use secrecy::ExposeSecret;
use url::Url;
use utoipa_actix_web::AppExt;

use crate::api::access_log;
use crate::api::auth::{self, Guard};
use crate::api::base_url::{LocalAddress, Peers};
use crate::api::docs::{self, Documents};
use crate::api::live::{self, Draining};
use crate::api::{home, tools};
use crate::config::{self, Config};
use crate::demo::{self, Demo};
use crate::keys::{self, Generated, KeyRing};
use crate::service::{Service, Shared};
use crate::store::Store;
use crate::upstream::Upstream;
use crate::upstream::session::Session;

/// Longer than proxies keep a connection, which would else use one that is just being closed.
const KEEP_ALIVE: Duration = Duration::from_secs(80);

/// How long a caller may take for the head of its request.
const HEAD_TIME: Duration = Duration::from_secs(5);

/// How long running answers may take to finish once the service stops.
const SHUTDOWN_SECONDS: u64 = 30;

/// The service, bound and running.
pub struct Application {
    /// The address that it listens on.
    pub address: SocketAddr,
    /// Its base URL for a person on this machine.
    pub url: String,
    /// The key that was generated at this start, to be shown once.
    pub new_key: Option<String>,
    server: Server,
    demo: Option<ServerHandle>,
    draining: Data<Draining>,
}

/// Why the service does not start.
#[derive(Debug)]
pub enum StartError {
    /// The address cannot be listened on.
    Bind(SocketAddr, std::io::Error),
    /// No key is configured, and a generated one cannot be kept; the clear text of one to paste.
    KeyNotKept {
        /// Why it cannot be kept.
        why: String,
        /// A key that would do.
        key: String,
    },
    /// Anything else.
    Other(String),
}

impl StartError {
    /// The process's exit code: 78 (`EX_CONFIG`) where a setting is needed, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            StartError::KeyNotKept { .. } => 78,
            StartError::Bind(..) | StartError::Other(_) => 1,
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Bind(address, error) => write!(
                f,
                "error: cannot listen on {address}: {error}\n  hint: set PORT to a free port, or stop the program that uses this one"
            ),
            StartError::KeyNotKept { why, key } => write!(
                f,
                "error: no gateway key is set, and a generated one cannot be kept: {why}\n  hint: set this variable, or DATA_DIR to a directory that can be written:\n\n  GATEWAY_API_KEYS={key}\n"
            ),
            StartError::Other(text) => write!(f, "error: {text}"),
        }
    }
}

impl std::error::Error for StartError {}

impl Application {
    /// Builds the service and binds its address.
    ///
    /// # Errors
    /// Why it cannot start.
    pub fn start(config: Config) -> Result<Self, StartError> {
        let (keys, new_key) = key_ring(&config)?;
        let (base, demo) = upstream_base(&config.upstream)?;
        let cookie = config.upstream.cookie.as_ref().map(|line| line.expose_secret());
        let session = Arc::new(Session::new(&base, cookie));
        let shared = Arc::new(Shared::new(Store::in_memory()));
        let guard = Data::new(Guard::new(keys));
        let documents = Data::new(Documents::collect());
        let draining = Data::new(Draining::default());
        let limits = Data::new(config.limits.clone());

        let wanted = SocketAddr::new(config.listen.host, config.listen.port);
        let listener =
            std::net::TcpListener::bind(wanted).map_err(|error| StartError::Bind(wanted, error))?;
        let address = listener.local_addr().map_err(|error| StartError::Bind(wanted, error))?;
        let peers = Peers::new(config.public.clone(), address);
        let url = peers.own_url();
        let peers = Data::new(peers);

        let draining_flag = draining.clone();
        let server = HttpServer::new(move || {
            let upstream = Upstream::new(base.clone(), &config.upstream, Arc::clone(&session));
            let service = Service::new(upstream, Arc::clone(&shared), config.upstream.clone());
            let (app, _) = App::new()
                .into_utoipa_app()
                .app_data(Data::new(service))
                .app_data(guard.clone())
                .app_data(peers.clone())
                .app_data(documents.clone())
                .app_data(draining_flag.clone())
                .app_data(limits.clone())
                .configure(tools::routes)
                .configure(home::routes)
                .configure(live::routes)
                .configure(docs::routes)
                .split_for_parts();
            app.configure(docs::pages)
                .configure(home::assets)
                .default_service(web::to(tools::not_found))
                .wrap(from_fn(auth::check))
                .wrap(cors(config.public.cors_origins.as_deref()))
                .wrap_fn(|mut request, next| {
                    // A HEAD is a GET whose body the server leaves out: RFC 9110, section 9.3.2.
                    if request.method() == Method::HEAD {
                        request.head_mut().method = Method::GET;
                    }
                    next.call(request)
                })
                .wrap(from_fn(access_log::track))
        })
        .on_connect(|connection, data| {
            if let Some(local) =
                connection.downcast_ref::<TcpStream>().and_then(|stream| stream.local_addr().ok())
            {
                data.insert(LocalAddress(local));
            }
        })
        .tcp_nodelay(true)
        .h1_allow_half_closed(false)
        .keep_alive(KEEP_ALIVE)
        .client_request_timeout(HEAD_TIME)
        .shutdown_timeout(SHUTDOWN_SECONDS)
        .disable_signals()
        .listen(listener)
        .map_err(|error| StartError::Bind(address, error))?
        .run();
        Ok(Application { address, url, new_key, server, demo, draining })
    }

    /// To stop the service from elsewhere.
    pub fn handle(&self) -> ServerHandle {
        self.server.handle()
    }

    /// Serves until the process is told to stop; then running answers finish first. A second signal
    /// ends the process at once.
    ///
    /// # Errors
    /// When the server fails.
    pub async fn run(self) -> std::io::Result<()> {
        let handle = self.server.handle();
        let draining = self.draining.clone();
        tokio::task::spawn_local(async move {
            let signal = stop_signal().await;
            log::info!(signal; "stopping: running answers have {SHUTDOWN_SECONDS} seconds to finish");
            draining.begin();
            tokio::task::spawn_local(async {
                stop_signal().await;
                std::process::exit(130);
            });
            handle.stop(true).await;
        });
        let outcome = self.server.await;
        if let Some(demo) = self.demo {
            demo.stop(false).await;
        }
        outcome
    }
}

/// Waits for the signal to stop: Ctrl-C, or SIGTERM as platforms send it.
async fn stop_signal() -> &'static str {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            return tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = tokio::signal::ctrl_c() => "SIGINT",
            };
        }
    }
    let _ = tokio::signal::ctrl_c().await;
    "SIGINT"
}

/// Where the upstream is: as configured, else the demo, which is started here.
///
/// # Errors
/// When the demo cannot start.
pub fn upstream_base(settings: &config::Upstream) -> Result<(Url, Option<ServerHandle>), StartError> {
    match &settings.url {
        Some(url) => Ok((url.clone(), None)),
        None => {
            let (Demo { url, handle }, server) = demo::start()
                .map_err(|error| StartError::Other(format!("the demo upstream does not start: {error}")))?;
            tokio::task::spawn_local(server);
            Ok((url, Some(handle)))
        }
    }
}

/// The keys that callers may present; when none is configured, the one of the first start.
fn key_ring(config: &Config) -> Result<(KeyRing, Option<String>), StartError> {
    if !config.gateway.auth {
        return Ok((KeyRing::default(), None));
    }
    if !config.gateway.keys.is_empty() {
        return Ok((KeyRing::new(config.gateway.keys.clone()), None));
    }
    let fresh = keys::generate().map_err(|error| StartError::Other(error.to_string()))?;
    let Some(directory) = &config.data_dir else {
        return Err(StartError::KeyNotKept {
            why: "this machine names no data directory".into(),
            key: fresh,
        });
    };
    match keys::load_or_generate(directory, &fresh) {
        Ok(Generated::Kept(key)) => Ok((KeyRing::new(vec![key]), None)),
        Ok(Generated::New(key, text)) => Ok((KeyRing::new(vec![key]), Some(text))),
        Err(error) => {
            let why = format!("{}: {error}", keys::key_file(directory).display());
            Err(StartError::KeyNotKept { why, key: fresh })
        }
    }
}

fn cors(origins: Option<&[String]>) -> Cors {
    let cors = Cors::default()
        .allowed_methods([Method::GET, Method::HEAD, Method::POST])
        .allow_any_header()
        .expose_headers([header::HeaderName::from_static("x-request-id"), header::RETRY_AFTER])
        .max_age(3600);
    match origins {
        None => cors.allow_any_origin().send_wildcard(),
        Some(origins) => origins.iter().fold(cors, |cors, origin| cors.allowed_origin(origin)),
    }
}
