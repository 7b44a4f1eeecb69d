//! The upstreams that the gateway talks to: one folder a protocol, behind one trait.
//!
//! A protocol turns a prompt into a request and an answer's bytes into pieces; all else is shared:
//! `transport` makes the exchange, `body` reads the answer under its limits and out of its `coding`, `decoding` leads it
//! through a protocol's decoder, `framing` cuts bytes into lines, `template` knows a piece by the one
//! before, `tolerant` reads what JSON cannot say, `failure` names what went wrong, `report` keeps what callers may read of it, `session` keeps the login,
//! `stop` ends an answer where its caller wants, `tool_emulation` lets a model call tools in words. Nothing outside of this room
//! asks which protocol an upstream speaks: its capabilities say what that means.

mod anthropic;
mod base;
mod body;
pub mod breaker;
mod coding;
mod content;
mod decoding;
mod endpoint;
pub mod failure;
pub mod framing;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod intake;
mod jar;
mod masking;
mod openai;
mod page;
#[cfg(test)]
mod random_streams;
mod reason;
pub mod relay;
pub mod report;
mod rewriting;
pub mod session;
mod stop;
mod template;
mod tolerant;
mod tool_emulation;
mod transport;
mod web_chat;
pub mod webhook;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use serde_json::Map;
use tokio::time::timeout;
use url::Url;

use crate::config;
use crate::domain::chat::{Chat, Model, Part, Prompt, ToolChoice};
use crate::domain::error::{self, Error, Kind, Report};
use crate::request;
pub use body::silent;
pub use decoding::Deltas;
pub use endpoint::Endpoint;
use session::{KeyHeader, Session, State};
use transport::Transport;

/// How long an upstream is waited for that is asked without a login.
const STRANGER_TIME: Duration = Duration::from_secs(2);

/// What comes of an exchange with an upstream.
type Exchange<'a, T> = LocalBoxFuture<'a, Result<T, Error>>;

/// How an upstream's model can call tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tools {
    /// Its protocol knows them.
    Native,
    /// It does not: they are offered in words, where `TOOL_EMULATION` is on.
    Emulated,
}

/// What an upstream can do, by its protocol.
#[derive(Debug, Clone, Copy)]
pub struct Capabilities {
    /// What such an upstream is called in sentences for people.
    pub noun: &'static str,
    /// Whether its login is a browser's: a cookie, which no request but a question surely needs.
    pub browser_login: bool,
    /// Whether it takes images.
    pub images: bool,
    /// How its model can call tools.
    pub tools: Tools,
    /// The hints for the sampling that it takes, by their names in OpenAI's protocol.
    pub hints: &'static [&'static str],
    /// Whether it ends an answer at texts of the caller's; else that is done here.
    pub stops: bool,
    /// Whether it gives answers in a form such as JSON by a schema, and tells how likely its words were.
    pub forms: bool,
    /// Whether it keeps conversations itself, so that a prompt needs the new messages only.
    pub keeps_conversations: bool,
    /// Whether each question must say how long its answer may be.
    pub needs_max_tokens: bool,
}

/// The header that names hints of the caller's which were not taken.
const IGNORED: &str = "x-ignored-parameters";

impl Capabilities {
    /// Why a parameter is refused.
    fn cannot(&self, parameter: &str, what: &str, hint: &str) -> Result<(), Error> {
        let fields = Map::from_iter([("param".to_string(), parameter.into())]);
        Err(Error::new(Kind::UnsupportedParameter, format!("{} {what}", self.noun))
            .reported(Report { fields, ..Report::default() })
            .hinted(hint))
    }

    /// The hints that were given and are not taken.
    fn ignored(&self, chat: &Chat) -> Vec<&'static str> {
        let given = [
            ("temperature", chat.temperature.is_some()),
            ("top_p", chat.top_p.is_some()),
            ("max_tokens", chat.max_tokens.is_some()),
        ];
        let given = given.into_iter().filter(|(_, is_given)| *is_given).map(|(name, _)| name);
        given.chain(chat.other_hints.iter().copied()).filter(|name| !self.hints.contains(name)).collect()
    }

    /// Refuses what changes the answer's form and cannot be done; what is a hint alone is left out.
    fn check(&self, chat: &Chat, emulates_tools: bool) -> Result<(), Error> {
        if chat.choices.is_some_and(|choices| choices > 1) {
            return self.cannot("n", "gives one answer at a time", "leave `n` out");
        }
        let has_tools = self.tools == Tools::Native || emulates_tools;
        if !has_tools && !chat.tools.is_empty() && chat.tool_choice != ToolChoice::None {
            let hint =
                "leave `tools` out, set `TOOL_EMULATION=true`, or use an upstream with the openai protocol";
            return self.cannot("tools", "calls no tools", hint);
        }
        let must_call = match &chat.tool_choice {
            ToolChoice::Auto | ToolChoice::None => false,
            ToolChoice::Required => chat.tools.is_empty(),
            ToolChoice::Named(name) => !chat.tools.iter().any(|tool| tool.name == *name),
        };
        if must_call && self.tools == Tools::Emulated {
            let hint = "send the tool in `tools`, or leave `tool_choice` out";
            return self.cannot("tool_choice", "cannot call a tool that is not offered", hint);
        }
        if chat.response_format.is_some() && !self.forms {
            let hint = "say in the messages which form the answer is to have, and leave `response_format` out, or use an upstream with the openai protocol";
            return self.cannot("response_format", "answers in plain text alone", hint);
        }
        if chat.logprobs && !self.forms {
            return self.cannot(
                "logprobs",
                "does not tell how likely its words were",
                "leave `logprobs` out",
            );
        }
        if chat.stop.len() > stop::MOST && !self.stops {
            let hint = format!("give at most {} texts in `stop`", stop::MOST);
            return self.cannot("stop", "has its answers ended at few texts", &hint);
        }
        let foreign = chat.messages.iter().flat_map(|message| &message.parts).find_map(|part| match part {
            Part::Text(_) => None,
            Part::Image(_) if self.images => None,
            Part::Image(_) => Some("image_url"),
            Part::Other(name) => Some(name.as_str()),
        });
        let Some(foreign) = foreign else { return Ok(()) };
        let taken = if self.images { "takes text and images alone" } else { "takes text alone" };
        let kind: String = foreign.chars().take(40).collect();
        let error = Error::new(Kind::InvalidRequest, format!("{} {taken}", self.noun));
        Err(error
            .detail(Some(format!("a message has a part of type {kind:?}")))
            .hinted("send text, or use an upstream with the openai protocol for images and sounds"))
    }
}

