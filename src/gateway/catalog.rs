//! What is known of each upstream: its models, its health, its breaker and its session.
//!
//! All threads share it, and a request reads it without waiting. A request that finds something
//! missing or too old asks for a refresh and goes on with what is there: the refresh is a task of
//! its own, one at a time for each upstream, so a caller who leaves does not end it. A request waits
//! only where nothing is known that lets it go on, and all that wait share one bounded refresh.
//! While nobody asks for anything, the upstreams are not asked either.

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

use super::{CACHE_TIME, Member};
use crate::config;
use crate::domain::chat::Model;
use crate::domain::error::{Error, Kind};
use crate::provider::Upstream;
use crate::provider::session::Session;

/// The longest that a refresh takes, and so the longest that a request waits for one.
pub(super) const REFRESH_TIME: Duration = Duration::from_secs(5);

/// How long a failure that came at once is remembered. One that took longer is remembered for
/// `CACHE_TIME`, since asking again would make callers wait again.
const FAILURE_TIME: Duration = Duration::from_secs(1);

/// A health older than this is not shown without asking again.
const OLD_HEALTH: Duration = Duration::from_secs(300);

/// What is known of all upstreams, by their names.
#[derive(Default)]
pub(super) struct Catalog {
    entries: RwLock<HashMap<Arc<str>, Arc<Entry>>>,
    changed: Notify,
}

/// What is known of one upstream.
pub(super) struct Entry {
    session: Arc<Session>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    models: Option<Timed<Known>>,
    probe: Option<Timed<Probe>>,
    /// Whether a refresh is under way.
    refreshing: bool,
    /// Rises when all is forgotten: what an older refresh brings is of another login.
    generation: u64,
}

/// A value, when it was learned, and until when it is good; `None` is for ever.
struct Timed<T> {
    value: Arc<T>,
    at: Instant,
    until: Option<Instant>,
}

/// What is to be refreshed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// The list of models.
    Models,
    /// The health.
    Health,
}

/// What an upstream said of its models.
#[derive(Default)]
pub(super) struct Known {
    /// The latest list that it gave; `None` when it gave none, or cannot list its models.
    pub listing: Option<Arc<Listing>>,
    /// Why it gave none when it was last asked.
    pub failure: Option<Error>,
}

/// The models of an upstream.
pub(super) struct Listing {
    /// In the upstream's order.
    pub models: Vec<Model>,
    names: HashSet<String>,
}

/// How an upstream took the latest look at its health.
pub(super) struct Probe {
    /// How long it took.
    pub latency: Duration,
    /// Why it failed, if it did.
    pub failure: Option<Error>,
}

impl Catalog {
    /// What is known of an upstream.
    pub fn entry(&self, member: &Member) -> Arc<Entry> {
        let name = &member.settings.name;
        let known = self.entries.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        known.unwrap_or_else(|| {
            let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
            let entry = entries.entry(Arc::clone(name));
            Arc::clone(entry.or_insert_with(|| Arc::new(Entry::new(&member.upstream, &member.settings))))
        })
    }

    /// What is known of an upstream. Where that is missing or too old, a refresh begins beside.
    pub fn renewed(self: &Arc<Self>, member: &Member, need: Need) -> Arc<Entry> {
        let entry = self.entry(member);
        if let Some(generation) = entry.begin(need) {
            let refresh = Refresh { catalog: Arc::clone(self), entry: Arc::clone(&entry), generation };
            tokio::task::spawn_local(refresh.run(Rc::clone(&member.upstream)));
        }
        entry
    }

    /// Waits until `find` finds something, which it can after each refresh, for at most this long.
    pub async fn until<T>(&self, most: Duration, mut find: impl FnMut() -> Option<T>) -> Option<T> {
        if let Some(found) = find() {
            return Some(found);
        }
        let deadline = Instant::now() + most;
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(found) = find() {
                return Some(found);
            }
            timeout_at(deadline, changed).await.ok()?;
        }
    }
}

