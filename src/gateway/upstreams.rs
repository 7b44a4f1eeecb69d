//! Which upstreams answer: those of the environment, or the one whose group of settings the owner keeps in
//! the store. What is read of the store here is opened and put into service by `app`; each worker takes it
//! up with its next request, and answers under way end on the upstreams that they began with.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use super::catalog::Catalog;
use crate::config::{self, Problems, UpstreamGroup};
use crate::domain::error::{Error, Kind};
use crate::provider::Endpoint;
use crate::provider::session::Session;
use crate::store::Store;
use crate::vault::Vault;

/// How long whoever changes the upstream waits until this process answers from it.
const TAKING_UP: Duration = Duration::from_secs(5);

/// The upstreams that answer, as all threads share them: at least one, if it is the demo.
pub struct Upstreams {
    /// What the store held when they were opened.
    pub kept: Kept,
    /// The upstreams.
    pub endpoints: Vec<Endpoint>,
    pub(super) catalog: Arc<Catalog>,
}

impl Upstreams {
    /// Upstreams of which nothing is known yet.
    pub fn new(kept: Kept, endpoints: Vec<Endpoint>) -> Self {
        Upstreams { kept, endpoints, catalog: Arc::default() }
    }
}

/// The kept upstream, of this generation.
#[derive(Clone)]
pub struct Kept {
    /// It rises with every change.
    pub generation: i64,
    /// Its group.
    pub group: KeptGroup,
}

/// The group of the kept upstream.
#[derive(Clone, PartialEq, Eq)]
pub enum KeptGroup {
    /// None is kept.
    Absent,
    /// One that does not open under this `SECRET_KEY`.
    Sealed,
    /// This one.
    Open(UpstreamGroup),
}

impl Kept {
    /// That nothing is kept.
    pub fn nothing() -> Self {
        Kept { generation: 0, group: KeptGroup::Absent }
    }

    /// What the store keeps now.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn read(store: &Store, vault: &Vault) -> Result<Self, Error> {
        let (generation, sealed) = store.kept_upstream().await?;
        let open = |sealed: String| {
            let group = vault.open(&sealed).and_then(|text| serde_json::from_str(&text).ok());
            group.map_or(KeptGroup::Sealed, KeptGroup::Open)
        };
        Ok(Kept { generation, group: sealed.map_or(KeptGroup::Absent, open) })
    }

    /// The settings of the kept upstream, where one is kept and opens; what holds for any upstream as in `base`.
    ///
    /// # Errors
    /// When this program does not understand them.
    pub fn settings(&self, base: &config::Upstream) -> Result<Option<config::Upstream>, Problems> {
        match &self.group {
            KeptGroup::Open(group) => group.upstream(base).map(Some),
            KeptGroup::Absent | KeptGroup::Sealed => Ok(None),
        }
    }
}

/// Keeps the owner's upstream in the store, and tells all threads which upstreams answer.
pub struct UpstreamKeeper {
    store: Arc<Store>,
    vault: Vault,
    /// What holds for any upstream.
    base: config::Upstream,
    /// The variables of the environment that say which upstream it is.
    variables: Vec<String>,
    present: watch::Sender<Arc<Upstreams>>,
    wanted: Notify,
    /// The session of the latest upstream that was tried: a mirror may have renewed its login meanwhile.
    tried: Mutex<Option<Arc<Session>>>,
}

impl UpstreamKeeper {
    /// A keeper for a service that begins with these upstreams.
    pub fn new(config: &config::Config, store: Arc<Store>, vault: Vault, first: Upstreams) -> Self {
        UpstreamKeeper {
            store,
            vault,
            base: config.upstream.clone(),
            variables: config.upstream_variables.clone(),
            present: watch::Sender::new(Arc::new(first)),
            wanted: Notify::new(),
            tried: Mutex::default(),
        }
    }

    /// The variables of the environment that say which upstream it is: then none can be kept.
    pub fn variables(&self) -> &[String] {
        &self.variables
    }

    /// The upstreams that answer now.
    pub fn present(&self) -> Arc<Upstreams> {
        Arc::clone(&self.present.borrow())
    }

