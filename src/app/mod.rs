//! The composition root: builds the parts, binds the address, and stops in order.

pub mod background;
mod descriptors;
pub mod shutdown;

use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_cors::Cors;
use actix_web::dev::{Server, ServerHandle, Service as _, ServiceRequest};
use actix_web::http::{Method, Uri, header};
use actix_web::middleware::{Condition, from_fn};
use actix_web::rt::net::TcpStream;
use actix_web::web::Data;
use actix_web::{App, HttpServer};
#[cfg(target_os = "linux")]
use socket2::SockRef;
use tokio::sync::oneshot;
use url::Url;
use utoipa_actix_web::AppExt;

use crate::api::{self, openai};
use crate::app::shutdown::{Shutdown, StopSignals};
use crate::config::{self, Config, Location};
use crate::demo::{self, Demo};
use crate::doctor::{Doctor, Mirror};
use crate::domain::error::{Error, Kind};
use crate::domain::keys::{self, GatewayKey};
use crate::gateway::{Member, Service, Shared};
use crate::http::access_log;
use crate::http::auth::{self, Guard};
use crate::http::base_url::{LocalAddress, Peers};
use crate::http::budget::Budget;
use crate::http::draining::Draining;
use crate::http::keep_alive::Heartbeat;
use crate::http::origin;
use crate::provider::Upstream;
use crate::provider::session::Session;
use crate::store::Store;
use crate::vault::Vault;

/// Longer than proxies keep a connection, which would else use one that is just being closed.
const KEEP_ALIVE: Duration = Duration::from_secs(80);

/// The service, bound and running.
pub struct Application {
    /// The address that it listens on.
    pub address: SocketAddr,
    /// Its base URL for a person on this machine.
    pub url: String,
    /// Where conversations and keys are kept.
    pub store: String,
    /// Whether what is kept outlives the process.
    pub lasts: bool,
    /// The key that was generated at this start, to be shown once.
    pub new_key: Option<String>,
    server: Server,
    demo: Option<ServerHandle>,
    kept: Arc<Store>,
    shutdown: Shutdown,
    signals: StopSignals,
}

