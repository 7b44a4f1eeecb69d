//! Whether the service stops: then it is not ready, and connections are not kept.

use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the service has begun to stop.
#[derive(Default)]
pub struct Draining(AtomicBool);

impl Draining {
    /// From now on the service is not ready.
    pub fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it has.
    pub fn has_begun(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