impl Entry {
    fn new(upstream: &Upstream, settings: &config::Upstream) -> Self {
        let mut state = State::default();
        if let Some(known) = Known::by_settings(upstream, settings) {
            state.models = Some(Timed { value: Arc::new(known), at: Instant::now(), until: None });
        }
        Entry { session: Arc::clone(upstream.session()), state: Mutex::new(state) }
    }

    /// The session: how the login was taken, and the breaker.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// What the upstream said of its models; `None` when it has not been asked.
    pub fn models(&self) -> Option<Arc<Known>> {
        self.lock().models.as_ref().map(|models| Arc::clone(&models.value))
    }

    /// The same, unless a refresh is under way that can still bring a first list.
    pub fn answered_models(&self) -> Option<Arc<Known>> {
        let state = self.lock();
        let known = state.models.as_ref().map(|models| Arc::clone(&models.value))?;
        let may_come = state.refreshing && known.failure.is_some() && known.listing.is_none();
        (!may_come || state.models.as_ref().is_some_and(Timed::is_good)).then_some(known)
    }

    /// The same, unless it is too old and a refresh is under way.
    pub fn recent_models(&self) -> Option<Arc<Known>> {
        let state = self.lock();
        let models = state.models.as_ref().filter(|models| models.is_good() || !state.refreshing)?;
        Some(Arc::clone(&models.value))
    }

    /// How the upstream took the latest look at its health, unless that is very old.
    pub fn probe(&self) -> Option<Arc<Probe>> {
        let state = self.lock();
        let probe = state.probe.as_ref().filter(|probe| probe.at.elapsed() < OLD_HEALTH)?;
        Some(Arc::clone(&probe.value))
    }

    /// Keeps how the upstream took a look at its health.
    pub fn learn_probe(&self, probe: Probe) {
        self.lock().probe = Some(Timed::new(probe, CACHE_TIME));
    }

    /// Learns from a failed question: where the list or the health would fail too, or are out of
    /// date, they are asked for again with the next request, once in a few seconds.
    pub fn doubt(&self, failure: &Error) {
        // Not where only questions fail: a list that comes all the same would close the breaker.
        if matches!(
            failure.kind,
            Kind::ModelNotFound
                | Kind::UpstreamNotFound
                | Kind::UpstreamUnreachable
                | Kind::UpstreamAuthExpired
        ) {
            let mut state = self.lock();
            state.models.as_mut().into_iter().for_each(Timed::doubt);
            state.probe.as_mut().into_iter().for_each(Timed::doubt);
        }
    }

    /// Forgets what an earlier login was told.
    pub fn forget(&self) {
        let mut state = self.lock();
        state.models.take_if(|models| models.until.is_some());
        state.probe = None;
        state.refreshing = false;
        state.generation += 1;
    }

    /// Begins a refresh where one is needed and none is under way, and gives its generation.
    fn begin(&self, need: Need) -> Option<u64> {
        let mut state = self.lock();
        let is_good = match need {
            Need::Models => state.models.as_ref().is_some_and(Timed::is_good),
            Need::Health => state.probe.as_ref().is_some_and(Timed::is_good),
        };
        if is_good || state.refreshing {
            return None;
        }
        state.refreshing = true;
        Some(state.generation)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes in what an upstream says of its models, `took` after it was asked.
    fn learn_models(&mut self, outcome: Result<Option<Vec<Model>>, Error>, took: Duration) {
        if self.models.as_ref().is_some_and(|models| models.until.is_none()) {
            return;
        }
        let lasts = match &outcome {
            Ok(_) => true,
            Err(error) => error.kind.lists_no_models() || took >= FAILURE_TIME,
        };
        let known = match outcome {
            Ok(models) => {
                Known { listing: models.map(|models| Arc::new(Listing::new(models))), failure: None }
            }
            Err(error) => {
                let before = self.models.take().and_then(|models| models.value.listing.clone());
                Known { listing: before.filter(|_| !error.kind.lists_no_models()), failure: Some(error) }
            }
        };
        self.models = Some(Timed::new(known, if lasts { CACHE_TIME } else { FAILURE_TIME }));
    }
}

impl<T> Timed<T> {
    fn new(value: T, good_for: Duration) -> Self {
        let at = Instant::now();
        Timed { value: Arc::new(value), at, until: Some(at + good_for) }
    }

