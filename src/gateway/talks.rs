//! Conversations that a caller sends whole each time, before an upstream that keeps them itself.
//!
//! The messages up to the last answer are looked up by their digest: where they are known, the
//! upstream's own conversation goes on with what is new; else all of them are sent in one prompt.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::Service;
use super::admission::Seat;
use super::usage::{Asked, Meter};
use crate::domain::chat::{Answer, Event, Message, Owner, Prompt, Role, Thread, Usage};
use crate::domain::error::{Error, Kind};
use crate::provider::Events;

/// A conversation with its newest question, as a caller sends it.
#[derive(Debug, Clone)]
pub struct Talk {
    /// Who asks.
    pub owner: Owner,
    /// The model, if the caller names one.
    pub model: Option<String>,
    /// All messages, the oldest first.
    pub messages: Vec<Message>,
    /// Sampling temperature.
    pub temperature: Option<f64>,
    /// The most tokens to generate.
    pub max_tokens: Option<u32>,
}

/// A talk that is being answered.
pub struct Talking {
    events: Events,
    upstream: String,
    answer: Answer,
    messages: Vec<Message>,
    model: Option<String>,
    thread: Option<Thread>,
    owner: Owner,
    meter: Meter,
    seat: Seat,
}

impl Service {
    /// Asks; the answer is then read from [`Talking`] and kept by [`Service::finish_talk`].
    ///
    /// # Errors
    /// Why there will be no answer.
    pub async fn talk(&self, talk: Talk) -> Result<Talking, Error> {
        self.shared.room.until_over(self.talk_in_time(talk)).await?
    }

    async fn talk_in_time(&self, talk: Talk) -> Result<Talking, Error> {
        let seat = self.shared.room.enter(&talk.owner, "chat_completions")?;
        let Talk { owner, model, messages, temperature, max_tokens } = talk;
        let known =
            messages.iter().rposition(|message| message.role == Role::Assistant).map_or(0, |last| last + 1);
        let thread = self.continuation(&owner, &messages[..known]).await;
        let prompt = |model: &Option<String>, thread: Option<Thread>| Prompt {
            model: model.clone(),
            messages: if thread.is_some() { messages[known..].to_vec() } else { messages.clone() },
            thread,
            temperature,
            max_tokens,
        };
        let preferred = thread.as_ref().map(|thread| thread.upstream.clone());
        let candidates = self.candidates(model.as_deref(), preferred.as_deref()).await;
        let asked = self.ask_in_turn(candidates, async |member| {
            let model = self.model_of(member, model.as_deref()).await?;
            let of_member = |thread: &Thread| thread.upstream == member.settings.name;
            let prompted = prompt(&model, thread.clone().filter(of_member));
            match member.upstream.ask(&prompted, None).await {
                // The caller sent everything, so a conversation that the upstream lost begins anew.
                Err(error) if error.kind == Kind::UpstreamConversationLost && prompted.thread.is_some() => {
                    let prompted = prompt(&model, None);
                    let events = member.upstream.ask(&prompted, None).await?;
                    Ok((prompted, events))
                }
                events => events.map(|events| (prompted, events)),
            }
        });
        let (member, (prompted, events)) = asked.await?;
        let upstream = member.settings.name.clone();
        let asked = Asked::Tokens(Usage::estimate(&prompted.messages, "").prompt_tokens);
        let meter = Meter::new(Arc::clone(&self.shared.usage), owner.clone(), asked);
        let answer = Answer {
            upstream_status: Some(events.status),
            upstream: self.upstream_label(member),
            ..Answer::default()
        };
        let Prompt { model, thread, .. } = prompted;
        Ok(Talking { events, upstream, answer, messages, model, thread, owner, meter, seat })
    }

    /// Keeps where the talk goes on, and gives the whole answer with its cost. `said` is the answer
    /// as its caller has it, and will send it again.
    pub async fn finish_talk(&self, talking: Talking, said: &str) -> Answer {
        let Talking { upstream, mut answer, mut messages, model, thread, owner, meter, .. } = talking;
        answer.usage = Some(meter.usage());
        answer.model = answer.model.or(model);
        let conversation = answer.upstream_conversation.clone().or(thread.map(|thread| thread.conversation));
        if let Some((conversation, last_response)) = conversation.zip(answer.response_id.clone()) {
            messages.push(Message { role: Role::Assistant, text: said.into() });
            let thread = Thread { upstream, conversation, last_response };
            let kept = self.shared.store.keep_continuation(&owner, &digest(&messages), thread).await;
            if let Err(error) = kept {
                log::warn!(error = error.kind.code(); "the next message of this talk will be sent with all before it: {}", error.message);
            }
        }
        answer
    }

    /// Where the upstream's conversation goes on after these messages. Without the store it is not
    /// known, and the talk can be answered all the same.
    async fn continuation(&self, owner: &Owner, messages: &[Message]) -> Option<Thread> {
        if messages.is_empty() {
            return None;
        }
        self.shared.store.continuation(owner, &digest(messages)).await.unwrap_or_else(|error| {
            log::warn!(error = error.kind.code(); "all messages of a talk are sent again: {}", error.message);
            None
        })
    }
}

impl Talking {
    /// The next event, or `None` when the answer is complete.
    ///
    /// # Errors
    /// Why the answer breaks off.
    pub async fn next(&mut self) -> Option<Result<Event, Error>> {
        let event = self.seat.next(&mut self.events).await?;
        if let Ok(event) = &event {
            self.meter.event(event);
            self.answer.apply(event);
        }
        Some(event)
    }

    /// The model that was asked.
    pub fn model(&self) -> Option<&str> {
        self.answer.model.as_deref().or(self.model.as_deref())
    }

    /// The answer so far.
    pub fn answer(&self) -> &Answer {
        &self.answer
    }
}

/// A digest of messages, in hexadecimal. Blanks around a text do not count: callers trim them.
fn digest(messages: &[Message]) -> String {
    let mut digest = Sha256::new();
    for Message { role, text } in messages {
        let text = text.trim();
        digest.update(role.name());
        digest.update((text.len() as u64).to_be_bytes());
        digest.update(text);
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_tell_messages_apart_but_not_the_blanks_around_them() {
        let of = |texts: &[&str]| {
            let message = |text: &&str| Message { role: Role::User, text: (*text).into() };
            digest(&texts.iter().map(message).collect::<Vec<_>>())
        };
        assert_eq!(of(&["a", "b"]), of(&[" a\n", "b"]));
        assert_ne!(of(&["a", "b"]), of(&["ab"]));
        assert_ne!(of(&["a", "b"]), of(&["a"]));
    }
}
