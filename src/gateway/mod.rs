//! The use cases: ask, list the models, tell the health. Every face calls these and nothing below.

mod allowance;
mod allowances;
mod callers;
mod calls;
mod catalog;
mod in_flight;
mod inference;
mod jobs;
mod kept;
mod keys;
mod memory;
mod health;
mod metering;
mod needs;
mod router;
mod models;
mod admission;
mod quota;
mod relay;
mod statistics;
mod upstreams;
mod usage;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::activity::Activity;
use crate::config;
use crate::domain::chat::{ConversationId, Owner, Tally};
use crate::domain::error::Error;
use crate::domain::keys::GatewayKey;
use crate::domain::limits::KeyLimits;
use crate::metrics::Metrics;
pub use crate::provider::relay::{Form as RelayForm, Request as RelayRequest};
pub use crate::provider::session::Credentials;
use crate::random;
use crate::request;
pub use crate::store::{DayOfUse, Deed, KeptOf, Listed, Snapshot, StoredKey};
use crate::store::{Store, Transcript as KeptTranscript};
use crate::traffic::Traffic;
use admission::{Admission, Permit};
pub use allowance::LimitState;
use allowances::Allowances;
use callers::Callers;
use calls::Calls;
pub use calls::{Begun, CALLS_KEPT, Call, Head as CallHead, Recorder, Recording};
use catalog::Catalog;
pub use health::{Health, Status, UpstreamState};
pub use in_flight::{Failed, InFlight, Reply};
pub use inference::{Asked, InferenceRequest, Transcript};
pub use jobs::Question;
pub use kept::Export;
pub use keys::{Use, check_name};
pub use memory::Turn;
pub use models::Models;
pub use needs::{Needs, OBJECTS_KEPT};
use quota::Quota;
pub use relay::Relaying;
pub use router::Member;
pub use statistics::{By, Range, STATISTICS_KEPT, Series, Statistics, Sum};
pub use upstreams::{Kept, KeptGroup, UpstreamKeeper, Upstreams};
use usage::UsageBook;

/// How long a health or a list of models is good enough for what is not asked of the upstream
/// itself: the public page, and the choice of a model.
const CACHE_TIME: Duration = Duration::from_secs(30);

/// What all threads share: the store, and what was last learned of the upstream.
pub struct Shared {
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    traffic: Arc<Traffic>,
    /// By which the rows of the statistics that this process writes are told from those of others.
    writer: String,
    admission: Arc<Admission>,
    /// One permit for each question that may go on after its caller was told to come back.
    long: Arc<Semaphore>,
    most_long: usize,
    usage: Arc<UsageBook>,
    allowances: Arc<Allowances>,
    callers: Callers,
    quota: Quota,
    calls: Arc<Calls>,
    activity: Arc<Activity>,
    /// Whether the store could be used when that was last looked at.
    was_ready: AtomicBool,
}

impl Shared {
    /// Shares a store, within the limits of a process.
    pub fn new(store: Arc<Store>, limits: &config::Limits) -> Self {
        let metrics = Arc::new(Metrics::new(store.failures()));
        let allowances = Arc::new(Allowances::new(Arc::clone(&store)));
        Shared {
            store,
            callers: Callers::default(),
            quota: Quota::new(limits.key_storage_bytes),
            admission: Arc::new(Admission::new(limits, Arc::clone(&metrics))),
            long: Arc::new(Semaphore::new(limits.long_answers)),
            most_long: limits.long_answers,
            usage: Arc::new(UsageBook::new(Arc::clone(&metrics), Arc::clone(&allowances))),
            allowances,
            metrics,
            traffic: Arc::default(),
            writer: format!("{:016x}", random::number()),
            calls: Arc::default(),
            activity: Arc::default(),
            was_ready: AtomicBool::new(false),
        }
    }

