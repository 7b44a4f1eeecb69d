//! The one HTTP client towards other servers, and the timer for its many waits.

pub mod client;
pub mod timer;
