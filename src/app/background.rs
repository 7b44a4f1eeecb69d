//! What goes on beside the requests: following the store's keys and session, deleting old
//! conversations, telling of an expired session.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::web::Data;
use secrecy::SecretString;
use tokio::task::JoinHandle;

use crate::activity::{Activity, Follower};
use crate::config::Config;
use crate::domain::error::Error;
use crate::gateway::{CALLS_KEPT, OBJECTS_KEPT, STATISTICS_KEPT, Shared};
use crate::http::auth::Guard;
use crate::provider::Endpoint;
use crate::provider::session::Session;
use crate::provider::webhook;
use crate::store::Store;
use crate::vault::Vault;

/// How often the kept session is looked at.
const SESSION_RENEWAL: Duration = Duration::from_secs(2);

/// What the session of a single upstream was called in the store up to version 0.1.
pub const SINGLE: &str = "default";

/// How often the store's keys are read again.
const KEY_RENEWAL: Duration = Duration::from_secs(2);

/// How often what keys use is added to the store: what a killed process can lose of it.
const USAGE_SETTLING: Duration = Duration::from_secs(2);

/// The same of the statistics.
const STATISTICS_SETTLING: Duration = Duration::from_secs(30);

/// How long an answer that its caller comes back for is kept.
const ANSWERS_KEPT: Duration = Duration::from_secs(24 * 3600);

/// How long the audit trail goes back, and the usage by day.
const DEEDS_KEPT: Duration = Duration::from_secs(90 * 24 * 3600);
const USAGE_DAYS_KEPT: u32 = 400;

/// How often old conversations are looked for, and how far two clocks may be apart by then.
const SWEEP: Duration = Duration::from_secs(600);
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);

/// Keeps the upstream's session in the store, and follows what other replicas and the command line
/// make of it.
pub struct SessionSync {
    store: Arc<Store>,
    session: Arc<Session>,
    vault: Vault,
    /// What the session is called in the store.
    name: String,
    /// The version in the store that the session was last equal to.
    version: i64,
    /// Whether a session under the name [`SINGLE`] is still to be looked for.
    looks_for_single: bool,
}

impl SessionSync {
    /// For a session that has not been read yet.
    pub fn new(store: Arc<Store>, session: Arc<Session>, vault: Vault, name: String) -> Self {
        SessionSync { store, session, vault, name, version: 0, looks_for_single: false }
    }

    /// The same, which also takes over what an earlier version kept under the name [`SINGLE`], if that
    /// is this upstream's.
    pub fn taking_over_single(self) -> Self {
        SessionSync { looks_for_single: true, ..self }
    }

    /// Takes the kept session over, and follows it from then on; a store that is not `available` now
    /// is read as soon as it is back.
    pub async fn start(mut self, available: bool, mut follower: Follower) -> JoinHandle<()> {
        if available {
            let _ = self.follow().await;
        }
        tokio::task::spawn_local(async move {
            loop {
                let changed = tokio::select! {
                    () = self.session.changed() => true,
                    () = follower.due(SESSION_RENEWAL) => false,
                };
                let outcome = if changed { self.keep().await } else { self.follow().await };
                if !changed {
                    follower.done();
                }
                if let Err(error) = outcome {
                    log::warn!(error = error.kind.code(); "the upstream's session is not kept now: {}", error.message);
                    if changed {
                        // Tried again with the next round.
                        tokio::time::sleep(SESSION_RENEWAL).await;
                        self.session.mark_changed();
                    }
                }
            }
        })
    }

    /// Writes the session to the store; where another process kept a later login meanwhile, takes that
    /// over instead.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn keep(&mut self) -> Result<(), Error> {
        loop {
            let sealed = self.vault.seal(&self.session.snapshot())?;
            if let Some(version) = self.store.keep_session(&self.name, sealed, self.version).await? {
                self.version = version;
                return Ok(());
            }
            let kept = self.store.session(&self.name).await?;
            let Some((version, sealed)) = kept else {
                self.version = 0;
                continue;
            };
            self.version = version;
            if self.vault.open(&sealed).is_some_and(|text| self.session.restore_later(&text)) {
                log::info!("a later login of another process was taken over from the store");
                return Ok(());
            }
        }
    }

    /// Takes over what is newer in the store.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn follow(&mut self) -> Result<(), Error> {
        if self.looks_for_single {
            self.take_over_single().await?;
            self.looks_for_single = false;
        }
        let Some((version, sealed)) =
            self.store.session(&self.name).await?.filter(|(version, _)| *version != self.version)
        else {
            return Ok(());
        };
        self.version = version;
        match self.vault.open(&sealed) {
            Some(text) if self.session.restore(&text) => {
                log::info!("the upstream's session was taken over from the store")
            }
            Some(_) => log::info!("the upstream's settings have changed: the kept session is not used"),
            None => self.warn_sealed(),
        }
        Ok(())
    }

    /// Gives a session under the name [`SINGLE`] this upstream's name, if it fits this upstream.
    async fn take_over_single(&self) -> Result<(), Error> {
        let Some((version, sealed)) = self.store.session(SINGLE).await? else { return Ok(()) };
        match self.vault.open(&sealed) {
            Some(text) if self.session.restore(&text) => {
                // It is in use already: a store that cannot write now gives it at the next start.
                if let Err(error) = self.store.rename_session(SINGLE, version, &self.name).await {
                    log::warn!(error = error.kind.code(); "the upstream's session keeps its old name: {}", error.message);
                }
            }
            // That of another upstream, or of other settings.
            Some(_) => {}
            None => self.warn_sealed(),
        }
        Ok(())
    }

    fn warn_sealed(&self) {
        log::warn!(upstream = self.name; "the kept session does not open under this SECRET_KEY: the settings hold");
    }
}

