//! What the gateway keeps between calls: conversations, each owned by the key that started it.
//!
//! A turn is opened before the upstream is asked and committed when its answer is complete. While
//! it is open, other turns of the same conversation wait, so that they are answered in order.

mod memory;

use tokio::sync::OwnedMutexGuard;

use crate::chat::{ConversationId, Message, Owner, Thread};
use crate::error::{Error, Kind};
use memory::Memory;

/// Where conversations are kept.
pub enum Store {
    /// In this process, until it ends.
    Memory(Memory),
}

/// A conversation as far as it has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conversation {
    /// The instructions for the model.
    pub system: Option<String>,
    /// Questions and answers in turn, the oldest first.
    pub messages: Vec<Message>,
    /// Where an upstream that keeps conversations itself goes on.
    pub thread: Option<Thread>,
}

impl Conversation {
    fn bytes(&self) -> usize {
        self.system.as_ref().map_or(0, String::len)
            + self.messages.iter().map(|message| message.text.len() + 32).sum::<usize>()
            + 256
    }
}

/// One turn of a conversation, from before the question to after the answer.
pub struct Turn {
    /// The conversation's id.
    pub id: ConversationId,
    owner: Owner,
    guard: OwnedMutexGuard<Conversation>,
}

impl Turn {
    /// The conversation before this turn.
    pub fn conversation(&self) -> &Conversation {
        &self.guard
    }
}

impl Store {
    /// A store that forgets everything when the process ends.
    pub fn in_memory() -> Self {
        Store::Memory(Memory::default())
    }

    /// Opens a turn: of the conversation with this id, or of a new one.
    ///
    /// # Errors
    /// [`Kind::ConversationNotFound`] when the owner has no conversation with this id, whether or
    /// not another has.
    pub async fn open(&self, owner: &Owner, id: Option<ConversationId>) -> Result<Turn, Error> {
        let (id, shared) = match (self, id) {
            (Store::Memory(memory), Some(id)) => {
                let found = memory.find(owner, id).ok_or_else(|| {
                    Error::new(
                        Kind::ConversationNotFound,
                        "there is no such conversation, or it was forgotten",
                    )
                })?;
                (id, found)
            }
            (Store::Memory(_), None) => (ConversationId::random()?, Default::default()),
        };
        Ok(Turn { id, owner: owner.clone(), guard: shared.lock_owned().await })
    }

    /// Keeps what a turn made of its conversation.
    pub fn commit(&self, mut turn: Turn, conversation: Conversation) {
        *turn.guard = conversation;
        match self {
            Store::Memory(memory) => memory.keep(turn),
        }
    }
}