/// What tells a protocol from the others.
struct Protocol {
    capabilities: Capabilities,
    /// The path under which the protocol's paths lie, of the path in `UPSTREAM_URL`.
    base_path: fn(&str) -> String,
    key_header: KeyHeader,
    /// Headers of each request; those in `UPSTREAM_HEADERS` win over them.
    headers: &'static [(&'static str, &'static str)],
    provider: fn(Rc<Transport>) -> Box<dyn Provider>,
}

impl Protocol {
    /// The protocol of this name: the one place where protocols are told apart.
    fn named(name: config::Protocol) -> &'static Self {
        match name {
            config::Protocol::OpenAi => &openai::PROTOCOL,
            config::Protocol::WebChat => &web_chat::PROTOCOL,
            config::Protocol::Anthropic => &anthropic::PROTOCOL,
        }
    }
}

/// A protocol, spoken with one upstream.
trait Provider {
    /// Asks, and gives the answer's pieces as they come.
    fn ask<'a>(&'a self, prompt: &'a Prompt) -> Exchange<'a, Deltas>;

    /// The way for requests of the OpenAI protocol in their callers' own words, where it is spoken.
    fn passthrough(&self) -> Option<&dyn Passthrough> {
        None
    }

    /// The models that the upstream offers, where its protocol can say.
    fn models(&self) -> Option<Exchange<'_, Vec<Model>>> {
        None
    }

    /// Asks for something that costs no tokens and needs the credentials.
    fn probe(&self) -> Exchange<'_, ()>;
}

/// A completion in its caller's own words, JSON of the OpenAI protocol.
#[derive(Debug, Clone)]
pub struct Verbatim {
    /// The request.
    pub body: Bytes,
    /// The model that it is for, where one is known.
    pub model: Option<String>,
    /// Whether the answer is to come in chunks.
    pub stream: bool,
    /// How many choices are asked for.
    pub choices: usize,
    /// The headers of the caller's that the upstream is to see, by an allow-list.
    pub headers: Vec<(&'static str, String)>,
}

/// The way for requests of the OpenAI protocol in their callers' own words.
pub trait Passthrough {
    /// Asks for a completion. Each piece of the answer has its bytes for the caller: chunks, or all of
    /// it in one, as was asked for.
    ///
    /// # Errors
    /// What keeps the answer from beginning, and what keeps a whole one from being complete.
    fn complete(&self, request: Verbatim) -> LocalBoxFuture<'_, Result<Deltas, Error>>;

    /// Passes any other request through.
    ///
    /// # Errors
    /// As [`Passthrough::complete`].
    fn relay<'a>(&'a self, request: &'a relay::Request) -> LocalBoxFuture<'a, Result<relay::Relayed, Error>>;
}

/// One upstream, with connections of its own: it stays on the thread that made it.
pub struct Upstream {
    provider: Rc<dyn Provider>,
    transport: Rc<Transport>,
}

impl Upstream {
    /// The upstream at `url` as it is configured, sharing `session` with the other threads.
    pub fn new(url: Url, settings: &config::Upstream, session: Arc<Session>) -> Self {
        Upstream::at(base::of(url, Protocol::named(settings.protocol).base_path), settings, session)
    }

    fn at(base: Url, settings: &config::Upstream, session: Arc<Session>) -> Self {
        let protocol = Protocol::named(settings.protocol);
        let transport = Rc::new(Transport::new(base, Rc::new(settings.clone()), session, protocol));
        Upstream { provider: (protocol.provider)(Rc::clone(&transport)).into(), transport }
    }

    /// The same upstream with connections and a session of their own.
    pub fn with_session(&self, session: Arc<Session>) -> Self {
        Upstream::at(self.transport.base().clone(), self.transport.settings(), session)
    }

