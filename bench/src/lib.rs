//! What the upstream and the load generator agree on: how an HTTP message is cut, and which bytes an
//! answer has. The upstream is that of `tests/api` too.

pub mod answer;
pub mod check;
pub mod http;
pub mod process;
pub mod upstream;

use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970: the one clock that all processes of a machine share in safe Rust.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64)
}
