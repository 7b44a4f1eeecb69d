//! What keys use: counted here as it happens, and added to the store every few seconds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::chat::{Event, Owner, Tally, Usage, estimate_tokens};
use crate::error::Error;
use crate::store::Store;
use crate::upstream::openai;

/// What was used since it was last added to the store.
#[derive(Default)]
pub struct UsageBook {
    open: Mutex<HashMap<Owner, Tally>>,
}

impl UsageBook {
    /// Counts one request of a key.
    pub fn count(&self, owner: &Owner, usage: Usage) {
        self.add(owner.clone(), Tally::of(usage));
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
            tallies.into_iter().for_each(|(owner, tally)| self.add(owner, tally));
        }
        added
    }

    fn add(&self, owner: Owner, tally: Tally) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).entry(owner).or_default().add(tally);
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
    /// A request of the OpenAI protocol; it is read only when an estimate is needed.
    Request(Bytes),
}

impl Meter {
    /// A meter of one request.
    pub fn new(book: Arc<UsageBook>, owner: Owner, asked: Asked) -> Self {
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