    /// What it can do.
    pub fn capabilities(&self) -> Capabilities {
        self.transport.protocol().capabilities
    }

    /// Asks, and gives the answer's pieces as they come.
    ///
    /// # Errors
    /// What keeps the answer from beginning; later failures come in the stream.
    pub async fn ask(&self, prompt: &Prompt) -> Result<Deltas, Error> {
        let (capabilities, settings) = (self.capabilities(), self.transport.settings());
        capabilities.check(&prompt.chat, settings.tool_emulation)?;
        let ignored = capabilities.ignored(&prompt.chat);
        if !ignored.is_empty() {
            request::tell(vec![(IGNORED.into(), ignored.join(", "))]);
        }
        let offer = match capabilities.tools {
            Tools::Native => None,
            Tools::Emulated => tool_emulation::Offer::of(&prompt.chat),
        };
        let deltas = match offer {
            None => self.provider.ask(prompt).await?,
            Some(offer) => {
                let in_words = Prompt { chat: tool_emulation::in_words(&prompt.chat), ..prompt.clone() };
                let again = tool_emulation::Again::new(Rc::clone(&self.provider), prompt, settings);
                tool_emulation::read(self.provider.ask(&in_words).await?, offer, again)
            }
        };
        Ok(if capabilities.stops { deltas } else { stop::at(deltas, &prompt.chat.stop) })
    }

    /// The way for requests of the OpenAI protocol in their callers' own words, where it is spoken.
    pub fn passthrough(&self) -> Option<&dyn Passthrough> {
        self.provider.passthrough()
    }

    /// The models that the upstream offers; `None` when its protocol cannot say.
    ///
    /// # Errors
    /// When the upstream fails.
    pub async fn models(&self) -> Result<Option<Vec<Model>>, Error> {
        match self.provider.models() {
            Some(models) => models.await.map(Some),
            None => Ok(None),
        }
    }

    /// Asks for something that costs no tokens, and learns from it of a login that was refused or not tried
    /// yet, where it can.
    ///
    /// # Errors
    /// What the upstream fails with.
    pub async fn probe(&self) -> Result<(), Error> {
        self.provider.probe().await?;
        let session = self.session();
        if session.has_login()
            && matches!(session.state(), State::Unknown | State::Expired)
            && self.probe_needs_login().await
        {
            session.learn(Ok(()), true);
        }
        Ok(())
    }

    /// Whether the upstream refuses to one without a login what a probe asks for: only then a good probe
    /// shows that the login is accepted. It is asked once.
    pub async fn probe_needs_login(&self) -> bool {
        if let Some(guards) = self.session().guards() {
            return guards;
        }
        let stranger = self.with_session(Arc::new(self.session().without_login()));
        let guards = match timeout(STRANGER_TIME, stranger.provider.probe()).await {
            Ok(Ok(())) => false,
            Ok(Err(error)) if error.kind.session() == error::Session::Expired => true,
            // It did not say, for another reason.
            Ok(Err(_)) | Err(_) => return false,
        };
        self.session().learn_guards(guards);
        guards
    }

    /// Whether the upstream keeps conversations itself, so that a prompt needs the new message only.
    pub fn keeps_conversations(&self) -> bool {
        self.capabilities().keeps_conversations
    }

    /// Scheme, host and port of the upstream.
    pub fn origin(&self) -> String {
        self.transport.origin()
    }

    /// The upstream's session.
    pub fn session(&self) -> &Arc<Session> {
        self.transport.session()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::chat::{Message, Role, Tool};

    #[test]
    fn what_a_web_chat_cannot_do_is_refused_and_what_is_a_hint_is_not() {
        let asked = |change: fn(&mut Chat)| {
            let mut chat = Chat { messages: vec![Message::new(Role::User, "x")], ..Chat::default() };
            change(&mut chat);
            web_chat::PROTOCOL.capabilities.check(&chat, false).map_err(|error| error.kind)
        };
        assert_eq!(asked(|chat| chat.temperature = Some(1.0)), Ok(()));
        assert_eq!(asked(|chat| chat.choices = Some(1)), Ok(()));
        assert_eq!(asked(|chat| chat.stop = vec!["x".into(); 4]), Ok(()));
        let unsupported: [fn(&mut Chat); 6] = [
            |chat| chat.tools.push(Tool { name: "f".into(), description: None, parameters: None }),
            |chat| chat.choices = Some(2),
            |chat| chat.tool_choice = ToolChoice::Required,
            |chat| chat.response_format = Some("json_object".into()),
            |chat| chat.logprobs = true,
            |chat| chat.stop = vec!["x".into(); 5],
        ];
        for change in unsupported {
            assert_eq!(asked(change), Err(Kind::UnsupportedParameter));
        }
        let refused: [fn(&mut Chat); 2] = [
            |chat| chat.messages[0].parts.push(Part::Image("data:".into())),
            |chat| chat.messages[0].parts.push(Part::Other("input_audio".into())),
        ];
        for change in refused {
            assert_eq!(asked(change), Err(Kind::InvalidRequest));
        }
    }
}
