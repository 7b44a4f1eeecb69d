//! The trial of an upstream before it is put into service: step by step, to the first that fails. Two short
//! questions are asked, which costs tokens, since nothing else shows that a login is really accepted.

use std::borrow::Cow;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::finding::{Finding, Level};
use super::net::{self, Checks};
use super::{Place, TIME};
use crate::domain::answer::Answer;
use crate::domain::chat::{Chat, Message, Prompt, Role, Thread};
use crate::domain::error::{Error, Kind};
use crate::outbound::tls;
use crate::provider::{Endpoint, Upstream};

/// How long an answer may take: a model that thinks needs more than one that is only looked at.
const QUESTION_TIME: Duration = Duration::from_secs(90);

const CHECKS: Checks = Checks { dns: "dns", tcp: "tcp", tls: "tls", setting: "UPSTREAM_URL" };

/// A step of a trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Its name, a connection, TLS.
    Reach,
    /// Something that needs the login and costs nothing.
    SignIn,
    /// Which models there are.
    Models,
    /// One question.
    Question,
    /// One more in the same conversation.
    Conversation,
    /// Whether it would be there after a restart.
    Keeping,
}

impl Step {
    /// All in their order.
    pub const ALL: [Step; 6] =
        [Step::Reach, Step::SignIn, Step::Models, Step::Question, Step::Conversation, Step::Keeping];

    /// The word for programs.
    pub fn name(self) -> &'static str {
        match self {
            Step::Reach => "reach",
            Step::SignIn => "sign_in",
            Step::Models => "models",
            Step::Question => "question",
            Step::Conversation => "conversation",
            Step::Keeping => "keep",
        }
    }
}

/// The word that is asked for, and then asked back.
const WORD: &str = "pong";

/// How a step went.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The step.
    pub step: Step,
    /// How bad it is; what is broken ends the trial.
    pub level: Level,
    /// What was seen, by which a page says it in its reader's language.
    pub code: Cow<'static, str>,
    /// The same in a sentence.
    pub seen: String,
    /// What to do; nothing where all is well.
    pub advice: Option<String>,
    /// What the sentence has in it, by name.
    pub values: Vec<(&'static str, String)>,
    /// How long it took.
    pub took: Duration,
    /// The error of a step that failed.
    pub error: Option<Error>,
}

/// What a step saw.
struct Seen {
    finding: Finding,
    values: Vec<(&'static str, String)>,
    error: Option<Error>,
}

impl Seen {
    fn of(finding: Finding) -> Self {
        Seen { finding, values: Vec::new(), error: None }
    }

    fn ok(code: &'static str, seen: impl Into<String>) -> Self {
        Seen::of(Finding::ok(code, seen))
    }

    fn failed(error: Error) -> Self {
        let finding = Finding::failed(error.kind.code(), &error);
        let message = vec![("message", error.caller_message())];
        Seen { finding, values: message, error: Some(error) }
    }

    fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.values.push((name, value.to_string()));
        self
    }
}

/// A trial that is under way.
pub struct Trial {
    endpoint: Endpoint,
    upstream: Upstream,
    place: Place,
    next: usize,
    models: Option<Vec<String>>,
    asked: Option<(Message, Answer)>,
}

impl Trial {
    /// The trial of an upstream that would be kept at this place.
    pub fn new(endpoint: Endpoint, place: Place) -> Self {
        let upstream = endpoint.connect();
        Trial { endpoint, upstream, place, next: 0, models: None, asked: None }
    }

    /// The upstream, with what its session has become.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The step to come; none at the end.
    pub fn upcoming(&self) -> Option<Step> {
        Step::ALL.get(self.next).copied()
    }

    /// Takes the next step.
    pub async fn go_on(&mut self) -> Option<Outcome> {
        let step = self.upcoming()?;
        let start = Instant::now();
        let Seen { finding, values, error } = match step {
            Step::Reach => self.reach().await,
            Step::SignIn => self.sign_in().await,
            Step::Models => self.list(),
            Step::Question => self.question().await,
            Step::Conversation => self.conversation().await,
            Step::Keeping => self.keeping().await,
        };
        self.next = if finding.level == Level::Broken { Step::ALL.len() } else { self.next + 1 };
        let Finding { check: code, level, seen, advice, .. } = finding;
        Some(Outcome { step, level, code, seen, advice, values, took: start.elapsed(), error })
    }

    async fn reach(&self) -> Seen {
        let base = &self.endpoint.base;
        let mut findings = Vec::new();
        let reached = net::reach(base, &CHECKS, tls::mozilla_roots(), &mut findings).await;
        let worst = findings.into_iter().max_by_key(|finding| finding.level);
        let host = base.host_str().unwrap_or_default();
        match worst.filter(|finding| finding.level != Level::Ok) {
            Some(finding) => {
                let seen = finding.seen.clone();
                Seen::of(finding).with("host", host).with("message", seen)
            }
            None if !reached => {
                Seen::failed(Error::new(Kind::UpstreamUnreachable, "the address has no host"))
            }
            None if base.scheme() == "https" => Seen::ok("https", format!("{host} answers over https")),
            None => Seen::ok("http", format!("{host} answers over http, unencrypted")),
        }
        .with("host", host)
    }

