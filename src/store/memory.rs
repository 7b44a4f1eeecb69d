//! Conversations in this process's memory, bounded: the least recently used are forgotten first.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Mutex as TurnMutex;

use super::{Conversation, Turn};
use crate::chat::{ConversationId, Owner};

const MAX_CONVERSATIONS: usize = 10_000;
const MAX_BYTES: usize = 64 << 20;

type Key = (Owner, ConversationId);

/// The bounded memory.
#[derive(Default)]
pub struct Memory(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    entries: HashMap<Key, Entry>,
    /// The keys in the order of their last use.
    order: BTreeMap<u64, Key>,
    uses: u64,
    bytes: usize,
}

struct Entry {
    conversation: Arc<TurnMutex<Conversation>>,
    used: u64,
    bytes: usize,
}

impl Memory {
    /// The owner's conversation with this id.
    pub fn find(&self, owner: &Owner, id: ConversationId) -> Option<Arc<TurnMutex<Conversation>>> {
        let entries = self.lock();
        entries.entries.get(&(owner.clone(), id)).map(|entry| Arc::clone(&entry.conversation))
    }

    /// Keeps a finished turn's conversation, and forgets the oldest ones beyond the bounds.
    pub fn keep(&self, turn: Turn) {
        let key = (turn.owner.clone(), turn.id);
        let bytes = turn.guard.bytes();
        let conversation = Arc::clone(tokio::sync::OwnedMutexGuard::mutex(&turn.guard));
        let mut inner = self.lock();
        inner.remove(&key);
        inner.uses += 1;
        let used = inner.uses;
        inner.order.insert(used, key.clone());
        inner.entries.insert(key, Entry { conversation, used, bytes });
        inner.bytes += bytes;
        while inner.entries.len() > MAX_CONVERSATIONS || (inner.bytes > MAX_BYTES && inner.entries.len() > 1)
        {
            let Some((_, oldest)) = inner.order.pop_first() else { break };
            inner.remove(&oldest);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.order.remove(&entry.used);
            self.bytes -= entry.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::{Message, Role};
    use crate::store::Store;

    fn of(length: usize) -> Conversation {
        let text = "x".repeat(length);
        Conversation { messages: vec![Message { role: Role::User, text }], ..Default::default() }
    }

    #[tokio::test]
    async fn a_conversation_is_found_by_its_owner_alone() {
        let store = Store::in_memory();
        let (ann, bob) = (Owner("ann".into()), Owner("bob".into()));
        let turn = store.open(&ann, None).await.expect("a turn");
        let id = turn.id;
        assert!(store.open(&ann, Some(id)).await.is_err(), "nothing is kept before the commit");
        store.commit(turn, of(1));
        assert_eq!(store.open(&ann, Some(id)).await.expect("found").conversation(), &of(1));
        assert!(store.open(&bob, Some(id)).await.is_err());
    }

    #[tokio::test]
    async fn the_least_recently_used_is_forgotten_first() {
        let store = Store::in_memory();
        let owner = Owner("ann".into());
        let mut ids = Vec::new();
        for _ in 0..3 {
            let turn = store.open(&owner, None).await.expect("a turn");
            ids.push(turn.id);
            store.commit(turn, of(MAX_BYTES / 4));
        }
        let turn = store.open(&owner, Some(ids[0])).await.expect("kept");
        store.commit(turn, of(MAX_BYTES / 4));
        let turn = store.open(&owner, None).await.expect("a turn");
        store.commit(turn, of(MAX_BYTES / 4));
        assert!(store.open(&owner, Some(ids[1])).await.is_err());
        assert!(store.open(&owner, Some(ids[0])).await.is_ok());
    }
}
