//! Calls that their callers may send again: whoever names a call by an `Idempotency-Key` gets the answer
//! of the first one, also while that still runs, and its question is paid once.
//!
//! Such a call goes on without its caller, since one who comes back wants its answer. Source of the
//! header: <https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/>.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::{interval, sleep};

use super::Gateway;
use crate::domain::chat::Owner;
use crate::domain::error::{Error, Kind};
use crate::request;
use crate::store::{CallKey, KeptCall, Store};

/// How long an answer is kept.
pub const CALLS_KEPT: Duration = Duration::from_secs(24 * 3600);

/// How long a process vouches for a call at once, and how often.
const VOUCHED: Duration = Duration::from_secs(10);
const RENEWAL: Duration = Duration::from_secs(3);

/// How often it is looked whether another process has the answer.
const LOOK: Duration = Duration::from_millis(300);

/// The calls that run in this process.
#[derive(Default)]
pub(super) struct Calls(Mutex<HashMap<CallKey, Arc<Recording>>>);

impl Calls {
    fn running(&self) -> MutexGuard<'_, HashMap<CallKey, Arc<Recording>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that its caller may send again.
#[derive(Clone)]
pub struct Call {
    /// Who calls.
    pub owner: Owner,
    /// The path.
    pub path: String,
    /// The caller's name for it.
    pub name: String,
    /// A digest of the request.
    pub digest: String,
}

/// What is to be done for a call.
pub enum Begun {
    /// It is to be made, and its answer recorded.
    New(Recorder),
    /// It was made before: this is its answer, or will be.
    Again(Arc<Recording>),
}

/// The head of an answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Head {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: Vec<(String, String)>,
}

/// An answer that is recorded.
#[derive(Default)]
pub struct Recording {
    digest: String,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    head: Option<Head>,
    body: Vec<Bytes>,
    end: Option<End>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Complete,
    BrokeOff,
}

/// An answer as it is kept.
#[derive(Serialize, Deserialize)]
struct Record {
    head: Head,
    body: String,
    broke_off: bool,
}

impl Recording {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_waiters();
    }

    /// What `look` finds as soon as it finds something.
    async fn when<T>(&self, look: impl Fn(&State) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            if let Some(found) = look(&self.state()) {
                return found;
            }
            changed.await;
        }
    }

    /// The head, or nothing when the answer never began.
    pub async fn head(&self) -> Option<Head> {
        self.when(|state| match (&state.head, state.end) {
            (Some(head), _) => Some(Some(head.clone())),
            (None, Some(_)) => Some(None),
            (None, None) => None,
        })
        .await
    }

    /// The body from its beginning, as far as it is there and then as it comes. It stays in memory for as long
    /// as somebody reads it, so whoever `holds` it beside the call that made it takes as much of the budget.
    pub fn body(self: Arc<Self>, holds: bool) -> impl Stream<Item = Result<Bytes, Error>> {
        stream::unfold((self, 0), move |(recording, place)| async move {
            let next = recording.when(|state| match (state.body.get(place), state.end) {
                (Some(bytes), _) => Some(Ok(Some(bytes.clone()))),
                (None, Some(End::Complete)) => Some(Ok(None)),
                (None, Some(End::BrokeOff)) => Some(Err(interrupted())),
                (None, None) => None,
            });
            let next = next.await.transpose()?;
            let next = next
                .and_then(|bytes| if holds { request::take(bytes.len()).map(|()| bytes) } else { Ok(bytes) });
            // Nothing comes after an error.
            let after = if next.is_ok() { place + 1 } else { usize::MAX - 1 };
            Some((next, (recording, after)))
        })
    }

    fn of(kept: &str, digest: String) -> Result<Self, Error> {
        // What was read is written once more, and then let go.
        request::take(2 * kept.len())?;
        let Record { head, body, broke_off } = serde_json::from_str(kept)
            .map_err(|_| Error::new(Kind::Internal, "the kept answer cannot be read"))?;
        request::give(2 * kept.len());
        let end = Some(if broke_off { End::BrokeOff } else { End::Complete });
        let state = Mutex::new(State { head: Some(head), body: vec![body.into()], end });
        Ok(Recording { digest, state, changed: Notify::new() })
    }
}

