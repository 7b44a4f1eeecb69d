//! What an upstream is asked: the new message alone where it keeps the conversation itself, else all
//! that was said, within bounds.

use super::{Member, Question, Service};
use crate::domain::chat::{Message, Prompt, Role, Thread};
use crate::store::Conversation;

impl Service {
    /// The prompt of a question, for one of the upstreams.
    pub(super) fn prompt(
        &self,
        question: &Question,
        conversation: &Conversation,
        model: Option<String>,
        member: &Member,
    ) -> Prompt {
        let of = |role, text: &str| Message { role, text: text.into() };
        let system = question.system.as_ref().or(conversation.system.as_ref());
        // A conversation that was kept before there were several upstreams names none.
        let is_there = |thread: &&Thread| {
            member.upstream.keeps_conversations()
                && (thread.upstream == member.settings.name || thread.upstream.is_empty())
        };
        let thread = conversation.thread.as_ref().filter(is_there);
        let mut messages = Vec::new();
        if thread.is_some() {
            // The upstream has seen the instructions already, unless they are new.
            let news = system.filter(|_| system != conversation.system.as_ref());
            messages.extend(news.map(|system| of(Role::System, system)));
        } else {
            messages.extend(system.map(|system| of(Role::System, system)));
            messages.extend(self.bounded(&conversation.messages).iter().cloned());
        }
        messages.push(of(Role::User, &question.message));
        Prompt {
            model,
            messages,
            thread: thread.cloned(),
            temperature: question.temperature,
            max_tokens: question.max_tokens,
        }
    }

    /// The latest whole pairs of question and answer within the bounds of a history.
    fn bounded<'a>(&self, messages: &'a [Message]) -> &'a [Message] {
        let mut bytes: usize = messages.iter().map(|message| message.text.len()).sum();
        let mut rest = messages;
        while let [question, answer, later @ ..] = rest
            && (rest.len() > self.settings.history_max_messages || bytes > self.settings.history_max_bytes)
        {
            bytes -= question.text.len() + answer.text.len();
            rest = later;
        }
        if rest.len() < messages.len() {
            log::info!(messages = messages.len() - rest.len(); "the oldest messages of a conversation are not sent again: HISTORY_MAX_MESSAGES or HISTORY_MAX_BYTES");
        }
        rest
    }
}
