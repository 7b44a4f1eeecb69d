//! The one question of our own that emulated tools may cost: where a block that looks like a call cannot be
//! read, the model is asked to write it once more, in the upstream's own conversation.
//!
//! No question is sent again for it: the first one was answered, and this one tells the model what is wrong
//! with that answer. Its calls take the place of all that was held back, which is everything from the first
//! block on. Where it fails, or brings no call that can be read, the first answer stands as it was said, and
//! no third question is asked.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::blocks::{self, Split};
use super::{Offer, example};
use crate::config;
use crate::domain::answer::{Answer, Delta, Names};
use crate::domain::chat::{Chat, Message, Prompt, Role, Thread, estimate_tokens};
use crate::domain::error::Error;
use crate::provider::Provider;
use crate::provider::rewriting::Queue;
use crate::request;
use crate::telemetry::mending::{self, Mending};

/// What was held back of a complete answer, with a block that cannot be read.
pub struct Broken {
    /// The blanks before the first block.
    pub blanks: String,
    /// All from there on.
    pub held: String,
    /// The same told apart.
    pub split: Split,
    /// What the upstream calls the answer.
    pub names: Names,
}

/// An upstream that may be asked once more.
pub struct Again {
    provider: Rc<dyn Provider>,
    upstream: Arc<str>,
    model: Option<String>,
    /// The upstream's conversation that the question went on with.
    conversation: Option<String>,
    /// Until when all must have been said.
    deadline: Instant,
}

impl Again {
    /// The upstream that this is asked first.
    pub fn new(provider: Rc<dyn Provider>, prompt: &Prompt, settings: &config::Upstream) -> Self {
        let total = prompt.total.unwrap_or(settings.timeouts.total);
        Again {
            provider,
            upstream: Arc::clone(&settings.name),
            model: prompt.model.clone(),
            conversation: prompt.thread.as_ref().map(|thread| thread.conversation.clone()),
            deadline: Instant::now() + total,
        }
    }

    /// The upstream's name.
    pub fn upstream(&self) -> &str {
        &self.upstream
    }

    /// The place after the answer of these names, where the upstream tells it.
    fn thread(&self, names: &Names) -> Option<Thread> {
        let conversation = names.conversation.clone().or_else(|| self.conversation.clone())?;
        let upstream = self.upstream.to_string();
        Some(Thread { upstream, conversation, last_response: names.response.clone()? })
    }

    async fn ask(self, question: &str, thread: Thread) -> Result<Answer, Error> {
        mending::tell(Mending::ToolCallAskedAgain, &self.upstream, 1);
        let chat = Chat { messages: vec![Message::new(Role::User, question)], ..Chat::default() };
        let total = self.deadline.saturating_duration_since(Instant::now());
        let prompt = Prompt { model: self.model, chat, thread: Some(thread), total: Some(total) };
        let mut deltas = self.provider.ask(&prompt).await?;
        let mut answer = Answer::default();
        while let Some(delta) = deltas.next().await {
            let delta = delta?;
            request::take(delta.bytes())?;
            answer.apply(&delta);
        }
        Ok(answer)
    }
}

/// What is told instead of what was held back, or that itself.
pub async fn repaired(broken: Broken, offer: &Offer, again: Again) -> Queue {
    let Broken { blanks, held, split, names } = broken;
    let upstream = again.upstream.clone();
    let mut tokens = 0;
    if let Some(thread) = again.thread(&names) {
        let question = question(offer);
        tokens = estimate_tokens(&question);
        match again.ask(&question, thread).await {
            Ok(answer) => {
                let calls = blocks::split(&answer.text, &offer.names).calls;
                if !calls.is_empty() {
                    let tokens = tokens + estimate_tokens(&held);
                    let mut queue = offer.ending(String::new(), Split { calls, ..Split::default() });
                    queue.push_front(Ok(Delta { other_tokens: tokens, ..answer.names.into() }));
                    return queue;
                }
                tokens += estimate_tokens(&answer.text);
            }
            Err(error) => {
                log::warn!(upstream, error = error.kind.code(); "the question for a readable call failed: {}", error.message);
            }
        }
    }
    mending::tell(Mending::ToolCallUnreadable, &upstream, split.unreadable);
    let mut queue = offer.ending(blanks, split);
    if tokens > 0 {
        queue.push_front(Ok(Delta { other_tokens: tokens, ..Delta::default() }));
    }
    queue
}

fn question(offer: &Offer) -> String {
    let (example, names) = (example(), offer.names.join(", "));
    format!(
        "Your last answer has a block that cannot be read as the call of a tool. Write all its calls again, each as a block \
         exactly like this, with valid JSON in it, and write nothing else:\n\n{example}\n\nThere are these tools: {names}"
    )
}