    fn is_good(&self) -> bool {
        self.until.is_none_or(|until| until > Instant::now())
    }

    /// Makes it too old, unless it is so new that an upstream which keeps failing would be asked all
    /// the time.
    fn doubt(&mut self) {
        let earliest = self.at + REFRESH_TIME;
        self.until = self.until.map(|until| until.min(earliest));
    }
}

impl Known {
    /// What needs no asking: configured models, or that the protocol has no list.
    fn by_settings(upstream: &Upstream, settings: &config::Upstream) -> Option<Self> {
        if !settings.models.is_empty() {
            let mut listing = Listing::new(settings.models.iter().cloned().map(named).collect());
            listing.names.extend(settings.default_model.clone());
            return Some(Known { listing: Some(Arc::new(listing)), failure: None });
        }
        upstream.keeps_conversations().then(Known::default)
    }

    /// The model that the upstream lists first. `None` leaves the choice to an upstream that does not
    /// list its models.
    ///
    /// # Errors
    /// Why it is not known. Nothing of the question was sent then.
    pub fn first(&self) -> Result<Option<String>, Error> {
        match (&self.listing, &self.failure) {
            (Some(listing), _) => Ok(listing.models.first().map(|model| model.id.clone())),
            (None, Some(error)) if !error.kind.lists_no_models() => Err(error.clone().unworked()),
            (None, _) => Ok(None),
        }
    }
}

impl Listing {
    fn new(models: Vec<Model>) -> Self {
        let names = models.iter().map(|model| model.id.clone()).collect();
        Listing { models, names }
    }

    /// Whether a model is in it.
    pub fn contains(&self, model: &str) -> bool {
        self.names.contains(model)
    }
}

/// A model that the settings name.
pub(super) fn named(id: String) -> Model {
    Model { id, owned_by: "upstream".into(), max_tokens: None }
}

/// The error that an upstream did not give its list of models in time.
pub(super) fn not_listed() -> Error {
    let message = format!("the upstream did not list its models within {} seconds", REFRESH_TIME.as_secs());
    Error::new(Kind::UpstreamTimeout, message).hinted("name a model, or set `DEFAULT_MODEL`").unworked()
}

/// A refresh that is under way.
struct Refresh {
    catalog: Arc<Catalog>,
    entry: Arc<Entry>,
    generation: u64,
}

impl Refresh {
    async fn run(self, upstream: Rc<Upstream>) {
        let start = Instant::now();
        // A list costs no tokens and needs the credentials, so it shows the health as well.
        let models = if upstream.keeps_conversations() {
            timeout(REFRESH_TIME, upstream.probe()).await.map(|outcome| outcome.map(|()| None))
        } else {
            timeout(REFRESH_TIME, upstream.models()).await
        };
        let models = models.unwrap_or_else(|_| Err(not_listed()));
        let latency = start.elapsed();
        let mut state = self.entry.lock();
        if state.generation == self.generation {
            let failure = models.as_ref().err().cloned();
            state.probe = Some(Timed::new(Probe { latency, failure }, CACHE_TIME));
            state.learn_models(models, latency);
        }
    }
}

impl Drop for Refresh {
    /// Also when its thread ends before it does: then another may begin.
    fn drop(&mut self) {
        let mut state = self.entry.lock();
        if state.generation == self.generation {
            state.refreshing = false;
        }
        drop(state);
        self.catalog.changed.notify_waiters();
    }
}
