//! The upstreams and the store with their kept sessions, opened in one place for every command.

use std::sync::Arc;

use actix_web::dev::ServerHandle;

use super::StartError;
use super::background::{SINGLE, SessionSync};
use crate::backup::{Backup, Uploader};
use crate::config::{self, Config, Location};
use crate::demo::{self, Demo};
use crate::domain::error::Kind;
use crate::gateway::{Kept as KeptUpstream, KeptGroup};
use crate::provider::Endpoint;
use crate::store::Store;
use crate::vault::Vault;

/// An upstream as it is configured; without any, the demo, which is started here.
///
/// # Errors
/// When the demo cannot start.
pub fn open(settings: &config::Upstream) -> Result<(Endpoint, Option<ServerHandle>), StartError> {
    match &settings.url {
        Some(url) => Ok((Endpoint::new(url.clone(), settings), None)),
        None => {
            let (Demo { url, handle }, server) = demo::start()
                .map_err(|error| StartError::Other(format!("the demo upstream does not start: {error}")))?;
            tokio::task::spawn_local(server);
            Ok((Endpoint::new(url, settings), Some(handle)))
        }
    }
}

/// The upstream that the store keeps, where the environment names none.
///
/// # Errors
/// When the store cannot be used, or what it keeps does not open: to answer as if nothing were kept would let
/// the demo answer in the mirror's place.
pub async fn read_kept(config: &Config, store: &Store) -> Result<KeptUpstream, StartError> {
    if !config.upstream_variables.is_empty() {
        return Ok(KeptUpstream::nothing());
    }
    let vault = Vault::new(config.store.secret_key.as_ref());
    let kept = KeptUpstream::read(store, &vault).await.map_err(StartError::Store)?;
    match kept.group {
        KeptGroup::Sealed => Err(StartError::UpstreamSealed { has_key: config.store.secret_key.is_some() }),
        KeptGroup::Absent | KeptGroup::Open(_) => Ok(kept),
    }
}

/// The same configuration with the upstream that the store keeps.
///
/// # Errors
/// As [`read_kept`], and when what is kept is not understood.
pub async fn with_kept(config: Config, store: &Store) -> Result<Config, StartError> {
    let kept = read_kept(&config, store).await?;
    let own = kept.settings(&config.upstream).map_err(|problems| StartError::Other(problems.to_string()))?;
    Ok(match own {
        Some(upstream) => Config { upstream, ..config },
        None => config,
    })
}

/// All upstreams, each with what keeps its session in the store, as far as the store tells it now: what
/// it keeps of a session is better than the settings; without it, those do.
///
/// # Errors
/// As [`open`].
pub async fn open_all(
    config: &Config,
    store: &Arc<Store>,
) -> Result<Vec<(Endpoint, SessionSync)>, StartError> {
    let mut all = Vec::new();
    for settings in config.upstreams() {
        let (endpoint, _) = open(settings)?;
        let mut sync = session_sync(config, store, &endpoint);
        let _ = sync.follow().await;
        all.push((endpoint, sync));
    }
    Ok(all)
}

/// What keeps an upstream's session in the store, under the upstream's name.
pub fn session_sync(config: &Config, store: &Arc<Store>, endpoint: &Endpoint) -> SessionSync {
    let vault = Vault::new(config.store.secret_key.as_ref());
    let (session, name) = (Arc::clone(&endpoint.session), endpoint.settings.name.to_string());
    let sync = SessionSync::new(Arc::clone(store), session, vault, name);
    // An upstream of that name has its own session under it.
    let is_taken = config.upstreams().any(|upstream| &*upstream.name == SINGLE);
    if is_taken { sync } else { sync.taking_over_single() }
}

/// The store of a service, and what is kept of it elsewhere.
pub struct Kept {
    /// The store.
    pub store: Store,
    /// Whether it can be used now.
    pub available: bool,
    /// Its backup, read and not claimed yet.
    pub backup: Option<Uploader>,
}

/// As [`open_store`], for the one service that writes to it: from its backup, where there is one and the disk
/// holds nothing.
///
/// # Errors
/// As [`open_store`], and when the backup cannot be read.
pub async fn open_kept(settings: &config::Store) -> Result<Kept, StartError> {
    let backup = match (&settings.backup, &settings.location) {
        (Some(backup), Location::File(path)) => {
            let opened = Backup::open(backup, path, settings.secret_key.as_ref()).await;
            Some(opened.map_err(StartError::Backup)?)
        }
        _ => None,
    };
    let (store, available) = open_store(settings).await?;
    let backup = match backup {
        Some(backup) => Some(backup.watch().await),
        None => None,
    };
    Ok(Kept { store, available, backup })
}

/// Opens the store where it is configured. Where it is not, and this machine has no folder that
/// can be written, conversations are kept in memory, and that is said loudly.
///
/// Says also whether it can be used now.
///
/// # Errors
/// When the store was changed by a newer program, or is damaged.
pub async fn open_store(settings: &config::Store) -> Result<(Store, bool), StartError> {
    let open = |location| Store::new(location).map_err(StartError::Store);
    let mut store = open(settings.location.clone())?;
    let mut available = true;
    match store.prepare().await {
        Ok(()) => {}
        Err(error) if matches!(error.kind, Kind::StorageNewer | Kind::StorageDamaged) => {
            return Err(StartError::Store(error));
        }
        Err(error) if matches!(&settings.location, Location::File(path) if !settings.is_chosen && !path.exists()) =>
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
