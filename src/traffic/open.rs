//! A call that has not ended, and what is known of it by now.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Traffic;
use super::call::{CALLER_LEFT, Call, Combination, Failure};
use crate::domain::chat::Usage;

/// The most of a path that is kept, in bytes.
const MAX_PATH: usize = 200;

/// The longest name of a model, in bytes: callers can make up any.
const MAX_MODEL: usize = 200;

/// A call that has not ended. It has when the caller's answer has, and nothing works for it any more: an
/// answer may go on without its caller.
pub struct OpenCall {
    traffic: Arc<Traffic>,
    call: Mutex<Call>,
}

/// What is known of a call when it begins.
pub struct Beginning<'a> {
    /// The name of its key; none where it has none of the service's.
    pub key: Option<&'a Arc<str>>,
    /// The path.
    pub path: &'a str,
    /// Whether it is sent as a POST.
    pub is_post: bool,
    /// The id that the log has it under.
    pub request_id: Arc<str>,
}

impl Beginning<'_> {
    pub(super) fn call(self, number: u64, at: i64) -> Call {
        let key = self.key.map(Arc::clone).unwrap_or_default();
        let of = Combination { key, ..Combination::default() };
        let (path, is_post, request_id) = (cut(self.path, MAX_PATH), self.is_post, self.request_id);
        Call { number, at, of, path, is_post, request_id, ..Call::default() }
    }
}

/// How the answer to a caller ended.
pub struct End<'a> {
    /// The operation's id.
    pub operation: Option<&'static str>,
    /// The status that the caller had.
    pub status: u16,
    /// The status with which the upstream answered.
    pub upstream_status: Option<u16>,
    /// The model that answered.
    pub model: Option<&'a str>,
    /// The code and the words of the failure.
    pub failure: Option<(&'static str, &'a Failure)>,
    /// Whether the caller left before the end.
    pub is_left: bool,
    /// From the call to this end.
    pub total: Duration,
    /// Bytes of the answer's body.
    pub sent: u64,
}

impl OpenCall {
    pub(super) fn new(traffic: Arc<Traffic>, call: Call) -> Self {
        OpenCall { traffic, call: Mutex::new(call) }
    }

    /// What is known of it.
    pub fn call(&self) -> Call {
        self.known().clone()
    }

    /// It asks a question, as this operation and of this model, if it names one.
    pub fn asks(self: &Arc<Self>, operation: &'static str, model: Option<&str>) {
        let number = {
            let mut call = self.known();
            call.asked = Some(operation);
            set_model(&mut call, model);
            call.number
        };
        self.traffic.runs(number, self);
    }

    /// The question is put to the upstream of this name.
    pub fn put_to(&self, upstream: &Arc<str>) {
        self.known().of.upstream = Arc::clone(upstream);
    }

    /// This model answers.
    pub fn is_answered_by(&self, model: Option<&str>) {
        set_model(&mut self.known(), model);
    }

    /// The first piece of the answer came so long after the question.
    pub fn begins(&self, after: Duration) {
        self.known().first_token = Some(after);
        self.traffic.changed.notify_waiters();
    }

    /// What the answer came to.
    pub fn costs(&self, usage: Usage) {
        self.known().usage = Some(usage);
    }

    /// So many bytes of a body came.
    pub fn receives(&self, bytes: usize) {
        self.known().received = bytes as u64;
    }

    /// The caller's answer has ended.
    pub fn ends(&self, end: End<'_>) {
        let mut call = self.known();
        call.total = Some(end.total);
        call.operation = end.operation;
        call.status = Some(end.status);
        call.upstream_status = end.upstream_status;
        call.sent = end.sent;
        if call.of.model.is_empty() {
            set_model(&mut call, end.model);
        }
        match end.failure {
            Some((code, failure)) => {
                call.of.code = code.into();
                call.failure = Some(Box::new(failure.clone()));
            }
            None if end.is_left => call.of.code = CALLER_LEFT.into(),
            None => {}
        }
    }

    fn known(&self) -> MutexGuard<'_, Call> {
        self.call.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        let call = std::mem::take(self.call.get_mut().unwrap_or_else(PoisonError::into_inner));
        self.traffic.note(call);
    }
}

fn set_model(call: &mut Call, model: Option<&str>) {
    let Some(model) = model.filter(|model| *model != call.of.model) else { return };
    call.of.model = cut(model, MAX_MODEL);
}

fn cut(text: &str, most: usize) -> String {
    text[..text.floor_char_boundary(most)].to_string()
}
