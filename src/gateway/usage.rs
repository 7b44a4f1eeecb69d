//! What keys use: counted here as it happens, and added to the store every few seconds.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::allowances::Allowances;
use crate::domain::answer::Delta;
use crate::domain::chat::{Chat, Owner, Tally, Usage, estimate_tokens};
use crate::domain::error::Error;
use crate::metrics::Metrics;
use crate::request;
use crate::store::Store;
use crate::traffic::OpenCall;

/// The largest request that is kept until its answer has ended, in bytes.
const MAX_KEPT_REQUEST: usize = 64 << 10;

/// How many models of a key are counted by their names, and the longest of these, in bytes.
const MOST_MODELS: usize = 50;
const MAX_MODEL_BYTES: usize = 200;

/// What all other models are counted as.
const OTHER_MODELS: &str = "other";

/// What was used since it was last added to the store.
pub struct UsageBook {
    open: Mutex<HashMap<Owner, Page>>,
    metrics: Arc<Metrics>,
    allowances: Arc<Allowances>,
}

/// What one owner used.
#[derive(Default)]
struct Page {
    /// What is not in the store yet, by model.
    tallies: HashMap<String, Tally>,
    /// The models that were named since the process began.
    named: HashSet<String>,
}

impl UsageBook {
    /// An empty book, which tells the metrics and the limits of keys of what is written into it.
    pub fn new(metrics: Arc<Metrics>, allowances: Arc<Allowances>) -> Self {
        UsageBook { open: Mutex::default(), metrics, allowances }
    }

    /// Counts one request of a key to a model.
    pub fn count(&self, owner: &Owner, model: &str, usage: Usage) {
        self.metrics.tokens(usage.prompt_tokens, usage.completion_tokens);
        self.allowances.spend(owner, usage.prompt_tokens + usage.completion_tokens);
        self.add(owner, model, Tally::of(usage));
    }

    /// Adds everything to the store. What cannot be added now stays for the next time.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn settle(&self, store: &Store) -> Result<(), Error> {
        let mut tallies = Vec::new();
        for (owner, page) in &mut *self.open() {
            tallies.extend(page.tallies.drain().map(|(model, tally)| (owner.clone(), model, tally)));
        }
        if tallies.is_empty() {
            return Ok(());
        }
        let added = store.add_usage(tallies.clone()).await;
        if added.is_err() {
            tallies.into_iter().for_each(|(owner, model, tally)| self.add(&owner, &model, tally));
        }
        added
    }

    fn add(&self, owner: &Owner, model: &str, tally: Tally) {
        let mut open = self.open();
        match open.get_mut(owner) {
            Some(page) => page.add(model, tally),
            None => open.entry(owner.clone()).or_default().add(model, tally),
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Owner, Page>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Page {
    fn add(&mut self, model: &str, tally: Tally) {
        match self.tallies.get_mut(model) {
            Some(known) => known.add(tally),
            None => {
                let name = self.name(model).to_string();
                self.tallies.entry(name).or_default().add(tally);
            }
        }
    }

    /// Under which name a model is counted: callers can make up any number of names.
    fn name<'m>(&mut self, model: &'m str) -> &'m str {
        if self.named.contains(model) {
            return model;
        }
        if self.named.len() >= MOST_MODELS || model.len() > MAX_MODEL_BYTES {
            return OTHER_MODELS;
        }
        self.named.insert(model.to_string());
        model
    }
}

/// Counts one request: when it is dropped, so that one whose caller has left is counted as well.
pub struct Meter {
    book: Arc<UsageBook>,
    owner: Owner,
    model: String,
    asked: Estimate,
    told: Option<Usage>,
    tokens: u64,
    /// The call that asks.
    call: Option<Arc<OpenCall>>,
}

/// What an estimate of a question's tokens is made from.
pub enum Estimate {
    /// The tokens themselves.
    Tokens(u64),
    /// A request, and how its tokens are estimated; a small one is read only when that is needed.
    Request(Bytes, fn(&[u8]) -> u64),
    /// The tokens of a large request, once they are counted on a thread of their own.
    Counted(Arc<AtomicU64>),
    /// Nothing is asked: what was paid for before is read or deleted, and its cost was counted then.
    Nothing,
}

impl Estimate {
    /// The tokens in what is asked; pictures and sounds count nothing.
    pub fn of(chat: &Chat) -> Self {
        let said = chat.messages.iter().map(|message| estimate_tokens(&message.text()));
        let tools = chat.tools.iter().map(|tool| {
            let schema = tool.parameters.as_ref().map_or("", |schema| schema.get());
            let description = tool.description.as_deref().unwrap_or_default();
            [tool.name.as_str(), description, schema].into_iter().map(estimate_tokens).sum::<u64>()
        });
        Estimate::Tokens(said.chain(tools).sum())
    }
}

impl Meter {
    /// A meter of one request.
    pub fn new(book: Arc<UsageBook>, owner: Owner, model: Option<&str>, asked: Estimate) -> Self {
        let asked = match asked {
            // Read now, so that its bytes are not held for as long as the answer takes.
            Estimate::Request(body, tokens) if body.len() > MAX_KEPT_REQUEST => {
                let count = Arc::new(AtomicU64::new(0));
                let counted = Arc::clone(&count);
                tokio::task::spawn_blocking(move || counted.store(tokens(&body), Ordering::Relaxed));
                Estimate::Counted(count)
            }
            asked => asked,
        };
        let call = request::call();
        if let Some(call) = &call {
            call.is_answered_by(model);
        }
        let model = model.unwrap_or_default().to_string();
        Meter { book, owner, model, asked, told: None, tokens: 0, call }
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
                Estimate::Counted(count) => count.load(Ordering::Relaxed),
                Estimate::Nothing => 0,
            };
            Usage::estimate(prompt_tokens, self.tokens)
        })
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if matches!(self.asked, Estimate::Nothing) {
            return;
        }
        let usage = self.usage();
        self.book.count(&self.owner, &self.model, usage);
        if let Some(call) = &self.call {
            call.costs(usage);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Location;
    use crate::metrics::Counter;

    fn book() -> UsageBook {
        let store = Arc::new(Store::new(Location::Memory).expect("a store"));
        UsageBook::new(Arc::new(Metrics::new(Counter::default())), Arc::new(Allowances::new(store)))
    }

    #[test]
    fn names_of_models_that_a_caller_makes_up_are_bounded() {
        let (book, ann) = (book(), Owner("ann".into()));
        for number in 0..2 * MOST_MODELS {
            book.count(&ann, &format!("m{number}"), Usage::estimate(1, 1));
        }
        book.count(&ann, &"x".repeat(MAX_MODEL_BYTES + 1), Usage::estimate(1, 1));
        let open = book.open();
        assert_eq!(open[&ann].tallies.len(), MOST_MODELS + 1);
        assert_eq!(open[&ann].tallies[OTHER_MODELS].requests, MOST_MODELS as u64 + 1);
    }

    #[tokio::test]
    async fn a_large_request_is_read_at_once_and_let_go() {
        let book = Arc::new(book());
        let meter = |length: usize| {
            let request = Estimate::Request(vec![b'x'; length].into(), |body| body.len() as u64);
            Meter::new(Arc::clone(&book), Owner("x".into()), None, request)
        };
        assert!(matches!(meter(100).asked, Estimate::Request(..)));
        let large = meter(MAX_KEPT_REQUEST + 1);
        assert!(matches!(large.asked, Estimate::Counted(_)));
        while large.usage().prompt_tokens == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        assert_eq!(large.usage().prompt_tokens, MAX_KEPT_REQUEST as u64 + 1);
    }
}