    /// For whoever goes on with the upstreams that answer.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Upstreams>> {
        self.present.subscribe()
    }

    /// Lets other upstreams answer from now on.
    pub fn renew(&self, upstreams: Upstreams) {
        self.present.send_replace(Arc::new(upstreams));
    }

    /// Waits until somebody has changed here what is kept.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Reads what is kept.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn read(&self) -> Result<Kept, Error> {
        Kept::read(&self.store, &self.vault).await
    }

    /// The upstream of a group, to be tried or kept. Its session is the present one, or that of the latest
    /// trial, where it is of the same login.
    ///
    /// # Errors
    /// What is wrong with the group.
    pub fn open(&self, group: &UpstreamGroup) -> Result<Endpoint, Error> {
        let settings = group.upstream(&self.base).map_err(|problems| invalid(&problems))?;
        let url = settings.url.clone().ok_or_else(|| Error::new(Kind::Internal, "the address is gone"))?;
        Ok(self.resumed(Endpoint::new(url, &settings)))
    }

    /// An endpoint with the session that is known of its login.
    pub fn resumed(&self, endpoint: Endpoint) -> Endpoint {
        let present = self.present();
        let tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut known = present.endpoints.iter().map(|endpoint| &endpoint.session).chain(&tried);
        match known.find(|session| session.begins_like(&endpoint.session)) {
            Some(session) => Endpoint { session: Arc::clone(session), ..endpoint },
            None => endpoint,
        }
    }

    /// Remembers the session of an upstream that was tried, in case that it is kept next.
    pub fn remember(&self, tried: &Endpoint) {
        *self.tried.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&tried.session));
    }

    /// Keeps an upstream over that of a generation, or takes it away, and waits until this process answers
    /// accordingly. Other replicas follow within seconds.
    ///
    /// # Errors
    /// As [`UpstreamKeeper::write`].
    pub async fn keep(&self, group: Option<&UpstreamGroup>, generation: i64) -> Result<(), Error> {
        let kept = self.write(group, generation).await?;
        self.wanted.notify_one();
        let mut present = self.subscribe();
        let taken_up = present.wait_for(|upstreams| upstreams.kept.generation >= kept);
        if timeout(TAKING_UP, taken_up).await.is_err() {
            log::warn!("the upstream is kept, and not in service yet");
        }
        Ok(())
    }

    /// Keeps an upstream over that of a generation, or takes it away; gives the new generation.
    ///
    /// # Errors
    /// When the environment says which upstream it is, another change came between, or the store cannot be
    /// used.
    pub async fn write(&self, group: Option<&UpstreamGroup>, generation: i64) -> Result<i64, Error> {
        self.expect_unlocked()?;
        let text = group.map(serde_json::to_string).transpose();
        let text = text.map_err(|_| Error::new(Kind::Internal, "the upstream cannot be written"))?;
        let sealed = text.map(|text| self.vault.seal(&text)).transpose()?;
        self.store.keep_upstream(sealed, generation).await?.ok_or_else(|| {
            Error::new(Kind::InvalidRequest, "the upstream was changed by somebody else meanwhile")
                .hinted("look at what holds now, and set it again if need be")
        })
    }

    /// # Errors
    /// That the environment says which upstream it is.
    pub fn expect_unlocked(&self) -> Result<(), Error> {
        if self.variables.is_empty() {
            return Ok(());
        }
        let names = self.variables.join(", ");
        let message = format!("the environment says which upstream answers: {names}");
        Err(Error::new(Kind::InvalidRequest, message)
            .hinted("change it there, or remove these variables and restart: then it can be set here"))
    }
}

/// The error for a group with mistakes: all of them, with what to do about the first.
fn invalid(problems: &Problems) -> Error {
    let told = problems.0.iter().map(|problem| format!("{}: {}", problem.setting, problem.what));
    let advice = problems.0.first().map(|problem| problem.advice.clone()).unwrap_or_default();
    Error::new(Kind::InvalidRequest, told.collect::<Vec<_>>().join("; ")).hinted(advice)
}