/// Records the answer of a call. When it is dropped before the end, the answer broke off.
pub struct Recorder {
    key: CallKey,
    holder: String,
    store: Arc<Store>,
    calls: Arc<Calls>,
    recording: Arc<Recording>,
}

impl Recorder {
    /// What is recorded.
    pub fn recording(&self) -> Arc<Recording> {
        Arc::clone(&self.recording)
    }

    /// The head of the answer.
    pub fn begin(&self, head: Head) {
        self.recording.change(|state| state.head = Some(head));
    }

    /// The next bytes of its body.
    pub fn add(&self, bytes: Bytes) {
        self.recording.change(|state| state.body.push(bytes));
    }

    /// Vouches for the call until this is dropped.
    pub async fn vouch(&self) {
        let mut renewals = interval(RENEWAL);
        loop {
            renewals.tick().await;
            if let Err(error) = self.store.vouch_for_call(&self.key, &self.holder, VOUCHED).await {
                log::warn!(error = error.kind.code(); "a call with an Idempotency-Key is not vouched for now: {}", error.message);
            }
        }
    }

    /// Ends the answer: it stays for those who send the call again, if it `counts`; else they make it anew.
    pub async fn end(self, complete: bool, counts: bool) {
        let kept = if counts {
            self.store.finish_call(&self.key, &self.holder, self.record(complete)).await
        } else {
            self.store.release_call(&self.key, &self.holder).await
        };
        if let Err(error) = kept {
            log::warn!(error = error.kind.code(); "the answer of a call with an Idempotency-Key is not kept: {}", error.message);
        }
        let end = if complete { End::Complete } else { End::BrokeOff };
        self.recording.change(|state| state.end = Some(end));
    }

    fn record(&self, complete: bool) -> String {
        let state = self.recording.state();
        let head = state.head.clone().unwrap_or(Head { status: 500, headers: Vec::new() });
        let body = String::from_utf8_lossy(&state.body.concat()).into_owned();
        let record = Record { head, body, broke_off: !complete };
        serde_json::to_string(&record).expect("a record is made of texts and numbers")
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.recording.change(|state| {
            state.end.get_or_insert(End::BrokeOff);
        });
        self.calls.running().remove(&self.key);
    }
}

impl Gateway {
    /// Begins a call that its caller may send again.
    ///
    /// # Errors
    /// When the name was given to another request; when the process that made the call died, so that
    /// nobody knows its answer; when the store cannot be used.
    pub async fn begin_call(&self, call: Call) -> Result<Begun, Error> {
        let Call { owner, path, name, digest } = call;
        let key = CallKey { owner, path, name };
        let holder = format!("{:016x}", crate::random::number());
        let calls = &self.shared.calls;
        loop {
            let running = calls.running().get(&key).cloned();
            if let Some(recording) = running {
                same(&recording.digest, &digest)?;
                return Ok(Begun::Again(recording));
            }
            let times = [VOUCHED, CALLS_KEPT];
            match self.shared.store.claim_call(&key, &holder, &digest, times).await? {
                None => {
                    let recording = Arc::new(Recording { digest, ..Recording::default() });
                    calls.running().insert(key.clone(), Arc::clone(&recording));
                    let (store, calls) = (Arc::clone(&self.shared.store), Arc::clone(calls));
                    return Ok(Begun::New(Recorder { key, holder, store, calls, recording }));
                }
                Some(KeptCall { digest: kept, answer, alive }) => {
                    same(&kept, &digest)?;
                    match answer {
                        Some(answer) => return Recording::of(&answer, kept).map(Arc::new).map(Begun::Again),
                        None if alive => sleep(LOOK).await,
                        None => return Err(interrupted()),
                    }
                }
            }
        }
    }
}

fn same(kept: &str, digest: &str) -> Result<(), Error> {
    if kept == digest {
        return Ok(());
    }
    Err(Error::new(Kind::InvalidRequest, "another request was sent with this Idempotency-Key before")
        .hinted("give each new request an `Idempotency-Key` of its own"))
}

fn interrupted() -> Error {
    Error::new(
        Kind::AnswerInterrupted,
        "the call with this Idempotency-Key broke off, and may have been paid",
    )
    .hinted("ask anew with another `Idempotency-Key`, or without one")
}