    /// Whether anybody asks.
    pub fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }

    /// What is counted.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// What callers ask.
    pub fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    /// Ends all answers that are still coming: the service's time is over.
    pub fn end_answers(&self) {
        self.admission.close();
    }

    /// Whether answers go on without their callers.
    pub fn has_long_answers(&self) -> bool {
        self.long.available_permits() < self.most_long
    }

    /// Adds to the store what keys have used since this was last done.
    ///
    /// # Errors
    /// When the store cannot be used; then nothing is lost.
    pub async fn settle_usage(&self) -> Result<(), Error> {
        self.usage.settle(&self.store).await?;
        self.allowances.settle(false).await
    }

    /// What keys with limits use.
    pub fn allowances(&self) -> &Arc<Allowances> {
        &self.allowances
    }

    /// Takes the keys of the store in: their limits hold from now on, and what is being answered for a key
    /// that is gone ends.
    pub fn renew_keys(&self, stored: &[GatewayKey]) {
        for owner in self.callers.renew(stored) {
            self.admission.revoke(&owner);
        }
    }

    /// A permit for one question, within the limits of its key.
    ///
    /// # Errors
    /// When there is none left, or the store in which the key's questions are counted cannot be used.
    async fn permit(
        &self,
        owner: &Owner,
        operation: &'static str,
        limits: Option<&KeyLimits>,
    ) -> Result<Permit, Error> {
        let permit = self.admission.enter(owner, operation)?;
        let counted = match limits.filter(|limits| limits.are_counted()) {
            Some(limits) => Some(self.allowances.enter(owner, limits).await?),
            None => None,
        };
        Ok(permit.counted(counted))
    }
}

/// The use cases over the upstreams; one a thread.
pub struct Gateway {
    /// At least one.
    members: Vec<Member>,
    catalog: Arc<Catalog>,
    shared: Arc<Shared>,
    /// What holds for all upstreams.
    settings: config::Upstream,
}

impl Gateway {
    /// The use cases over upstreams, to each of which it has connections of its own.
    pub fn new(upstreams: &Upstreams, shared: Arc<Shared>) -> Self {
        let members: Vec<_> = upstreams.endpoints.iter().map(Member::new).collect();
        let settings = members.first().expect("there is an upstream, at least the demo").settings.clone();
        Gateway { members, catalog: Arc::clone(&upstreams.catalog), shared, settings }
    }

    /// What the upstreams are called: that it is the demo, or their names.
    pub fn upstream_name(&self) -> String {
        if self.is_demo() {
            return "demo: no model is connected, set UPSTREAM_URL".into();
        }
        let names: Vec<&str> = self.members.iter().map(|member| &*member.settings.name).collect();
        names.join(", ")
    }

    /// Whether the built-in demo answers.
    pub fn is_demo(&self) -> bool {
        self.settings.url.is_none()
    }

    /// Reads a conversation back, as [`Store::transcript`].
    ///
    /// # Errors
    /// When the owner has none of this id, or the store cannot be used.
    pub async fn transcript(
        &self,
        owner: &Owner,
        id: ConversationId,
        before: Option<i64>,
        most: usize,
    ) -> Result<KeptTranscript, Error> {
        let transcript = self.shared.store.transcript(owner, id, before, most).await?;
        // What is read is written once more.
        let bytes = transcript.turns.iter().map(|(question, answer, _)| question.len() + answer.len());
        request::take(2 * bytes.sum::<usize>())?;
        Ok(transcript)
    }

    /// Lists an owner's conversations, as [`Store::conversations`].
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn conversations(
        &self,
        owner: &Owner,
        after: (i64, &str),
        most: usize,
    ) -> Result<Vec<Listed>, Error> {
        self.shared.store.conversations(owner, after, most).await
    }

    /// Deletes all conversations of an owner; says how many.
    ///
    /// # Errors
    /// When the store cannot be used: then some may be gone.
    pub async fn forget_all(&self, owner: &Owner) -> Result<u64, Error> {
        let deleted = self.shared.store.delete_all(owner).await;
        self.shared.quota.forget(owner);
        deleted
    }

    /// Deletes a conversation.
    ///
    /// # Errors
    /// As [`Gateway::transcript`].
    pub async fn forget(&self, owner: &Owner, id: ConversationId) -> Result<(), Error> {
        self.shared.store.delete(owner, id).await?;
        self.shared.quota.forget(owner);
        Ok(())
    }

    /// What a key has used, and since when, in milliseconds since 1970.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn usage(&self, owner: &Owner) -> Result<(Tally, Option<i64>), Error> {
        self.shared.settle_usage().await?;
        self.shared.store.usage(owner).await
    }

    /// Whether the store can be used. While nobody asks for anything else, what was good stays good, so
    /// that a database which sleeps is not woken by whoever watches the service.
    ///
    /// # Errors
    /// Why not.
    pub async fn store_ready(&self) -> Result<(), Error> {
        let shared = &self.shared;
        if shared.activity.is_idle() && shared.was_ready.load(Ordering::Relaxed) {
            return Ok(());
        }
        let ready = shared.store.prepare().await;
        shared.was_ready.store(ready.is_ok(), Ordering::Relaxed);
        ready
    }
}
