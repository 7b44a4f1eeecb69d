//! The one HTTP client towards other servers, and the timer for its many waits.

pub mod client;
mod connect;
mod exchange;
mod head;
mod heads;
pub mod timer;
pub mod tls;