/// Why the service does not start.
#[derive(Debug)]
pub enum StartError {
    /// The address cannot be listened on.
    Bind(SocketAddr, std::io::Error),
    /// The store was changed by a newer program.
    Store(Error),
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
            StartError::Bind(..) | StartError::Store(_) | StartError::Other(_) => 1,
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
                "error: no gateway key is set, and a generated one cannot be kept: {why}\n  hint: set this variable, or DATA_DIR to a directory that can be written, or DATABASE_URL:\n\n  GATEWAY_API_KEYS={key}\n"
            ),
            StartError::Store(error) => write!(f, "error: {}\n  hint: {}", error.message, error.hint()),
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
    pub async fn start(config: Config) -> Result<Self, StartError> {
        Application::start_with(config, Vec::new()).await
    }

    /// As [`Application::start`], with sessions of the first upstreams that are there already.
    ///
    /// # Errors
    /// Why it cannot start.
    pub async fn start_with(config: Config, sessions: Vec<Arc<Session>>) -> Result<Self, StartError> {
        let signals = StopSignals::catch()
            .map_err(|error| StartError::Other(format!("signals cannot be caught: {error}")))?;
        descriptors::provide(config.limits.streams);
        let wanted = SocketAddr::new(config.listen.host, config.listen.port);
        let listener =
            std::net::TcpListener::bind(wanted).map_err(|error| StartError::Bind(wanted, error))?;
        let address = listener.local_addr().map_err(|error| StartError::Bind(wanted, error))?;

        let (store, available) = open_store(&config.store).await?;
        let store = Arc::new(store);
        let guard = Guard::new(!config.gateway.auth, config.gateway.keys.clone())
            .limited(config.limits.rate_per_minute)
            .opening(api::public_paths(config.public.metrics));
        let guard = Data::new(guard);
        // While the store is down, the keys of the environment do.
        let needs_store = config.gateway.auth && (available || config.gateway.keys.is_empty());
        let new_key = if needs_store { first_key(&config, &store, &guard).await? } else { None };
        let mut demo = None;
        let mut sessions = sessions.into_iter();
        let mut upstreams = Vec::new();
        for settings in config.upstreams() {
            let (base, handle) = upstream_base(settings)?;
            demo = demo.or(handle);
            let session = sessions.next().unwrap_or_else(|| Arc::new(Session::new(&base, settings)));
            upstreams.push((base, settings.clone(), session));
        }
        let shared = Arc::new(Shared::new(Arc::clone(&store), &config.limits));
        let documents = Data::new(api::documents(config.public.long_answers));
        let renderers = Data::new(api::ERROR_RENDERERS);
        let draining = Data::new(Draining::default());
        let metrics = Data::from(Arc::clone(shared.metrics()));
        let budget = Data::new(Budget::new(config.limits.bodies_bytes));
        let limits = Data::new(config.limits.clone());
        let heartbeat = Data::new(Heartbeat {
            after: config.limits.heartbeat_after,
            every: config.limits.heartbeat_every,
        });

        let peers = Peers::new(config.public.clone(), address);
        let url = peers.own_url();
        let peers = Data::new(peers);
        let doctor = Data::new(doctor(&config, &upstreams, &store, address));

        if config.gateway.auth {
            tokio::task::spawn_local(background::renew_keys(Arc::clone(&store), guard.clone()));
        }
        tokio::task::spawn_local(background::sweep(Arc::clone(&store), config.store.conversation_ttl));
        tokio::task::spawn_local(background::settle_usage(Arc::clone(&shared)));
        if available {
            store.interrupt_answers().await.map_err(StartError::Store)?;
        }
        for (_, settings, session) in upstreams.iter().filter(|(_, settings, _)| settings.url.is_some()) {
            session_sync(&config, settings, &store, session).start(available).await;
            if let Some(url) = settings.session_webhook.clone() {
                let name = settings.name.clone();
                tokio::task::spawn_local(background::tell_expiry(Arc::clone(session), url, name));
            }
        }
        // Some systems have no second handle to a socket: then new callers wait until the end.
        let again = listener.try_clone().ok();
        let (shown, kept_shared) = (draining.clone(), Arc::clone(&shared));
        let times = config.limits.clone();
        let open = !config.gateway.auth;
        // Without keys any origin is none, unless it is named.
        let cors_origins = config.public.cors_origins.clone().or(open.then(Vec::new));
        let server = HttpServer::new(move || {
            let members = upstreams.iter().map(|(base, settings, session)| member(base, settings, session));
            let service = Service::new(members.collect(), Arc::clone(&shared));
            let (app, _) = App::new()
                .into_utoipa_app()
                .app_data(Data::new(service))
                .app_data(guard.clone())
                .app_data(peers.clone())
                .app_data(documents.clone())
                .app_data(shown.clone())
                .app_data(metrics.clone())
                .app_data(budget.clone())
                .app_data(doctor.clone())
                .app_data(limits.clone())
                .app_data(heartbeat.clone())
                .app_data(renderers.clone())
                .configure(api::routes)
                .split_for_parts();
            app.configure(api::pages)
                .wrap(from_fn(auth::check))
                .wrap(cors(cors_origins.as_deref()))
                .wrap(Condition::new(open, from_fn(origin::check)))
                .wrap_fn(|mut request, next| {
                    // A HEAD is a GET whose body the server leaves out: RFC 9110, section 9.3.2.
                    if request.method() == Method::HEAD {
                        request.head_mut().method = Method::GET;
                    }
                    if let Some(path) = openai::paths::canonical(request.path()) {
                        rewrite_path(&mut request, &path);
                    }
                    next.call(request)
                })
                .wrap(from_fn(access_log::track))
        })
        .on_connect(move |connection, data| {
            let Some(stream) = connection.downcast_ref::<TcpStream>() else { return };
            if let Ok(local) = stream.local_addr() {
                data.insert(LocalAddress(local));
            }
            free_slow_readers(stream, times.slow_reader);
        })
        .tcp_nodelay(true)
        .h1_allow_half_closed(false)
        .keep_alive(KEEP_ALIVE)
        .client_request_timeout(times.header_time)
        .shutdown_timeout(times.shutdown.as_secs() + 1)
        .disable_signals()
        .listen(listener)
        .map_err(|error| StartError::Bind(address, error))?
        .run();
        let shutdown = Shutdown {
            time: times.shutdown,
            server: server.handle(),
            listener: again,
            draining,
            shared: kept_shared,
        };
        Ok(Application {
            address,
            url,
            store: store.place(),
            lasts: store.lasts(),
            new_key,
            server,
            demo,
            kept: store,
            shutdown,
            signals,
        })
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
        let shared = Arc::clone(&self.shutdown.shared);
        let (sender, overdue) = oneshot::channel();
        tokio::task::spawn_local(self.shutdown.on_signal(self.signals, sender));
        let outcome = tokio::select! {
            outcome = self.server => outcome,
            Ok(()) = overdue => {
                log::warn!("not all connections ended within SHUTDOWN_TIMEOUT_SECONDS: they are cut");
                Ok(())
            }
        };
        if let Some(demo) = self.demo {
            demo.stop(false).await;
        }
        if let Err(error) = shared.settle_usage().await {
            log::warn!("the latest usage of keys is not kept: {}", error.message);
        }
        self.kept.close().await;
        outcome
    }
}

/// One upstream, with connections of its own.
pub fn member(base: &Url, settings: &config::Upstream, session: &Arc<Session>) -> Member {
    let upstream = Rc::new(Upstream::new(base.clone(), settings, Arc::clone(session)));
    Member { upstream, settings: settings.clone() }
}

