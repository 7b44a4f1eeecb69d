//! An upstream as it is configured, with the session that all threads share.

use std::sync::Arc;

use url::Url;

use super::Upstream;
use super::session::Session;
use crate::config;

/// An upstream that can be connected to.
#[derive(Clone)]
pub struct Endpoint {
    /// How it is configured.
    pub settings: config::Upstream,
    /// Where the protocol's paths begin.
    pub base: Url,
    /// The login.
    pub session: Arc<Session>,
}

impl Endpoint {
    /// The endpoint at `base`, with the session that the settings begin with.
    pub fn new(base: Url, settings: &config::Upstream) -> Self {
        let session = Arc::new(Session::new(&base, settings));
        Endpoint { settings: settings.clone(), base, session }
    }

    /// The upstream with connections of its own; it stays on this thread.
    pub fn connect(&self) -> Upstream {
        Upstream::new(self.base.clone(), &self.settings, Arc::clone(&self.session))
    }
}
