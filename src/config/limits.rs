//! Reading what is accepted from callers: sizes, numbers and times.

use std::num::NonZeroU32;

use super::reader::Reader;
use super::{Gateway, Limits};

impl Reader<'_> {
    /// The limits. That of a single key holds only where there may be others: a key that is alone may
    /// fill the room, unless it is set otherwise.
    pub fn limits(&mut self, gateway: &Gateway) -> Limits {
        let body_bytes = self.number("MAX_BODY_BYTES", 2 << 20, 1024, 1 << 30) as usize;
        let v1_body_bytes = self.number("MAX_V1_BODY_BYTES", 20 << 20, 1024, 1 << 30) as usize;
        let bodies_bytes = self.number("MAX_BODIES_BYTES", 64 << 20, 1024, 1 << 40) as usize;
        let streams_per_key = self.number("MAX_STREAMS_PER_KEY", 64, 1, 1_000_000) as usize;
        let is_alone = gateway.keys.len() == 1 && self.get("MAX_STREAMS_PER_KEY").is_none();
        let rate = self.number("RATE_LIMIT_PER_MINUTE", 0, 0, 1_000_000) as u32;
        Limits {
            body_bytes,
            v1_body_bytes,
            // Else a body could be allowed by its own limit and never be taken.
            bodies_bytes: bodies_bytes.max(body_bytes).max(v1_body_bytes),
            header_time: self.seconds("HEADER_TIMEOUT_SECONDS", 5.0),
            body_idle: self.seconds("BODY_IDLE_TIMEOUT_SECONDS", 10.0),
            body_time: self.seconds("BODY_TIMEOUT_SECONDS", 30.0),
            slow_reader: self.seconds("SLOW_READER_TIMEOUT_SECONDS", 30.0),
            heartbeat_after: self.seconds_or_off("HEARTBEAT_AFTER_SECONDS", 45.0),
            heartbeat_every: self.seconds_or_off("HEARTBEAT_SECONDS", 15.0),
            streams: self.number("MAX_STREAMS", 1024, 1, 1_000_000) as usize,
            streams_per_key: (gateway.auth && !is_alone).then_some(streams_per_key),
            long_answers: self.number("MAX_LONG_ANSWERS", 100, 0, 1_000_000) as usize,
            rate_per_minute: NonZeroU32::new(rate),
            shutdown: self.seconds("SHUTDOWN_TIMEOUT_SECONDS", 30.0),
        }
    }
}
