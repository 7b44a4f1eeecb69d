//! The HTTP server: what every worker's application holds, the middleware around it, and the
//! policies of its connections.

use std::cell::RefCell;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_cors::Cors;
use actix_web::dev::{Extensions, Server, Service as _, ServiceRequest};
use actix_web::http::{Method, Uri, header};
use actix_web::middleware::{Condition, from_fn};
use actix_web::rt::net::TcpStream;
use actix_web::web::{Data, ServiceConfig};
use actix_web::{App, HttpServer};
#[cfg(target_os = "linux")]
use socket2::SockRef;
use tokio::sync::watch;
use utoipa_actix_web::AppExt;

use super::StartError;
use crate::activity::Activity;
use crate::api::{self, mcp};
use crate::budget::Budget;
use crate::config::{Config, Limits};
use crate::doctor::Doctor;
use crate::gateway::{Gateway, Shared, UpstreamKeeper, Upstreams};
use crate::http::access_log;
use crate::http::auth::{self, Guard};
use crate::http::base_url::{LocalAddress, Peers};
use crate::http::documents::Documents;
use crate::http::draining::Draining;
use crate::http::failure::ErrorRenderers;
use crate::http::keep_alive::Heartbeat;
use crate::http::origin;
use crate::metrics::Metrics;
use crate::traffic::Traffic;

/// Longer than proxies keep a connection, which would else use one that is just being closed.
const KEEP_ALIVE: Duration = Duration::from_secs(80);

/// What every worker's application holds.
#[derive(Clone)]
pub struct Parts {
    /// Who may call.
    pub guard: Data<Guard>,
    /// Says to all that the service stops.
    pub draining: Data<Draining>,
    /// The service's own doctor.
    pub doctor: Data<Doctor>,
    /// What all threads share.
    pub shared: Arc<Shared>,
    keeper: Data<UpstreamKeeper>,
    peers: Data<Peers>,
    documents: Data<Documents>,
    renderers: Data<ErrorRenderers>,
    metrics: Data<Metrics>,
    traffic: Data<Traffic>,
    /// The memory that the requests hold.
    pub budget: Data<Budget>,
    limits: Data<Limits>,
    heartbeat: Data<Heartbeat>,
    activity: Data<Activity>,
    running: Data<mcp::Running>,
}

/// Parts that are there before the others.
pub struct Given {
    /// Who may call.
    pub guard: Data<Guard>,
    /// The service's own doctor.
    pub doctor: Doctor,
    /// Which upstreams answer.
    pub keeper: Arc<UpstreamKeeper>,
}

impl Parts {
    /// The parts of a service that listens on this address.
    pub fn new(config: &Config, peers: Peers, given: Given, shared: Arc<Shared>) -> Self {
        let limits = &config.limits;
        Parts {
            guard: given.guard,
            draining: Data::default(),
            doctor: Data::new(given.doctor),
            keeper: Data::from(given.keeper),
            peers: Data::new(peers),
            documents: Data::new(api::documents(config.public.long_answers)),
            renderers: Data::new(api::ERROR_RENDERERS),
            metrics: Data::from(Arc::clone(shared.metrics())),
            traffic: Data::from(Arc::clone(shared.traffic())),
            budget: Data::new(Budget::new(limits.memory_bytes)),
            limits: Data::new(limits.clone()),
            heartbeat: Data::new(Heartbeat {
                after: limits.heartbeat_after,
                v1_after: limits.v1_heartbeat_after,
                every: limits.heartbeat_every,
            }),
            activity: Data::from(Arc::clone(shared.activity())),
            running: Data::default(),
            shared,
        }
    }

    /// Hands them to an application.
    fn provide(self, application: &mut ServiceConfig) {
        application
            .app_data(self.guard)
            .app_data(self.keeper)
            .app_data(self.peers)
            .app_data(self.documents)
            .app_data(self.draining)
            .app_data(self.metrics)
            .app_data(self.traffic)
            .app_data(self.budget)
            .app_data(self.doctor)
            .app_data(self.limits)
            .app_data(self.heartbeat)
            .app_data(self.activity)
            .app_data(self.running)
            .app_data(self.renderers);
    }
}

/// The use cases of a worker, over the upstreams that answer at the time: each request keeps those that it
/// began with.
struct Worker {
    upstreams: RefCell<watch::Receiver<Arc<Upstreams>>>,
    shared: Arc<Shared>,
    /// What a request finds the use cases in.
    present: RefCell<Rc<Extensions>>,
}

impl Worker {
    fn new(parts: &Parts) -> Self {
        let mut upstreams = parts.keeper.subscribe();
        let present = RefCell::new(found_in(&upstreams.borrow_and_update(), &parts.shared));
        Worker { upstreams: RefCell::new(upstreams), shared: Arc::clone(&parts.shared), present }
    }

    fn present(&self) -> Rc<Extensions> {
        let mut upstreams = self.upstreams.borrow_mut();
        // The sender lives as long as the service.
        if upstreams.has_changed().unwrap_or(false) {
            self.present.replace(found_in(&upstreams.borrow_and_update(), &self.shared));
        }
        Rc::clone(&self.present.borrow())
    }
}

fn found_in(upstreams: &Upstreams, shared: &Arc<Shared>) -> Rc<Extensions> {
    let mut extensions = Extensions::new();
    extensions.insert(Data::new(Gateway::new(upstreams, Arc::clone(shared))));
    Rc::new(extensions)
}

/// The server over these parts.
///
/// # Errors
/// When it cannot take the socket over.
pub fn run(
    config: &Config,
    parts: Parts,
    listener: TcpListener,
    address: SocketAddr,
) -> Result<Server, StartError> {
    let open = !config.gateway.auth;
    // Without keys any origin is none, unless it is named.
    let cors_origins = config.public.cors_origins.clone().or(open.then(Vec::new));
    let (header_time, slow_reader, shutdown) =
        (config.limits.header_time, config.limits.slow_reader, config.limits.shutdown);
    let server = HttpServer::new(move || {
        let worker = Rc::new(Worker::new(&parts));
        let (app, _) = App::new().into_utoipa_app().configure(api::routes).split_for_parts();
        app.configure(|application| parts.clone().provide(application))
            .configure(api::pages)
            .wrap(from_fn(api::idempotency::check))
            .wrap(from_fn(auth::check))
            .wrap(cors(cors_origins.as_deref()))
            .wrap(Condition::new(open, from_fn(origin::check)))
            .wrap_fn(move |mut request, next| {
                request.add_data_container(worker.present());
                // A HEAD is a GET whose body the server leaves out: RFC 9110, section 9.3.2.
                if request.method() == Method::HEAD {
                    request.head_mut().method = Method::GET;
                }
                if let Some(path) = api::meant(request.path()) {
                    rewrite_path(&mut request, &path);
                }
                next.call(request)
            })
            .wrap(from_fn(access_log::track))
    })
    .on_connect(move |connection, data| on_connect(connection.downcast_ref(), data, slow_reader))
    .tcp_nodelay(true)
    .h1_allow_half_closed(false)
    .keep_alive(KEEP_ALIVE)
    .client_request_timeout(header_time)
    .shutdown_timeout(shutdown.as_secs() + 1)
    .disable_signals()
    .listen(listener)
    .map_err(|error| StartError::Bind(address, error))?;
    Ok(server.run())
}

fn on_connect(connection: Option<&TcpStream>, data: &mut Extensions, slow_reader: Duration) {
    let Some(stream) = connection else { return };
    if let Ok(local) = stream.local_addr() {
        data.insert(LocalAddress(local));
    }
    free_slow_readers(stream, slow_reader);
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
