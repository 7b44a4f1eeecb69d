//! The upstreams of a running service: opened at its start, followed in the store from then on, each with
//! what goes on beside it.

use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use tokio::task::JoinHandle;

use super::{StartError, background, upstreams};
use crate::activity::{Activity, Follower};
use crate::config::Config;
use crate::domain::error::{Error, Kind};
use crate::gateway::{Kept, KeptGroup, UpstreamKeeper, Upstreams};
use crate::metrics::Metrics;
use crate::provider::Endpoint;
use crate::provider::session::Session;
use crate::store::Store;

/// How often the kept upstream is looked at.
const RENEWAL: Duration = Duration::from_secs(2);

/// Puts into service which upstreams are kept.
pub struct Serving {
    config: Config,
    store: Arc<Store>,
    activity: Arc<Activity>,
    metrics: Arc<Metrics>,
    keeper: Arc<UpstreamKeeper>,
    demo: Option<ServerHandle>,
    /// What goes on beside each session.
    tasks: Vec<(Arc<Session>, Vec<JoinHandle<()>>)>,
}

/// Upstreams that were opened, with the demo where it is among them.
pub type Opened = (Vec<Endpoint>, Option<ServerHandle>);

/// Opens the kept upstream, else those of the configuration; the first of them with these sessions.
///
/// # Errors
/// When the demo cannot start, or what is kept is not understood.
pub fn open(config: &Config, kept: &Kept, sessions: Vec<Arc<Session>>) -> Result<Opened, StartError> {
    let own = kept.settings(&config.upstream).map_err(|problems| StartError::Other(problems.to_string()))?;
    let (mut demo, mut sessions) = (None, sessions.into_iter());
    let mut all = Vec::new();
    let configured = config.upstreams().filter(|_| own.is_none());
    for settings in own.iter().chain(configured) {
        let (endpoint, handle) = upstreams::open(settings)?;
        demo = demo.or(handle);
        let session = sessions.next().unwrap_or_else(|| Arc::clone(&endpoint.session));
        all.push(Endpoint { session, ..endpoint });
    }
    Ok((all, demo))
}

impl Serving {
    /// What serves the upstreams that `keeper` begins with.
    pub fn new(
        config: &Config,
        store: &Arc<Store>,
        (activity, metrics): (&Arc<Activity>, &Arc<Metrics>),
        keeper: &Arc<UpstreamKeeper>,
        demo: Option<ServerHandle>,
    ) -> Self {
        Serving {
            config: config.clone(),
            store: Arc::clone(store),
            activity: Arc::clone(activity),
            metrics: Arc::clone(metrics),
            keeper: Arc::clone(keeper),
            demo,
            tasks: Vec::new(),
        }
    }

    /// Follows the kept session of each upstream, and where the environment names none, which upstream is
    /// kept. The store is `available` now, or not.
    pub async fn start(mut self, available: bool) {
        let first = self.keeper.present();
        self.attend(&first.endpoints, available).await;
        if self.keeper.variables().is_empty() {
            let follower = self.activity.follower();
            tokio::task::spawn_local(self.run(follower));
        }
    }

    async fn run(mut self, mut follower: Follower) {
        loop {
            let wanted = tokio::select! {
                () = self.keeper.wanted() => true,
                () = follower.due(RENEWAL) => false,
            };
            if let Err(error) = self.follow().await {
                log::warn!(error = error.kind.code(); "which upstream is kept cannot be told now: {}", error.message);
            }
            if !wanted {
                follower.done();
            }
        }
    }

    /// Puts into service what is newer in the store.
    async fn follow(&mut self) -> Result<(), Error> {
        let kept = self.keeper.read().await?;
        let present = self.keeper.present();
        if kept.generation == present.kept.generation {
            return Ok(());
        }
        if kept.group == KeptGroup::Sealed {
            log::error!(
                "the upstream was set under another SECRET_KEY and does not open here: the one before goes on; give all replicas the same SECRET_KEY"
            );
            let endpoints = present.endpoints.clone();
            self.keeper.renew(Upstreams::new(kept, endpoints));
            return Ok(());
        }
        let (endpoints, demo) = open(&self.config, &kept, Vec::new())
            .map_err(|error| Error::new(Kind::Internal, error.to_string()))?;
        let endpoints: Vec<_> = endpoints.into_iter().map(|endpoint| self.keeper.resumed(endpoint)).collect();
        let is_known = |session| present.endpoints.iter().any(|known| Arc::ptr_eq(&known.session, session));
        endpoints.iter().map(|new| &new.session).filter(|new| !is_known(new)).for_each(|new| new.begin());
        self.attend(&endpoints, true).await;
        let names: Vec<_> = endpoints.iter().map(|endpoint| endpoint.settings.name.clone()).collect();
        self.metrics.forget_upstreams();
        self.keeper.renew(Upstreams::new(kept, endpoints));
        log::info!("other upstreams answer from now on: {}", names.join(", "));
        if let Some(demo) = std::mem::replace(&mut self.demo, demo) {
            // What is being answered ends first.
            tokio::task::spawn_local(demo.stop(true));
        }
        Ok(())
    }

    /// Begins what goes on beside upstreams that have an address, and ends it for all others.
    async fn attend(&mut self, endpoints: &[Endpoint], available: bool) {
        let with_address = endpoints.iter().filter(|endpoint| endpoint.settings.url.is_some());
        let mut tasks = Vec::new();
        for endpoint in with_address {
            let known = self.tasks.iter().position(|(session, _)| Arc::ptr_eq(session, &endpoint.session));
            if let Some(place) = known {
                tasks.push(self.tasks.swap_remove(place));
                continue;
            }
            let sync = upstreams::session_sync(&self.config, &self.store, endpoint);
            let sync = sync.start(available, self.activity.follower()).await;
            let beside = std::iter::once(sync).chain(background::watch_expiry(endpoint)).collect();
            tasks.push((Arc::clone(&endpoint.session), beside));
        }
        let ended = std::mem::replace(&mut self.tasks, tasks);
        ended.iter().flat_map(|(_, tasks)| tasks).for_each(JoinHandle::abort);
    }
}