/// What keeps an upstream's session in the store, under the upstream's name.
pub fn session_sync(
    config: &Config,
    settings: &config::Upstream,
    store: &Arc<Store>,
    session: &Arc<Session>,
) -> background::SessionSync {
    let vault = Vault::new(config.store.secret_key.as_ref());
    let sync =
        background::SessionSync::new(Arc::clone(store), Arc::clone(session), vault, settings.name.clone());
    // An upstream of that name has its own session under it.
    let is_taken = config.upstreams().any(|upstream| upstream.name == background::SINGLE);
    if is_taken { sync } else { sync.taking_over_single() }
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

/// Opens the store where it is configured. Where it is not, and this machine has no folder that
/// can be written, conversations are kept in memory, and that is said loudly.
///
/// Says also whether it can be used now.
///
/// # Errors
/// When the store was changed by a newer program.
pub async fn open_store(settings: &config::Store) -> Result<(Store, bool), StartError> {
    let open = |location| Store::new(location).map_err(StartError::Store);
    let mut store = open(settings.location.clone())?;
    let mut available = true;
    match store.prepare().await {
        Ok(()) => {}
        Err(error) if error.kind == Kind::StorageNewer => return Err(StartError::Store(error)),
        Err(error) if matches!(&settings.location, Location::File(path) if !settings.explicit && !path.exists()) =>
        {
            log::warn!("{}", error.message);
            store = open(Location::Memory)?;
        }
        Err(error) => {
            log::error!("{}; what needs it fails until it is back", error.message);
            available = false;
        }
    }
    if !store.lasts() {
        log::warn!(
            "conversations are kept in memory and forgotten at a restart: set DATA_DIR or DATABASE_URL"
        );
    }
    Ok((store, available))
}

/// Takes the store's keys in. When there is no key at all, one is made and kept, and its text is
/// given to be shown once; of replicas that start together, one makes it.
async fn first_key(config: &Config, store: &Store, guard: &Guard) -> Result<Option<String>, StartError> {
    let configured = !config.gateway.keys.is_empty();
    let fresh = keys::generate().map_err(|error| StartError::Other(error.to_string()))?;
    let attempt = async {
        let mut stored = store.keys().await?;
        let mut new_key = None;
        if stored.is_empty() && !configured && store.lasts() {
            let made =
                store.add_key(keys::GENERATED, &GatewayKey::new(keys::GENERATED, &fresh).digest()).await?;
            new_key = made.then(|| fresh.clone());
            stored = store.keys().await?;
        }
        Ok::<_, Error>((stored, new_key))
    };
    match attempt.await {
        Ok((stored, new_key)) if configured || !stored.is_empty() => {
            guard.renew(background::gateway_keys(stored));
            Ok(new_key)
        }
        Ok(_) => Err(StartError::KeyNotKept { why: "it would be kept in memory alone".into(), key: fresh }),
        Err(error) if configured => {
            log::warn!("keys of the store are not known yet: {}", error.message);
            Ok(None)
        }
        Err(error) => Err(StartError::KeyNotKept { why: error.message, key: fresh }),
    }
}

/// Lets the system end a connection whose caller takes nothing of what is sent to it: else it would
/// hold its question upstream for as long as it likes.
fn free_slow_readers(stream: &TcpStream, after: Duration) {
    #[cfg(target_os = "linux")]
    if let Err(error) = SockRef::from(stream).set_tcp_user_timeout(Some(after)) {
        log::debug!("TCP_USER_TIMEOUT is not set: {error}");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (stream, after);
}

/// The doctor that looks at this service from its own machine.
fn doctor(
    config: &Config,
    upstreams: &[(Url, config::Upstream, Arc<Session>)],
    store: &Arc<Store>,
    address: SocketAddr,
) -> Doctor {
    let local = Peers::new(config::Public { url: None, ..config.public.clone() }, address).own_url();
    let mirror = |(base, settings, session): &(Url, config::Upstream, Arc<Session>)| Mirror {
        settings: settings.clone(),
        base: base.clone(),
        session: Arc::clone(session),
    };
    Doctor::new(config, upstreams.iter().map(mirror).collect(), Arc::clone(store), local)
}

/// Serves a request as if it had come to another path.
fn rewrite_path(request: &mut ServiceRequest, path: &str) {
    let mut parts = request.uri().clone().into_parts();
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    parts.path_and_query = format!("{path}{query}").parse().ok();
    if let Ok(uri) = Uri::from_parts(parts) {
        request.match_info_mut().get_mut().update(&uri);
        request.head_mut().uri = uri;
    }
}

fn cors(origins: Option<&[String]>) -> Cors {
    let cors = Cors::default()
        .allowed_methods([Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE])
        .allow_any_header()
        .expose_headers([header::HeaderName::from_static("x-request-id"), header::RETRY_AFTER])
        .max_age(3600);
    match origins {
        None => cors.allow_any_origin().send_wildcard(),
        Some(origins) => origins.iter().fold(cors, |cors, origin| cors.allowed_origin(origin)),
    }
}
