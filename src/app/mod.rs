//! The composition root: builds the parts, binds the address, and stops in order.

pub mod background;
mod descriptors;
mod keys;
mod server;
mod serving;
pub mod shutdown;
mod start_error;
pub mod upstreams;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use actix_web::dev::{Server, ServerHandle};
use actix_web::web::Data;
use secrecy::ExposeSecret;
use tokio::sync::oneshot;

use crate::allocator;
use crate::api;
use crate::backup::{Uploader, Uploads};
use crate::budget::Budget;
use crate::config::{self, Config, Location};
use crate::doctor::Doctor;
use crate::domain::error::Error;
use crate::gateway::{Shared, UpstreamKeeper, Upstreams};
use crate::http::auth::Guard;
use crate::http::base_url::Peers;
use crate::provider::session::Session;
use crate::store::Store;
use crate::vault::Vault;
pub use keys::NewKeys;
use server::{Given, Parts};
use serving::Serving;
use shutdown::{Shutdown, StopSignals};
pub use start_error::StartError;
use upstreams::Kept;

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
    /// The generation of the backup that the store was restored from at this start.
    pub restored: Option<u64>,
    /// The keys that were made at this start, to be shown once.
    pub new_keys: NewKeys,
    server: Server,
    keeper: Arc<UpstreamKeeper>,
    kept: Arc<Store>,
    uploads: Option<Uploads>,
    shutdown: Shutdown,
    signals: StopSignals,
}

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
        warn_of_obsolete(&config);
        descriptors::provide(config.limits.streams);
        let (listener, address) = bind(&config)?;
        let Kept { store, available, backup } = upstreams::open_kept(&config.store).await?;
        let restored = backup.as_ref().and_then(Uploader::restored);
        let store = Arc::new(store);
        let guard = guard(&config)?;
        let shared = Arc::new(Shared::new(Arc::clone(&store), &config.limits));
        // While the store is down, the keys of the environment do.
        let needs_store = config.gateway.auth && (available || config.gateway.keys.is_empty());
        let new_keys = if needs_store {
            keys::open(&config, &store, &guard, &shared).await?
        } else {
            NewKeys::default()
        };
        let (keeper, demo) = keeper(&config, &store, sessions).await?;
        let peers = Peers::new(config.public.clone(), address);
        let url = peers.own_url();
        let standing = backup.as_ref().map(|backup| backup.standing.clone());
        let doctor = doctor(&config, &keeper, &store, address).watching(standing);
        let given = Given { guard: guard.clone(), doctor, keeper: Arc::clone(&keeper) };
        let parts = Parts::new(&config, peers, given, Arc::clone(&shared));
        if available {
            store.interrupt_answers().await.map_err(StartError::Store)?;
        }
        background::start(&config, &store, &shared, guard);
        tokio::task::spawn_local(allocator::give_back(Budget::clone(&parts.budget)));
        let beside = (shared.activity(), shared.metrics());
        Serving::new(&config, &store, beside, &keeper, demo).start(available).await;
        let uploads = claim(backup).await?;
        // Some systems have no second handle to a socket: then new callers wait until the end.
        let again = listener.try_clone().ok();
        let draining = parts.draining.clone();
        let server = server::run(&config, parts, listener, address)?;
        let shutdown = Shutdown {
            time: config.limits.shutdown,
            server: server.handle(),
            listener: again,
            draining,
            shared,
        };
        let (place, lasts) = (store.place(), store.lasts());
        Ok(Application {
            address,
            url,
            store: place,
            lasts,
            new_keys,
            server,
            keeper,
            kept: store,
            restored,
            uploads,
            shutdown,
            signals,
        })
    }

    /// Takes the keys back that were made at this start, since nobody has seen them. Says whether callers
    /// have others.
    pub async fn withdraw_keys(&self) -> bool {
        for name in self.new_keys.names() {
            if let Err(error) = self.kept.remove_key(name).await {
                log::error!("a key that nobody has seen stays in the store: {}", error.message);
            }
        }
        self.new_keys.caller.is_none()
    }

    /// The upstreams that answer.
    pub fn upstreams(&self) -> Arc<Upstreams> {
        self.keeper.present()
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
        if let Err(error) = shared.settle_usage().await {
            log::warn!("the latest usage of keys is not kept: {}", error.message);
        }
        if let Err(error) = shared.settle_statistics().await {
            log::warn!("the latest statistics are not kept: {}", error.message);
        }
        self.kept.close().await;
        if let Some(uploads) = self.uploads {
            uploads.finish().await;
        }
        outcome
    }
}

fn warn_of_obsolete(config: &Config) {
    for name in &config.obsolete {
        log::warn!("the setting {name} means nothing any more: remove it");
    }
}

fn bind(config: &Config) -> Result<(TcpListener, SocketAddr), StartError> {
    let wanted = SocketAddr::new(config.listen.host, config.listen.port);
    let failed = |error| StartError::Bind(wanted, error);
    let listener = TcpListener::bind(wanted).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

fn guard(config: &Config) -> Result<Data<Guard>, StartError> {
    let configured = config.gateway.keys.iter().chain(&config.gateway.admin).cloned().collect();
    let guard = Guard::new(!config.gateway.auth, configured)
        .limited(config.limits.rate_per_minute)
        .opening(api::access(config.public.metrics))
        .signing(&token_secret(config).map_err(|error| StartError::Other(error.message))?);
    Ok(Data::new(guard))
}

/// What the console's tokens are signed over beside the admin key's digest: nothing, where no store has that;
/// else what all replicas know and the store does not. A SQLite file has one process.
fn token_secret(config: &Config) -> Result<Vec<u8>, Error> {
    let store = &config.store;
    Ok(match (&config.gateway.admin, &store.secret_key, &store.location) {
        (Some(_), ..) => Vec::new(),
        (None, Some(secret), _) => secret.expose_secret().as_bytes().to_vec(),
        (None, None, Location::Postgres { url, .. }) => url.expose_secret().as_bytes().to_vec(),
        (None, None, Location::File(_) | Location::Memory) => crate::random::bytes::<32>()?.to_vec(),
    })
}

/// What says which upstreams answer, beginning with the kept one, else those of the configuration, the first of
/// them with these sessions; and the demo, where it is among them.
async fn keeper(
    config: &Config,
    store: &Arc<Store>,
    sessions: Vec<Arc<Session>>,
) -> Result<(Arc<UpstreamKeeper>, Option<ServerHandle>), StartError> {
    let kept = upstreams::read_kept(config, store).await?;
    let (endpoints, demo) = serving::open(config, &kept, sessions)?;
    let vault = Vault::new(config.store.secret_key.as_ref());
    let first = Upstreams::new(kept, endpoints);
    Ok((Arc::new(UpstreamKeeper::new(config, Arc::clone(store), vault, first)), demo))
}

/// Takes the backup away from a process that may still run, as late as this one can know that it starts itself.
async fn claim(backup: Option<Uploader>) -> Result<Option<Uploads>, StartError> {
    match backup {
        Some(backup) => backup.start().await.map(Some).map_err(StartError::Backup),
        None => Ok(None),
    }
}

/// The doctor that looks at this service from its own machine.
fn doctor(config: &Config, keeper: &Arc<UpstreamKeeper>, store: &Arc<Store>, address: SocketAddr) -> Doctor {
    let local = Peers::new(config::Public { url: None, ..config.public.clone() }, address).own_url();
    let keeper = Arc::clone(keeper);
    Doctor::new(config, Box::new(move || keeper.present().endpoints.clone()), Arc::clone(store), local)
}