/// Begins what goes on beside the requests for as long as the service runs.
pub fn start(config: &Config, store: &Arc<Store>, shared: &Arc<Shared>, guard: Data<Guard>) {
    if config.gateway.auth {
        tokio::task::spawn_local(renew_keys(guard, Arc::clone(shared)));
    }
    tokio::task::spawn_local(sweep(
        Arc::clone(store),
        config.store.conversation_ttl,
        Arc::clone(shared.activity()),
    ));
    tokio::task::spawn_local(settle_usage(Arc::clone(shared)));
    tokio::task::spawn_local(settle_statistics(Arc::clone(shared)));
    tokio::task::spawn_local(Arc::clone(shared.allowances()).keep_up());
}

/// Tells the webhook of an upstream, where it has one, whenever its session expires.
pub fn watch_expiry(endpoint: &Endpoint) -> Option<JoinHandle<()>> {
    let url = endpoint.settings.session_webhook.clone()?;
    let name = Arc::clone(&endpoint.settings.name);
    Some(tokio::task::spawn_local(tell_expiry(Arc::clone(&endpoint.session), url, name)))
}

async fn tell_expiry(session: Arc<Session>, url: SecretString, upstream: Arc<str>) {
    loop {
        session.expired().await;
        log::warn!("the upstream does not accept the session any more");
        webhook::session_expired(&url, &upstream).await;
    }
}

/// Follows the store's keys, which other replicas and the command line change. While the store
/// cannot be asked, the last known ones hold.
async fn renew_keys(guard: Data<Guard>, shared: Arc<Shared>) {
    let mut follower = shared.activity().follower();
    loop {
        follower.due(KEY_RENEWAL).await;
        if let Ok(stored) = shared.read_keys().await {
            guard.renew(stored);
        }
        follower.done();
    }
}

/// Adds what keys use to the store.
async fn settle_usage(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(USAGE_SETTLING).await;
        if let Err(error) = shared.settle_usage().await {
            log::warn!(error = error.kind.code(); "the usage of keys is not kept now: {}", error.message);
        }
    }
}

/// Keeps the statistics in the store. While nobody asks, nothing is counted, and the store is left alone.
async fn settle_statistics(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(STATISTICS_SETTLING).await;
        if let Err(error) = shared.settle_statistics().await {
            log::warn!(error = error.kind.code(); "the statistics are not kept now: {}", error.message);
        }
    }
}

/// Deletes conversations that nobody went on with for `ttl`, and old answers. A clock that jumps
/// would age them all at once, so nothing is deleted while the store's clock and this machine's
/// steady one disagree.
async fn sweep(store: Arc<Store>, ttl: Option<Duration>, activity: Arc<Activity>) {
    let mut before = None;
    loop {
        tokio::time::sleep(SWEEP).await;
        activity.in_use().await;
        let Ok(clock) = store.clock().await else { continue };
        let now = (Instant::now(), clock);
        let Some((then, clock_then)) = before.replace(now) else { continue };
        let steady = now.0.duration_since(then).as_millis() as i64;
        if (clock - clock_then - steady).abs() > CLOCK_TOLERANCE.as_millis() as i64 {
            log::warn!("the store's clock has jumped: no conversation is deleted this time");
            before = None;
            continue;
        }
        if let Err(error) = store.expire_answers(ANSWERS_KEPT).await {
            log::warn!("old answers are not deleted: {}", error.message);
        }
        if let Err(error) = store.expire_calls(CALLS_KEPT).await {
            log::warn!("the answers of old calls are not deleted: {}", error.message);
        }
        if let Err(error) = store.expire_objects(OBJECTS_KEPT).await {
            log::warn!("who made old answers that the upstream keeps is not forgotten: {}", error.message);
        }
        if let Err(error) = store.expire_deeds(DEEDS_KEPT).await {
            log::warn!("old entries of the audit trail are not deleted: {}", error.message);
        }
        if let Err(error) = store.expire_usage(USAGE_DAYS_KEPT).await {
            log::warn!("the usage of days long ago is not deleted: {}", error.message);
        }
        if let Err(error) = store.forget_allowances().await {
            log::warn!("what revoked keys have used is not forgotten: {}", error.message);
        }
        for (span, kept) in STATISTICS_KEPT {
            if let Err(error) = store.expire_statistics(span, kept).await {
                log::warn!("old statistics are not deleted: {}", error.message);
            }
        }
        let Some(ttl) = ttl else { continue };
        match store.expire(ttl).await {
            Ok(0) => {}
            Ok(count) => {
                log::info!(conversations = count; "deleted conversations older than CONVERSATION_TTL_DAYS")
            }
            Err(error) => log::warn!("old conversations are not deleted: {}", error.message),
        }
    }
}
