//! The doctor of a running service, for its owner: the same checks, without a question.

use std::sync::Arc;

use secrecy::SecretString;
use tokio::sync::Mutex;

use super::{Finding, Outside, Patient, Place, Service, Trial, backup, examine};
use crate::backup::Standing;
use crate::config::Config;
use crate::provider::Endpoint;
use crate::store::Store;

/// Gives the mirrors that answer at the time.
type Mirrors = Box<dyn Fn() -> Vec<Endpoint> + Send + Sync>;

/// What a running service knows of itself.
pub struct Doctor {
    patient: Mutex<Patient>,
    /// The mirrors that answer at the time.
    mirrors: Mirrors,
    /// Where an upstream is kept.
    pub place: Place,
    public: Option<String>,
    local: String,
    open: bool,
    backup: Option<Standing>,
}

impl Doctor {
    /// The doctor of a service with this configuration that can be reached at `local` from its own
    /// machine.
    pub fn new(config: &Config, mirrors: Mirrors, store: Arc<Store>, local: String) -> Self {
        let place = Place::of(config, store);
        let store = Some((Arc::clone(&place.store), place.concern.clone()));
        Doctor {
            place,
            patient: Mutex::new(Patient { mirrors: Vec::new(), store, service: None, outside: None }),
            mirrors,
            public: config.public.url.clone(),
            local,
            open: !config.gateway.auth,
            backup: None,
        }
    }

    /// The same, which also tells how the backup goes, where there is one.
    pub fn watching(self, backup: Option<Standing>) -> Self {
        Doctor { backup, ..self }
    }

    /// The trial of an upstream that this service would keep.
    pub fn trial(&self, endpoint: Endpoint) -> Trial {
        Trial::new(endpoint, self.place.clone())
    }

    /// Examines the service; `address` is its base URL as the caller sees it, and `key` the caller's.
    /// `None` while another examination is under way.
    ///
    /// Only the configured public URL is fetched from outside: a caller chooses no host.
    pub async fn examine(&self, address: String, key: Option<String>) -> Option<Vec<Finding>> {
        let mut patient = self.patient.try_lock().ok()?;
        let key = key.map(SecretString::from);
        patient.mirrors = (self.mirrors)();
        patient.service = Some(Service {
            base: self.local.clone(),
            key,
            open: self.open,
            questions: false,
            key_in_address: false,
            is_elsewhere: false,
        });
        patient.outside = Some(Outside::of(self.public.as_deref(), address, self.local.clone()));
        let mut findings = examine(&patient, false, &|_| {}).await;
        findings.extend(self.backup.as_ref().map(backup::uploads));
        Some(findings)
    }
}
