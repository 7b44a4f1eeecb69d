//! What is accepted from callers: sizes, numbers and times.

use std::num::NonZeroU32;
use std::time::Duration;

use super::reader::Reader;
use super::settings::{
    BODY_IDLE_TIMEOUT_SECONDS, BODY_TIMEOUT_SECONDS, HEADER_TIMEOUT_SECONDS, HEARTBEAT_AFTER_SECONDS,
    HEARTBEAT_SECONDS, KEY_STORAGE_BYTES, MAX_BODY_BYTES, MAX_LONG_ANSWERS, MAX_STREAMS, MAX_STREAMS_PER_KEY,
    MAX_V1_BODY_BYTES, MEMORY_BUDGET_BYTES, RATE_LIMIT_PER_MINUTE, SHUTDOWN_TIMEOUT_SECONDS,
    SLOW_READER_TIMEOUT_SECONDS, V1_HEARTBEAT_AFTER_SECONDS,
};
use super::{Gateway, Public};

/// What is accepted from callers.
#[derive(Clone)]
pub struct Limits {
    /// `MAX_BODY_BYTES`
    pub body_bytes: usize,
    /// `MAX_V1_BODY_BYTES`
    pub v1_body_bytes: usize,
    /// `MEMORY_BUDGET_BYTES`, at least twice the largest body.
    pub memory_bytes: usize,
    /// `KEY_STORAGE_BYTES`; 0 for any number.
    pub key_storage_bytes: u64,
    /// `HEADER_TIMEOUT_SECONDS`
    pub header_time: Duration,
    /// `BODY_IDLE_TIMEOUT_SECONDS`
    pub body_idle: Duration,
    /// `BODY_TIMEOUT_SECONDS`
    pub body_time: Duration,
    /// `SLOW_READER_TIMEOUT_SECONDS`
    pub slow_reader: Duration,
    /// `HEARTBEAT_AFTER_SECONDS`; `None` sends no blanks.
    pub heartbeat_after: Option<Duration>,
    /// `V1_HEARTBEAT_AFTER_SECONDS`; `None` sends no blanks on `/v1`.
    pub v1_heartbeat_after: Option<Duration>,
    /// `HEARTBEAT_SECONDS`; `None` sends neither blanks nor comments.
    pub heartbeat_every: Option<Duration>,
    /// `MAX_STREAMS`
    pub streams: usize,
    /// `MAX_STREAMS_PER_KEY`; `None` where callers have no keys.
    pub streams_per_key: Option<usize>,
    /// `MAX_LONG_ANSWERS`; 0 without `LONG_ANSWERS`.
    pub long_answers: usize,
    /// `RATE_LIMIT_PER_MINUTE`; `None` is no limit.
    pub rate_per_minute: Option<NonZeroU32>,
    /// `SHUTDOWN_TIMEOUT_SECONDS`
    pub shutdown: Duration,
}

impl Reader<'_> {
    /// The limits. That of a single key holds only where there may be others: a key that is alone may
    /// fill the room, unless it is set otherwise.
    pub fn limits(&mut self, gateway: &Gateway, public: &Public) -> Limits {
        let body_bytes = self.read(&MAX_BODY_BYTES);
        let v1_body_bytes = self.read(&MAX_V1_BODY_BYTES);
        let memory_bytes = usize::try_from(self.read(&MEMORY_BUDGET_BYTES)).unwrap_or(usize::MAX);
        let streams_per_key = self.read(&MAX_STREAMS_PER_KEY);
        let long_answers = self.read(&MAX_LONG_ANSWERS);
        let is_alone = gateway.keys.len() == 1 && !self.is_set(&MAX_STREAMS_PER_KEY);
        Limits {
            body_bytes,
            v1_body_bytes,
            // Else a body could be allowed by its own limit and never be taken; read, it is as large again.
            key_storage_bytes: self.read(&KEY_STORAGE_BYTES),
            memory_bytes: memory_bytes.max(2 * body_bytes.max(v1_body_bytes)),
            header_time: self.read(&HEADER_TIMEOUT_SECONDS),
            body_idle: self.read(&BODY_IDLE_TIMEOUT_SECONDS),
            body_time: self.read(&BODY_TIMEOUT_SECONDS),
            slow_reader: self.read(&SLOW_READER_TIMEOUT_SECONDS),
            heartbeat_after: self.read(&HEARTBEAT_AFTER_SECONDS),
            v1_heartbeat_after: self.read(&V1_HEARTBEAT_AFTER_SECONDS),
            heartbeat_every: self.read(&HEARTBEAT_SECONDS),
            streams: self.read(&MAX_STREAMS),
            streams_per_key: (gateway.auth && !is_alone).then_some(streams_per_key),
            long_answers: if public.long_answers { long_answers } else { 0 },
            rate_per_minute: NonZeroU32::new(self.read(&RATE_LIMIT_PER_MINUTE)),
            shutdown: self.read(&SHUTDOWN_TIMEOUT_SECONDS),
        }
    }
}
