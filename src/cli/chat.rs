//! `chat`: the configured upstream in a terminal, without a running service: one question, or a talk.

mod talk;

use std::io::{IsTerminal, Read};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Arg, ArgMatches, Command};
use tokio::task::LocalSet;

use super::output::say;
use super::{described, fail, start_log};
use crate::app::upstreams;
use crate::config::Config;
use crate::domain::chat::{Owner, Usage};
use crate::domain::conversations::ConversationRef;
use crate::gateway::{Asked, Gateway, InFlight, InferenceRequest, Kept, Shared, Turn, Upstreams};

/// The command and its flags.
pub fn chat_command() -> Command {
    let text = |name: &'static str, help: &'static str| Arg::new(name).long(name).help(help);
    Command::new("chat")
        .about("Talk with the configured upstream, or ask it one question, without a running service")
        .arg(Arg::new("message").value_name("MESSAGE").help("The question; without it, a talk begins. Text that is piped in stands below it, or is the question where there is none or it is `-`"))
        .arg(text("model", "The model").value_name("NAME"))
        .arg(text("system", "Instructions for the model").value_name("TEXT"))
        .arg(text("conversation", "Go on with this conversation, by the id printed after its last answer, or by a name of your own, whose first use begins it").value_name("ID"))
}

/// What holds for each question.
struct Terms {
    model: Option<String>,
    system: Option<String>,
    conversation: Option<ConversationRef>,
}

impl Terms {
    /// A question under these terms.
    fn question(&self, message: String) -> InferenceRequest {
        let (conversation, system) = (self.conversation.clone(), self.system.clone());
        InferenceRequest {
            owner: owner(),
            operation: "chat",
            model: self.model.clone(),
            asked: Asked::Turn(Turn { conversation, system, message, ..Turn::default() }),
            stream: true,
            total: None,
        }
    }
}

/// Whose the conversations of the terminal are.
fn owner() -> Owner {
    Owner("terminal".into())
}

/// Asks the question and writes the answer as it comes; without a question, talks.
pub fn chat(config: Config, matches: &ArgMatches) -> ExitCode {
    let argument = |name: &str| matches.get_one::<String>(name).cloned();
    let message = match message(argument("message")) {
        Ok(message) => message,
        Err(text) => return fail(1, text),
    };
    if message.as_ref().is_some_and(|message| message.trim().is_empty()) {
        return fail(2, "error: the question is empty\n  hint: mirrorgate chat \"Hello\"");
    }
    start_log(Some(&config.log), "error");
    let conversation = match argument("conversation").map(|id| id.parse()).transpose() {
        Ok(conversation) => conversation,
        Err(error) => return fail(2, described(&error)),
    };
    let terms = Terms { model: argument("model"), system: argument("system"), conversation };
    actix_web::rt::System::new().block_on(LocalSet::new().run_until(ask(config, terms, message)))
}

/// The question, with what is piped in below it; `None` where a person sits there and gave none.
fn message(argument: Option<String>) -> Result<Option<String>, String> {
    let mut input = std::io::stdin();
    let is_named = argument.as_deref() == Some("-");
    let written = argument.filter(|text| text != "-");
    if input.is_terminal() && !is_named {
        return Ok(written);
    }
    let mut piped = Vec::new();
    input
        .read_to_end(&mut piped)
        .map_err(|error| format!("error: standard input cannot be read: {error}"))?;
    let piped = String::from_utf8(piped).map_err(
        |_| "error: what is piped in is no text in UTF-8\n  hint: convert it, for example with iconv",
    )?;
    let piped = piped.trim_start_matches('\u{feff}').trim_end();
    Ok(Some(match written {
        Some(written) if piped.is_empty() => written,
        Some(written) => format!("{written}\n\n{piped}"),
        None => piped.into(),
    }))
}

/// Asks in this process, without a server of ours between.
async fn ask(config: Config, terms: Terms, message: Option<String>) -> ExitCode {
    let store = match upstreams::open_store(&config.store).await {
        Ok((store, _)) => Arc::new(store),
        Err(error) => return fail(error.exit_code(), error),
    };
    let config = match upstreams::with_kept(config, &store).await {
        Ok(config) => config,
        Err(error) => return fail(error.exit_code(), error),
    };
    let opened = match upstreams::open_all(&config, &store).await {
        Ok(opened) => opened,
        Err(error) => return fail(error.exit_code(), error),
    };
    let endpoints = opened.iter().map(|(endpoint, _)| endpoint.clone()).collect();
    let before: Vec<_> = opened.iter().map(|(endpoint, _)| endpoint.session.snapshot()).collect();
    let gateway = Gateway::new(
        &Upstreams::new(Kept::nothing(), endpoints),
        Arc::new(Shared::new(Arc::clone(&store), &config.limits)),
    );
    let code = match message {
        Some(message) => once(&gateway, &terms, message).await,
        None => talk::talk(&gateway, terms).await,
    };
    for ((endpoint, mut sync), before) in opened.into_iter().zip(before) {
        if endpoint.session.snapshot() != before
            && let Err(error) = sync.keep().await
        {
            log::error!("the session that the upstream renewed is not kept: {}", error.message);
        }
    }
    store.close().await;
    code
}

/// Asks one question.
async fn once(gateway: &Gateway, terms: &Terms, message: String) -> ExitCode {
    match answer(gateway, terms.question(message)).await {
        Ok(Some(told)) => {
            if std::io::stderr().is_terminal() {
                eprintln!("{}", told.line());
            }
            if let Some(id) = told.conversation {
                eprintln!("to go on: --conversation {id}");
            }
            ExitCode::SUCCESS
        }
        Ok(None) => ExitCode::SUCCESS,
        Err(text) => fail(1, text),
    }
}

/// What is known once an answer is whole.
struct Told {
    model: Option<String>,
    usage: Option<Usage>,
    conversation: Option<ConversationRef>,
}

impl Told {
    /// Who answered, and what it cost.
    fn line(&self) -> String {
        let tokens = self.usage.map_or(0, |usage| usage.total_tokens);
        format!("[{}, {tokens} tokens]", self.model.as_deref().unwrap_or("the upstream's model"))
    }
}

/// Asks the question and writes the answer as it comes; `None` when whoever reads has seen enough.
///
/// # Errors
/// Why there is no whole answer, with what to do.
async fn answer(gateway: &Gateway, question: InferenceRequest) -> Result<Option<Told>, String> {
    let mut in_flight = gateway.infer(question).await.map_err(|failed| described(&failed.error))?;
    while let Some(delta) = in_flight.next().await {
        match delta {
            // The rest of the answer is given up.
            Ok(delta) if say(&delta.text).is_err() => return Ok(None),
            Ok(_) => {}
            Err(failed) => {
                let _ = say('\n');
                return Err(described(&failed.error));
            }
        }
    }
    let _ = say('\n');
    Ok(Some(told(in_flight)))
}

fn told(in_flight: InFlight) -> Told {
    let reply = in_flight.into_reply();
    Told { model: reply.answer.names.model, usage: reply.answer.usage, conversation: reply.conversation }
}