    async fn sign_in(&mut self) -> Seen {
        let ask = async {
            match self.upstream.models().await? {
                Some(models) => Ok(Some(models)),
                None => self.upstream.probe().await.map(|()| None),
            }
        };
        let settings = &self.endpoint.settings;
        match timeout(TIME, ask).await {
            Ok(Ok(listed)) => {
                self.models = listed.map(|models| models.into_iter().map(|model| model.id).collect());
            }
            // A mirror need not list its models, if it is told which to name.
            Ok(Err(error)) if error.kind == Kind::UpstreamNotFound && self.model().is_some() => {}
            Ok(Err(error)) => return Seen::failed(error),
            Err(_) => {
                let message = format!("no answer within {} seconds", TIME.as_secs());
                return Seen::failed(Error::new(Kind::UpstreamTimeout, message));
            }
        }
        if settings.api_key.is_none() && settings.cookie.is_none() {
            Seen::ok("no_login", "it answers without a login")
        } else if self.models.is_none() {
            Seen::ok(
                "not_refused",
                "it does not refuse the login; the question will show whether it is accepted",
            )
        } else {
            Seen::ok("accepted", "the login is accepted")
        }
    }

    fn list(&self) -> Seen {
        let settings = &self.endpoint.settings;
        let listed = self.models.as_deref().unwrap_or_default();
        let mut wanted = settings.default_model.iter().chain(&settings.models);
        let lacking = wanted.find(|model| self.models.is_some() && !listed.contains(model));
        match (lacking, listed, self.model()) {
            (Some(model), [first, ..], _) => Seen::of(Finding::warning(
                "model_not_listed",
                format!("`{model}` is not among the {} models that it lists", listed.len()),
                format!("choose one that it lists, such as `{first}`"),
            ))
            .with("model", model)
            .with("first", first),
            (None, [first, ..], _) => {
                Seen::ok("listed", format!("it lists {} model(s), the first is `{first}`", listed.len()))
                    .with("first", first)
            }
            (_, [], Some(model)) => Seen::ok("named", format!("`{model}` is named")).with("model", model),
            (_, [], None) => Seen::of(Finding::warning(
                "none_listed",
                "it lists no models, and none is named",
                "name the models that the chat's own page uses",
            )),
        }
        .with("count", listed.len())
    }

    /// The model that is asked.
    fn model(&self) -> Option<String> {
        let settings = &self.endpoint.settings;
        let named = settings.default_model.as_ref().or(settings.models.first());
        named.or(self.models.as_ref().and_then(|models| models.first())).cloned()
    }

    async fn question(&mut self) -> Seen {
        let message = Message::new(Role::User, format!("Reply with the word {WORD}."));
        let (answer, first) = match self.ask(vec![message.clone()], None).await {
            Ok(answered) => answered,
            Err(error) => return Seen::failed(error),
        };
        let words: String = answer.text.trim().chars().take(80).collect();
        self.asked = Some((message, answer));
        let first = first.as_millis();
        Seen::ok("answered", format!("first words after {first} ms"))
            .with("first_ms", first)
            .with("words", words)
    }

    async fn conversation(&mut self) -> Seen {
        let Some((question, answer)) = self.asked.take() else { return Seen::ok("continued", "it goes on") };
        let again = Message::new(Role::User, "Which word was that? Reply with it alone.");
        let keeps = self.upstream.keeps_conversations();
        let (messages, thread) = if keeps {
            let names = answer.names;
            let Some((conversation, last_response)) = names.conversation.zip(names.response) else {
                let message = "the mirror names no conversation to go on with";
                return Seen::failed(Error::new(Kind::UpstreamInvalid, message));
            };
            let upstream = self.endpoint.settings.name.to_string();
            (vec![again], Some(Thread { upstream, conversation, last_response }))
        } else {
            (vec![question, Message::new(Role::Assistant, answer.text), again], None)
        };
        match self.ask(messages, thread).await {
            Ok((answer, _)) => {
                let words: String = answer.text.trim().chars().take(80).collect();
                // Some mirrors take a question of a conversation for the first of another.
                let remembers = words.to_lowercase().contains(WORD);
                let seen = if remembers {
                    Seen::ok("continued", "it goes on in the same conversation")
                } else {
                    Seen::ok("went_on", "it answers; whether it remembers the question before is not seen")
                };
                seen.with("words", words)
            }
            Err(error) => Seen::failed(error),
        }
    }

    /// Asks, and gives the answer and the time to its first words.
    async fn ask(&self, messages: Vec<Message>, thread: Option<Thread>) -> Result<(Answer, Duration), Error> {
        let start = Instant::now();
        let chat = Chat { messages, ..Chat::default() };
        let prompt = Prompt { model: self.model(), chat, thread, total: Some(QUESTION_TIME) };
        let mut deltas = self.upstream.ask(&prompt).await?;
        let (mut answer, mut first) = (Answer::default(), None);
        while let Some(delta) = deltas.next().await {
            let delta = delta?;
            if !delta.text.is_empty() || !delta.reasoning.is_empty() {
                first.get_or_insert_with(|| start.elapsed());
            }
            answer.apply(&delta);
        }
        let first = first.ok_or_else(|| Error::new(Kind::UpstreamEmpty, "the answer holds no text"))?;
        Ok((answer, first))
    }

    async fn keeping(&self) -> Seen {
        let Place { store, concern, is_sealed } = &self.place;
        let advice =
            "give these settings to the platform as variables, or set DATABASE_URL or DATA_DIR to what lasts";
        if let Err(error) = store.prepare().await {
            return Seen::failed(error);
        }
        let place = store.place();
        match concern {
            Some(concern) => Seen::of(Finding::warning("wiped", concern, advice)).with("message", concern),
            None if !store.lasts() => {
                let seen = "it would be kept in memory and forgotten at a restart";
                Seen::of(Finding::warning("memory", seen, advice))
            }
            None if *is_sealed => {
                Seen::ok("kept_sealed", format!("it will be kept in {place}, sealed by SECRET_KEY"))
            }
            None => Seen::ok("kept", format!("it will be kept in {place}; SECRET_KEY would seal it there")),
        }
        .with("place", place)
    }
}
