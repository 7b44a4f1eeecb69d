//! What keys use: counted here as it happens, and added to the store every few seconds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::domain::chat::{Event, Owner, Tally, Usage, estimate_tokens};
use crate::domain::error::Error;
use crate::metrics::Metrics;
use crate::provider::openai;
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
    asked: Asked,
    told: Option<Usage>,
    tokens: u64,
}

/// What an estimate of a question's tokens is made from.
pub enum Asked {
    /// The tokens themselves.
    Tokens(u64),
    /// A request of the OpenAI protocol; a small one is read only when an estimate is needed.
    Request(Bytes),
}

impl Meter {
    /// A meter of one request.
    pub fn new(book: Arc<UsageBook>, owner: Owner, asked: Asked) -> Self {
        let asked = match asked {
            // Read now, so that its bytes are not held for as long as the answer takes.
            Asked::Request(body) if body.len() > MAX_KEPT_REQUEST => {
                Asked::Tokens(openai::prompt_tokens(&body))
            }
            asked => asked,
        };
        Meter { book, owner, asked, told: None, tokens: 0 }
    }

    /// Takes in what a piece of the answer tells of the cost, or else an estimate of its tokens.
    pub fn take(&mut self, told: Option<Usage>, tokens: u64) {
        self.told = told.or(self.told);
        self.tokens += tokens;
    }

    /// Takes in one step of an answer.
    pub fn event(&mut self, event: &Event) {
        match event {
            Event::Text(text) => self.tokens += estimate_tokens(text),
            Event::WholeText(text) => self.tokens = estimate_tokens(text),
            Event::Usage(usage) => self.told = Some(*usage),
            Event::ResponseId(_)
            | Event::Model(_)
            | Event::ConversationId(_)
            | Event::Thinking(_)
            | Event::Gap
            | Event::Finish(_) => {}
        }
    }

    /// What it came to so far.
    pub fn usage(&self) -> Usage {
        self.told.unwrap_or_else(|| {
            let prompt_tokens = match &self.asked {
                Asked::Tokens(tokens) => *tokens,
                Asked::Request(body) => openai::prompt_tokens(body),
            };
            let total_tokens = prompt_tokens + self.tokens;
            Usage { prompt_tokens, completion_tokens: self.tokens, total_tokens, estimated: true }
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
            let body = format!(r#"{{"messages":[{{"role":"user","content":"{}"}}]}}"#, "x ".repeat(length));
            Meter::new(Arc::clone(&book), Owner("x".into()), Asked::Request(body.into()))
        };
        assert!(matches!(meter(100).asked, Asked::Request(_)));
        let large = meter(MAX_KEPT_REQUEST);
        assert!(matches!(large.asked, Asked::Tokens(_)));
        assert!(large.usage().prompt_tokens > 10_000);
    }
}
