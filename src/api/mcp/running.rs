//! The calls that run, so that a client can give one up by its request's id.
//!
//! It reaches the calls of this process alone. An id is unique for one client only, and there are no
//! sessions that would tell the clients of one key apart: where several calls match, none is given up,
//! since it could be another's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use actix_web::HttpRequest;
use actix_web::web::Data;
use tokio_util::sync::CancellationToken;

use super::message::Id;
use crate::domain::chat::Owner;

/// The calls that run in this process.
#[derive(Clone, Default)]
pub struct Running(Arc<Mutex<Calls>>);

#[derive(Default)]
struct Calls {
    by_number: HashMap<u64, Call>,
    last: u64,
}

struct Call {
    owner: Owner,
    id: Id,
    given_up: CancellationToken,
}

/// A call that runs, until it is dropped.
pub struct Entry {
    running: Running,
    number: u64,
    given_up: CancellationToken,
}

impl Running {
    /// The calls of the service that a request came to.
    pub fn of(request: &HttpRequest) -> &Self {
        request.app_data::<Data<Running>>().expect("the application holds the calls that run")
    }

    /// Takes a call in.
    pub fn enter(&self, owner: Owner, id: Id) -> Entry {
        let given_up = CancellationToken::new();
        let mut calls = self.calls();
        calls.last += 1;
        let number = calls.last;
        calls.by_number.insert(number, Call { owner, id, given_up: given_up.clone() });
        drop(calls);
        Entry { running: self.clone(), number, given_up }
    }

    /// Gives the only call up that this owner makes under this id.
    pub fn give_up(&self, owner: &Owner, id: &Id) {
        let calls = self.calls();
        let mut matching = calls.by_number.values().filter(|call| call.owner == *owner && call.id == *id);
        if let (Some(call), None) = (matching.next(), matching.next()) {
            call.given_up.cancel();
        }
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// Waits until the call is given up.
    pub async fn given_up(&self) {
        self.given_up.cancelled().await;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.running.calls().by_number.remove(&self.number);
    }
}
