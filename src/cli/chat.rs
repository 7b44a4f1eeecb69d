//! `chat`: one question to the configured upstream, without a running service.

use std::io::{IsTerminal, Read};
use std::process::ExitCode;
use std::sync::Arc;

use clap::ArgMatches;
use tokio::task::LocalSet;

use super::output::say;
use super::{described, fail, start_log};
use crate::app::upstreams;
use crate::config::Config;
use crate::domain::chat::Owner;
use crate::gateway::{Asked, Gateway, InferenceRequest, Kept, Shared, Turn, Upstreams};

/// Asks the question and writes the answer as it comes.
pub fn chat(config: Config, matches: &ArgMatches) -> ExitCode {
    let argument = |name: &str| matches.get_one::<String>(name).cloned();
    let mut message = argument("message").unwrap_or_default();
    if message == "-" {
        message.clear();
        if let Err(error) = std::io::stdin().read_to_string(&mut message) {
            return fail(1, format!("error: standard input cannot be read: {error}"));
        }
    }
    if message.trim().is_empty() {
        return fail(2, "error: the question is empty\n  hint: mirrorgate chat \"Hello\"");
    }
    start_log(Some(&config.log), "error");
    let conversation = match argument("conversation").map(|id| id.parse()).transpose() {
        Ok(conversation) => conversation,
        Err(error) => return fail(2, described(&error)),
    };
    let question = InferenceRequest {
        owner: Owner("terminal".into()),
        operation: "chat",
        model: argument("model"),
        asked: Asked::Turn(Turn { conversation, system: argument("system"), message, ..Turn::default() }),
        stream: true,
        total: None,
    };
    actix_web::rt::System::new().block_on(LocalSet::new().run_until(ask(config, question)))
}

/// Asks in this process, without a server of ours between, and writes the answer as it comes.
async fn ask(config: Config, question: InferenceRequest) -> ExitCode {
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
    let code = answer(&gateway, question).await;
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

/// Asks the question and writes the answer as it comes.
async fn answer(gateway: &Gateway, question: InferenceRequest) -> ExitCode {
    let mut in_flight = match gateway.infer(question).await {
        Ok(in_flight) => in_flight,
        Err(failed) => return fail(1, described(&failed.error)),
    };
    while let Some(delta) = in_flight.next().await {
        match delta {
            // Whoever reads has seen enough: the rest of the answer is given up.
            Ok(delta) => match say(&delta.text) {
                Ok(()) => {}
                Err(_) => return ExitCode::SUCCESS,
            },
            Err(failed) => {
                let _ = say('\n');
                return fail(1, described(&failed.error));
            }
        }
    }
    let _ = say('\n');
    let reply = in_flight.into_reply();
    if std::io::stderr().is_terminal() {
        let tokens = reply.answer.usage.map_or(0, |usage| usage.total_tokens);
        eprintln!(
            "[{}, {tokens} tokens]",
            reply.answer.names.model.unwrap_or_else(|| "the upstream's model".into())
        );
    }
    if let Some(id) = reply.conversation {
        eprintln!("to go on: --conversation {id}");
    }
    ExitCode::SUCCESS
}
