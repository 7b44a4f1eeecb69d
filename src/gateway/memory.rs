//! What an answer is remembered for: a conversation that the gateway keeps, or the place where an
//! upstream's own conversation goes on.
//!
//! A caller of a tool sends the new question with the conversation's id; what was said before is in the
//! store. A caller of `/v1` sends the conversation whole each time: before an upstream that keeps
//! conversations itself, the messages up to the last answer are looked up by their digest. Where they
//! are known, the upstream's conversation goes on with what is new; else all of them are sent.

use sha2::{Digest, Sha256};

use super::Member;
use crate::config;
use crate::domain::answer::Answer;
use crate::domain::chat::{Chat, Message, Owner, Part, Role, Thread};
use crate::domain::conversations::ConversationRef;
use crate::domain::error::Error;
use crate::domain::keys::hex;
use crate::request;
use crate::store::{self, Exchange, History, Store};

/// The next question of a conversation that the gateway keeps.
#[derive(Debug, Clone, Default)]
pub struct Turn {
    /// The conversation to go on with; `None` starts one.
    pub conversation: Option<ConversationRef>,
    /// Instructions for the model.
    pub system: Option<String>,
    /// What is asked.
    pub message: String,
    /// Sampling temperature.
    pub temperature: Option<f64>,
    /// The most tokens to generate.
    pub max_tokens: Option<u32>,
}

impl Turn {
    /// Opens the turn in the store.
    pub(super) async fn open(
        self,
        store: &Store,
        owner: &Owner,
        settings: &config::Upstream,
    ) -> Result<OpenTurn, Error> {
        // A turn is two messages.
        let history = History { turns: settings.history_max_messages / 2, bytes: settings.history_max_bytes };
        let turn = store.open(owner, self.conversation.clone(), history).await?;
        Ok(OpenTurn { turn, asked: self })
    }
}

/// A turn that nobody else can go on with meanwhile.
pub(super) struct OpenTurn {
    turn: store::Turn,
    asked: Turn,
}

impl OpenTurn {
    /// The upstream that has the conversation.
    pub fn upstream(&self) -> Option<&str> {
        self.turn.conversation().thread.as_ref().map(|thread| thread.upstream.as_str())
    }

    /// What one of the upstreams is asked: the new message alone where it keeps the conversation, else
    /// all that was said, within bounds.
    ///
    /// # Errors
    /// When what was said cannot be read, or needs more than is left of the memory budget.
    pub async fn chat(&self, member: &Member, store: &Store) -> Result<(Chat, Option<Thread>), Error> {
        let conversation = self.turn.conversation();
        let system = self.asked.system.as_ref().or(conversation.system.as_ref());
        // A conversation that was kept before there were several upstreams names none.
        let is_there = |thread: &&Thread| {
            member.upstream.keeps_conversations()
                && (*thread.upstream == *member.settings.name || thread.upstream.is_empty())
        };
        let thread = conversation.thread.as_ref().filter(is_there);
        let mut messages = Vec::new();
        // An upstream that has the conversation has seen the instructions already, unless they are new.
        let system = system.filter(|_| thread.is_none() || system != conversation.system.as_ref());
        messages.extend(system.map(|system| Message::new(Role::System, system.as_str())));
        if thread.is_none() {
            messages.extend(self.history(store).await?);
        }
        messages.push(Message::new(Role::User, self.asked.message.as_str()));
        let (temperature, max_tokens) = (self.asked.temperature, self.asked.max_tokens);
        Ok((Chat { messages, temperature, max_tokens, ..Chat::default() }, thread.cloned()))
    }

    async fn history(&self, store: &Store) -> Result<Vec<Message>, Error> {
        let history = store.history(&self.turn).await?;
        let left_out = self.turn.turns_before().saturating_sub(history.len() / 2);
        if left_out > 0 {
            log::info!(turns = left_out; "the oldest turns of a conversation are not sent again: HISTORY_MAX_MESSAGES or HISTORY_MAX_BYTES");
        }
        request::take(history.iter().map(|message| message.text().len()).sum())?;
        Ok(history)
    }

    /// What is kept of the answer, which goes on at this place of the upstream's own conversation.
    pub fn asked(self, thread: Option<Thread>, upstream_keeps: bool) -> Memory {
        Memory::Conversation(Box::new(Conversation { open: self, thread, upstream_keeps }))
    }
}

/// A conversation that comes whole each time, before upstreams of another protocol.
pub(super) struct Talk {
    chat: Chat,
    /// How many of the messages an upstream that has the conversation knows.
    known: usize,
    thread: Option<Thread>,
}

impl Talk {
    /// Looks up where it goes on. Without the store that is not known, and it can be answered all the
    /// same.
    pub async fn of(chat: Chat, store: &Store, owner: &Owner) -> Self {
        let last = chat.messages.iter().rposition(|message| message.role == Role::Assistant);
        let known = last.map_or(0, |last| last + 1);
        let thread = match &chat.messages[..known] {
            [] => None,
            before => store.continuation(owner, &digest(before)).await.unwrap_or_else(|error| {
                log::warn!(error = error.kind.code(); "all messages of a conversation are sent again: {}", error.message);
                None
            }),
        };
        Talk { chat, known, thread }
    }

    /// Puts the upstream that has the conversation first.
    pub fn prefer(&self, candidates: &mut [&Member]) {
        let upstream = self.thread.as_ref().map(|thread| thread.upstream.as_str());
        if let Some(place) = candidates.iter().position(|member| Some(&*member.settings.name) == upstream) {
            candidates[..=place].rotate_right(1);
        }
    }

