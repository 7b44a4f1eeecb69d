//! `key`: gateway keys in the store.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::ArgMatches;

use super::output::{self, say};
use super::{described, fail};
use crate::config::settings::MODELS;
use crate::config::{self, Config, Location};
use crate::domain::error::{Error, Kind};
use crate::domain::keys;
use crate::domain::limits::{self as key_limits, KeyLimits};
use crate::gateway::check_name;
use crate::store::{Deed, Store};
use crate::telemetry;

/// `key new NAME`, `key set NAME`, `key list`, `key rotate NAME` and `key revoke NAME`: on the store itself,
/// whether the service runs or not. A running service follows within seconds.
pub fn key(config: Config, matches: &ArgMatches) -> ExitCode {
    telemetry::start(&config::Log { filter: "error".into(), ..config.log.clone() });
    if matches!(config.store.location, Location::Memory) {
        return fail(
            78,
            "error: this store forgets everything when the process ends\n  hint: set DATA_DIR or DATABASE_URL as the service has them",
        );
    }
    let outcome = actix_web::rt::System::new().block_on(async {
        let store = Store::new(config.store.location.clone())?;
        let (command, inner) = matches.subcommand().unwrap_or(("list", matches));
        let name = inner.try_get_one::<String>("name").ok().flatten().cloned().unwrap_or_default();
        match command {
            "new" => new_key(&store, &name, limited(KeyLimits::default(), inner)?, &config).await,
            "set" => set_limits(&store, &name, inner).await,
            "rotate" => rotate(&store, &name).await,
            "revoke" => {
                store.remove_key(&name).await?;
                note(&store, "key.revoke", &name).await;
                let _ = say(format_args!("revoked {name}; running services follow within seconds\n"));
                Ok(())
            }
            _ => list_keys(&store, &config).await,
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, described(&error)),
    }
}

async fn new_key(store: &Store, name: &str, limits: KeyLimits, config: &Config) -> Result<(), Error> {
    check_name(name)?;
    if config.gateway.keys.iter().any(|key| key.name == name) {
        return Err(keys::taken(name).hinted("it is one of GATEWAY_API_KEYS: choose another name"));
    }
    let text = store.make_key(name, limits).await?;
    note(store, "key.new", name).await;
    if output::show(format_args!("{text}\n")).is_err() {
        store.remove_key(name).await?;
        note(store, "key.revoke", name).await;
        return Err(Error::new(Kind::Internal, "the key could not be shown, so it is not kept")
            .hinted("run the command where its output is seen"));
    }
    eprintln!("this is the key `{name}`, shown only now; running services accept it within seconds");
    Ok(())
}

async fn set_limits(store: &Store, name: &str, matches: &ArgMatches) -> Result<(), Error> {
    let kept = store.keys().await?.into_iter().find(|key| key.name == name);
    let before = kept.map(|key| key.limits).unwrap_or_default();
    let limits = limited(before, matches)?;
    store.limit_key(name, &limits).await?;
    note(store, "key.set", name).await;
    let _ =
        say(format_args!("{name}: {}; running services follow within seconds\n", described_limits(&limits)));
    Ok(())
}

async fn rotate(store: &Store, name: &str) -> Result<(), Error> {
    let text = store.rotate_key(name).await?;
    note(store, "key.rotate", name).await;
    output::show(format_args!("{text}\n")).map_err(|error| {
        Error::new(Kind::Internal, format!("the new key could not be shown: {error}"))
            .hinted("run the command again where its output is seen; the key before is gone")
    })?;
    eprintln!("this is the key `{name}` from now on, shown only now; running services follow within seconds");
    Ok(())
}

async fn list_keys(store: &Store, config: &Config) -> Result<(), Error> {
    for key in &config.gateway.keys {
        let _ = say(format_args!("{:<40} from GATEWAY_API_KEYS\n", key.name));
    }
    let last_uses = store.last_uses().await?;
    for key in store.keys().await?.into_iter().filter(|key| key.name != keys::OWNERS_KEY) {
        let used = last_uses.get(&key.owner).map_or("never used".into(), |at| format!("used {}", date(*at)));
        let (made, limits) = (date(key.created_at), described_limits(&key.limits));
        let _ = say(format_args!("{:<40} made {made}, {used}; {limits}\n", key.name));
    }
    Ok(())
}

/// The limits that flags ask for, over those that a key has.
fn limited(mut limits: KeyLimits, matches: &ArgMatches) -> Result<KeyLimits, Error> {
    let given = |flag: &str| matches.get_one::<String>(flag).map(|text| text.trim());
    let some = |text: &'_ str| (!text.eq_ignore_ascii_case("none")).then(|| text.to_string());
    let number = |text: &str, flag: &str| {
        let invalid = || {
            Error::new(Kind::InvalidRequest, format!("`--{flag}`: `{text}` is no whole number"))
                .hinted("write a number, or `none` for no limit")
        };
        some(text).map(|text| text.parse::<u64>().map_err(|_| invalid())).transpose()
    };
    let small = |text: &str, flag: &str| {
        Ok::<_, Error>(number(text, flag)?.map(|number| u32::try_from(number).unwrap_or(u32::MAX)))
    };
    let list = |text: String| -> Vec<String> {
        text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(String::from).collect()
    };
    if let Some(text) = given("expires") {
        limits.expires_at =
            some(text).map(|text| key_limits::expiry(&text, SystemTime::now())).transpose()?;
    }
    if let Some(text) = given("storage") {
        limits.storage_bytes = some(text).map(|text| key_limits::storage(&text)).transpose()?;
    }
    if let Some(text) = given(MODELS.name) {
        limits.models = some(text).map(|text| key_limits::models(list(text))).transpose()?;
    }
    if let Some(text) = given("paths") {
        limits.paths = key_limits::paths(some(text).map(list).unwrap_or_default())?;
    }
    if let Some(text) = given("rpm") {
        limits.requests_per_minute = small(text, "rpm")?;
    }
    if let Some(text) = given("parallel") {
        limits.parallel = small(text, "parallel")?;
    }
    if let Some(text) = given("tokens-per-day") {
        limits.tokens_per_day = number(text, "tokens-per-day")?;
    }
    if let Some(text) = given("tokens-per-month") {
        limits.tokens_per_month = number(text, "tokens-per-month")?;
    }
    Ok(limits)
}

/// Limits in one line.
fn described_limits(limits: &KeyLimits) -> String {
    let number = |what: &str, number: Option<u64>| number.map(|number| format!("{number} {what}"));
    let list =
        |what: &str, list: &[String]| (!list.is_empty()).then(|| format!("{what} {}", list.join(", ")));
    let all: Vec<_> = [
        limits.expires_at.map(|end| format!("until {}", date(end))),
        limits.models.as_deref().and_then(|models| list("models", models)),
        number("questions a minute", limits.requests_per_minute.map(u64::from)),
        number("at once", limits.parallel.map(u64::from)),
        number("tokens a day", limits.tokens_per_day),
        number("tokens a month", limits.tokens_per_month),
        number("bytes kept", limits.storage_bytes),
        list("paths", &limits.paths),
    ]
    .into_iter()
    .flatten()
    .collect();
    if all.is_empty() { "no limits".into() } else { all.join("; ") }
}

/// Notes in the audit trail what was done here.
pub(super) async fn note(store: &Store, action: &'static str, target: &str) {
    let (actor, address) = ("terminal".into(), String::new());
    let deed = Deed { actor, address, action: action.into(), target: target.into() };
    if let Err(error) = store.note_deed(&deed).await {
        eprintln!("the audit trail cannot be written: {}", error.message);
    }
}

/// The day of a time in milliseconds since 1970, by the civil calendar.
fn date(milliseconds: i64) -> String {
    let time = std::time::UNIX_EPOCH + Duration::from_millis(milliseconds.max(0) as u64);
    actix_web::http::header::HttpDate::from(time).to_string()
}
