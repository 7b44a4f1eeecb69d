//! The doctor: checks everything between a mirror and Dify, and says of each thing what was seen and
//! what to do.
//!
//! It looks at the upstream as the service does, and at the service as Dify does: over HTTP, from
//! outside. Each check has a few seconds; none spends tokens unless that is asked for. It starts
//! nothing and changes nothing: who calls it says what there is to look at.

pub mod backup;
pub mod document;
mod finding;
pub mod http;
mod net;
mod public;
mod replay;
mod resident;
mod service;
mod session;
mod trial;
mod upstream;

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

pub use finding::{Finding, Level};
pub use resident::Doctor;
pub use trial::{Outcome, Step, Trial};

use crate::config::Config;
use crate::provider::Endpoint;
use crate::store::Store;

/// How long a check may take.
const TIME: Duration = Duration::from_secs(5);

/// How long a real question may take.
const QUESTION_TIME: Duration = Duration::from_secs(30);

/// What is examined.
pub struct Patient {
    /// The mirrors; none where the configuration does not tell them.
    pub mirrors: Vec<Endpoint>,
    /// Where conversations and keys are kept, and what speaks against that place.
    pub store: Option<(Arc<Store>, Option<String>)>,
    /// The service whose calls are replayed.
    pub service: Option<Service>,
    /// The service as it is reached from outside.
    pub outside: Option<Outside>,
}

/// Where an upstream would be kept.
#[derive(Clone)]
pub struct Place {
    /// The store.
    pub store: Arc<Store>,
    /// What speaks against it.
    pub concern: Option<String>,
    /// Whether `SECRET_KEY` seals what is secret in it.
    pub is_sealed: bool,
}

impl Place {
    /// The place of a service with this configuration.
    pub fn of(config: &Config, store: Arc<Store>) -> Self {
        Place { store, concern: config.state_concern(), is_sealed: config.store.secret_key.is_some() }
    }

    /// Whether what is kept here is there after a restart.
    pub fn lasts(&self) -> bool {
        self.store.lasts() && self.concern.is_none()
    }
}

/// A running service.
pub struct Service {
    /// Its base URL, without a trailing slash.
    pub base: String,
    /// A gateway key, or none where none is needed or at hand.
    pub key: Option<SecretString>,
    /// Whether it needs no key.
    pub open: bool,
    /// Whether calls that ask the mirror a question are replayed as well.
    pub questions: bool,
    /// Whether the key may stand in the address: the owner's is not taken from there.
    pub key_in_address: bool,
    /// Whether it runs elsewhere, so that it must be asked for what lies behind it.
    pub is_elsewhere: bool,
}

/// The service's public side.
pub struct Outside {
    /// The base URL that Dify is to use, without a trailing slash.
    pub address: String,
    /// Where the document is fetched from: the same, unless nobody names an address.
    pub base: String,
    /// Who says so.
    pub source: Source,
}

impl Outside {
    /// The public side of a service that is configured to have this URL, would have that `address` if
    /// nobody named one, and can be reached at `local` from its own machine.
    pub fn of(configured: Option<&str>, address: String, local: String) -> Self {
        match configured {
            // Only containers know this name; from here the service itself must do.
            Some(url) if url.contains("://host.docker.internal") => {
                Outside { address: url.into(), base: local, source: Source::Nobody }
            }
            Some(url) => Outside { address: url.into(), base: url.into(), source: Source::Configured },
            None => Outside { address, base: local, source: Source::Nobody },
        }
    }
}

/// Who names the public base URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The person, for this examination.
    Given,
    /// `PUBLIC_URL` or the platform.
    Configured,
    /// Nobody, or nobody on this machine: it cannot be asked from here.
    Nobody,
}

/// Checks everything, tells `progress` before each part, and gives the findings in order. With
/// `deep`, one question is asked of the mirror, which costs tokens.
pub async fn examine(patient: &Patient, deep: bool, progress: &dyn Fn(&str)) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut date = None;
    for mirror in &patient.mirrors {
        let before = findings.len();
        date = upstream::check(mirror, deep, progress, &mut findings).await.or(date);
        findings.push(session::check(mirror));
        if patient.mirrors.len() > 1 {
            let name = &mirror.settings.name;
            findings[before..]
                .iter_mut()
                .for_each(|finding| finding.seen.insert_str(0, &format!("{name}: ")));
        }
    }
    if let Some((store, concern)) = &patient.store {
        progress("store");
        findings.push(kept(store, concern.as_deref()).await);
    }
    if let Some(outside) = &patient.outside {
        date = public::check(outside, progress, &mut findings).await.or(date);
    }
    if let Some(service) = &patient.service {
        let is_owners = service.is_elsewhere && {
            progress("the service, by its own account");
            service::check(service, &mut findings).await
        };
        progress("replay of Dify's calls");
        replay::check(service, service.key_in_address && !is_owners, &mut findings).await;
    }
    findings.extend(date.map(public::clock));
    findings
}

async fn kept(store: &Store, concern: Option<&str>) -> Finding {
    const CHECK: &str = "store";
    match (store.prepare().await, concern) {
        (Err(error), _) => Finding::failed(CHECK, &error),
        (Ok(()), _) if !store.lasts() => Finding::warning(
            CHECK,
            "conversations, generated keys and the login are kept in memory and forgotten at a restart",
            "set DATABASE_URL to a PostgreSQL server, or DATA_DIR to a folder that lasts",
        ),
        (Ok(()), Some(concern)) => Finding::warning(
            CHECK,
            format!("{} can be used; {concern}", store.place()),
            "set DATABASE_URL to a PostgreSQL server, or DATA_DIR to a mounted disk",
        ),
        (Ok(()), None) => Finding::ok(CHECK, format!("{} can be used", store.place())),
    }
}
