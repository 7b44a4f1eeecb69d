//! What keys use: counted here as it happens, and added to the store every few seconds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::domain::answer::Delta;
use crate::domain::chat::{Chat, Owner, Tally, Usage, estimate_tokens};
use crate::domain::error::Error;
use crate::metrics::Metrics;
use crate::store::Store;

/// The largest request that is kept until its answer has ended, in bytes.
const MAX_KEPT_REQUEST: usize = 64 << 10;

/// What was used since it was last added to the store.
pub struct UsageBook {
    open: Mutex<HashMap<Owner, Tally>>,
    metrics: Arc<Metrics>,
}

impl UsageBook {
    /// An empty book, which tells the metrics of what is written into it.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        UsageBook { open: Mutex::default(), metrics }
    }

    /// Counts one request of a key.
    pub fn count(&self, owner: &Owner, usage: Usage) {
        self.metrics.tokens(usage.prompt_tokens, usage.completion_tokens);
        self.add(owner, Tally::of(usage));
    }

    /// Adds everything to the store. What cannot be added now stays for the next time.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn settle(&self, store: &Store) -> Result<(), Error> {
        let tallies: Vec<_> = std::mem::take(&mut *self.open.lock().unwrap_or_else(PoisonError::into_inner))
            .into_iter()
            .collect();
        if tallies.is_empty() {
            return Ok(());
        }
        let added = store.add_usage(tallies.clone()).await;
        if added.is_err() {
            tallies.into_iter().for_each(|(owner, tally)| self.add(&owner, tally));
        }
        added
    }

    fn add(&self, owner: &Owner, tally: Tally) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        match open.get_mut(owner) {
            Some(known) => known.add(tally),
            None => drop(open.insert(owner.clone(), tally)),
        }
    }
}

/// Counts one request: when it is dropped, so that one whose caller has left is counted as well.
pub struct Meter {
    book: Arc<UsageBook>,
    owner: Owner,
    asked: Estimate,
    told: Option<Usage>,
    tokens: u64,
}

/// What an estimate of a question's tokens is made from.
pub enum Estimate {
    /// The tokens themselves.
    Tokens(u64),
    /// A request, and how its tokens are estimated; a small one is read only when that is needed.
    Request(Bytes, fn(&[u8]) -> u64),
}

impl Estimate {
    /// The tokens in what is asked; pictures and sounds count nothing.
    pub fn of(chat: &Chat) -> Self {
        Estimate::Tokens(chat.messages.iter().map(|message| estimate_tokens(&message.text())).sum())
    }
}

impl Meter {
    /// A meter of one request.
    pub fn new(book: Arc<UsageBook>, owner: Owner, asked: Estimate) -> Self {
        let asked = match asked {
            // Read now, so that its bytes are not held for as long as the answer takes.
            Estimate::Request(body, tokens) if body.len() > MAX_KEPT_REQUEST => {
                Estimate::Tokens(tokens(&body))
            }
            asked => asked,
        };
        Meter { book, owner, asked, told: None, tokens: 0 }
    }

    /// Takes in what a piece of the answer tells of the cost, or else an estimate of its tokens.
    pub fn take(&mut self, delta: &Delta) {
        match delta.usage() {
            Some(told) => self.told = Some(told),
            None if delta.settled => self.tokens = delta.tokens(),
            None => self.tokens += delta.tokens(),
        }
    }

    /// What it came to so far.
    pub fn usage(&self) -> Usage {
        self.told.unwrap_or_else(|| {
            let prompt_tokens = match &self.asked {
                Estimate::Tokens(tokens) => *tokens,
                Estimate::Request(body, tokens) => tokens(body),
            };
            Usage::estimate(prompt_tokens, self.tokens)
        })
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.book.count(&self.owner, self.usage());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Counter;

    #[test]
    fn a_large_request_is_read_at_once_and_let_go() {
        let book = Arc::new(UsageBook::new(Arc::new(Metrics::new(Counter::default()))));
        let meter = |length: usize| {
            let request = Estimate::Request(vec![b'x'; length].into(), |body| body.len() as u64);
            Meter::new(Arc::clone(&book), Owner("x".into()), request)
        };
        assert!(matches!(meter(100).asked, Estimate::Request(..)));
        let large = meter(MAX_KEPT_REQUEST + 1);
        assert!(matches!(large.asked, Estimate::Tokens(_)));
        assert_eq!(large.usage().prompt_tokens, MAX_KEPT_REQUEST as u64 + 1);
    }
}
