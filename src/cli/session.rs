//! `session set`: new credentials for the upstream, without a restart.

use std::io::Read;
use std::process::ExitCode;
use std::sync::Arc;

use clap::ArgMatches;
use tokio::task::LocalSet;

use super::key::note;
use super::output::say;
use super::{described, fail};
use crate::app::{StartError, upstreams};
use crate::config::{self, Config, Location};
use crate::domain::error::{Error, Kind};
use crate::gateway::{Gateway, Kept, Shared, Upstreams};
use crate::provider::session::{Credentials, State};
use crate::store::Store;
use crate::telemetry;

/// `session set`: new credentials for the upstream, tried first, then written to the store, where
/// running services notice them.
pub fn session(config: Config, matches: &ArgMatches) -> ExitCode {
    telemetry::start(&config::Log { filter: "error".into(), ..config.log.clone() });
    let Some(("set", matches)) = matches.subcommand() else { return ExitCode::from(2) };
    if matches!(config.store.location, Location::Memory) {
        return fail(
            78,
            "error: this store forgets everything when the process ends\n  hint: set DATA_DIR or DATABASE_URL as the service has them",
        );
    }
    let credentials = match credentials(matches) {
        Ok(credentials) => credentials,
        Err(text) => return fail(2, text),
    };
    let named = matches.get_one::<String>("upstream").map(String::as_str);
    let outcome = actix_web::rt::System::new().block_on(LocalSet::new().run_until(set_session(
        config,
        named,
        &credentials,
    )));
    match outcome {
        Ok(state) => {
            let _ = say(format!("{}; running services use it within seconds\n", checked(state)));
            ExitCode::SUCCESS
        }
        Err(error) => fail(1, described(&error)),
    }
}

/// What was seen of the new login: many an upstream gives what costs nothing to anyone.
fn checked(state: State) -> &'static str {
    match state {
        State::Ok => "the upstream accepts it: without it the same request is refused",
        State::Expiring => "the upstream does not refuse it, and by its own date it ends within a day",
        State::Unknown | State::Expired | State::Refused => {
            "the upstream does not refuse it, but gives the same without a login: only a question shows whether it is accepted, such as `mirrorgate chat Hello`"
        }
    }
}

/// The credentials in the flags; a value of `-` is read from standard input, so that it stands in
/// no list of processes.
fn credentials(matches: &ArgMatches) -> Result<Credentials, String> {
    let value = |name: &str| -> Result<Option<String>, String> {
        match matches.get_one::<String>(name).map(String::as_str) {
            Some("-") => {
                let mut text = String::new();
                std::io::stdin()
                    .read_to_string(&mut text)
                    .map_err(|error| format!("error: standard input cannot be read: {error}"))?;
                Ok(Some(text))
            }
            value => Ok(value.map(String::from)),
        }
    };
    let mistake = |(what, advice): (&str, &str)| format!("error: the value {what}\n  hint: {advice}");
    let cookie =
        value("cookie")?.map(|line| config::parse_cookie_line(&line)).transpose().map_err(mistake)?;
    let api_key = value("key")?.map(|key| config::parse_api_key(&key)).transpose().map_err(mistake)?;
    Ok(Credentials { cookie, api_key })
}

async fn set_session(config: Config, named: Option<&str>, credentials: &Credentials) -> Result<State, Error> {
    let trouble = |error: StartError| Error::new(Kind::Internal, error.to_string());
    let store = Arc::new(Store::new(config.store.location.clone())?);
    let config = upstreams::with_kept(config, &store).await.map_err(trouble)?;
    let settings = chosen(&config, named)?;
    let (endpoint, _) = upstreams::open(settings).map_err(trouble)?;
    let mut sync = upstreams::session_sync(&config, &store, &endpoint);
    sync.follow().await?;
    let upstreams = Upstreams::new(Kept::nothing(), vec![endpoint]);
    let gateway = Gateway::new(&upstreams, Arc::new(Shared::new(Arc::clone(&store), &config.limits)));
    let state = gateway.swap(None, credentials).await?;
    sync.keep().await?;
    note(&store, "session.set", &settings.name).await;
    Ok(state)
}

/// The upstream that is meant: the only one, or that of this name.
fn chosen<'a>(config: &'a Config, named: Option<&str>) -> Result<&'a config::Upstream, Error> {
    if config.upstream.url.is_none() {
        return Err(Error::new(Kind::InvalidRequest, "there is no session without an upstream").hinted(
            "set one up with `mirrorgate setup`, or give this command UPSTREAM_URL as the service has it",
        ));
    }
    let mut found = config.upstreams().filter(|upstream| named.is_none_or(|name| name == &*upstream.name));
    match (found.next(), found.next()) {
        (Some(upstream), None) => Ok(upstream),
        _ => {
            let names: Vec<_> = config.upstreams().map(|upstream| &*upstream.name).collect();
            Err(Error::new(Kind::InvalidRequest, "it is not clear which upstream is meant")
                .hinted(format!("give --upstream one of: {}", names.join(", "))))
        }
    }
}