    /// What one of the upstreams is asked.
    pub fn chat(&self, member: &Member) -> (Chat, Option<Thread>) {
        let thread = self.thread.as_ref().filter(|thread| *thread.upstream == *member.settings.name);
        let mut chat = self.whole();
        if thread.is_some() {
            chat.messages.drain(..self.known);
        }
        (chat, thread.cloned())
    }

    /// All that was said.
    pub fn whole(&self) -> Chat {
        self.chat.clone()
    }

    /// What is kept of the answer.
    pub fn asked(self, thread: Option<Thread>, owner: &Owner, upstream_keeps: bool) -> Memory {
        if !upstream_keeps {
            return Memory::None;
        }
        let messages = self.chat.messages;
        Memory::Continuation(Box::new(Continuation { messages, thread, owner: owner.clone() }))
    }
}

/// What an answer is remembered for.
#[derive(Default)]
pub(super) enum Memory {
    /// Nothing.
    #[default]
    None,
    /// A conversation that the gateway keeps.
    Conversation(Box<Conversation>),
    /// The place where an upstream's own conversation goes on.
    Continuation(Box<Continuation>),
}

pub(super) struct Conversation {
    open: OpenTurn,
    /// Where the upstream's own conversation went on.
    thread: Option<Thread>,
    upstream_keeps: bool,
}

pub(super) struct Continuation {
    messages: Vec<Message>,
    thread: Option<Thread>,
    owner: Owner,
}

impl Memory {
    /// The conversation that was gone on with.
    pub fn conversation(&self) -> Option<ConversationRef> {
        match self {
            Memory::Conversation(conversation) => conversation.open.asked.conversation.clone(),
            Memory::None | Memory::Continuation(_) => None,
        }
    }

    /// Keeps an answer of this upstream; `partial` says that it broke off. Gives the conversation that
    /// it is kept in.
    ///
    /// # Errors
    /// When a turn cannot be kept. A continuation is a convenience: without it, all is sent again.
    pub async fn keep(
        self,
        store: &Store,
        answer: &Answer,
        upstream: &str,
        partial: bool,
    ) -> Result<Option<ConversationRef>, Error> {
        match self {
            Memory::None => Ok(None),
            Memory::Conversation(conversation) => {
                let Conversation { open: OpenTurn { turn, asked }, thread, upstream_keeps } = *conversation;
                let next = goes_on(answer, upstream, thread.as_ref()).filter(|_| upstream_keeps);
                let exchange = Exchange {
                    system: asked.system.or_else(|| turn.conversation().system.clone()),
                    thread: next.or(thread),
                    question: asked.message,
                    answer: answer.text.clone(),
                    partial,
                };
                let kept_in = asked.conversation.unwrap_or(turn.id.into());
                store.commit(turn, exchange).await.map(|()| Some(kept_in))
            }
            Memory::Continuation(continuation) => {
                let Continuation { mut messages, thread, owner } = *continuation;
                // The upstream may have said more than the caller will send back.
                let is_all = !partial && !answer.cut;
                let next = goes_on(answer, upstream, thread.as_ref()).filter(|_| is_all);
                if let Some(next) = next {
                    let said = Message::new(Role::Assistant, answer.text.as_str());
                    messages.push(Message { tool_calls: answer.tool_calls.clone(), ..said });
                    if let Err(error) = store.keep_continuation(&owner, &digest(&messages), next).await {
                        log::warn!(error = error.kind.code(); "the next message of this conversation will be sent with all before it: {}", error.message);
                    }
                }
                Ok(None)
            }
        }
    }
}

/// Where the upstream's own conversation goes on after an answer.
fn goes_on(answer: &Answer, upstream: &str, before: Option<&Thread>) -> Option<Thread> {
    let conversation = answer.names.conversation.clone();
    let conversation = conversation.or_else(|| before.map(|thread| thread.conversation.clone()))?;
    let upstream = upstream.to_string();
    Some(Thread { upstream, conversation, last_response: answer.names.response.clone()? })
}

/// A digest of messages, in hexadecimal. Blanks around a text do not count: callers trim them.
fn digest(messages: &[Message]) -> String {
    let mut digest = Sha256::new();
    let mut add = |text: &str| {
        digest.update((text.len() as u64).to_be_bytes());
        digest.update(text);
    };
    for message in messages {
        add(message.role.name());
        add(message.text().trim());
        for part in &message.parts {
            match part {
                Part::Text(_) => {}
                Part::Image(url) => add(url),
                Part::Other(name) => add(name),
            }
        }
        for call in &message.tool_calls {
            add(&call.name);
            // Some callers write them anew before they send them back.
            let arguments = serde_json::from_str::<serde_json::Value>(&call.arguments);
            add(&arguments.map_or_else(|_| call.arguments.clone(), |arguments| arguments.to_string()));
        }
    }
    hex(&digest.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_tell_messages_apart_but_not_the_blanks_around_them() {
        let of = |texts: &[&str]| {
            digest(&texts.iter().map(|text| Message::new(Role::User, *text)).collect::<Vec<_>>())
        };
        assert_eq!(of(&["a", "b"]), of(&[" a\n", "b"]));
        assert_ne!(of(&["a", "b"]), of(&["ab"]));
        assert_ne!(of(&["a", "b"]), of(&["a"]));
    }
}
