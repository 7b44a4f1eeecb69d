//! `usage`: what each key has used, from the store itself.

use std::collections::HashMap;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::json;

use super::output::say;
use super::{described, fail};
use crate::config::{self, Config, Location};
use crate::domain::chat::Owner;
use crate::domain::error::Error;
use crate::domain::keys;
use crate::domain::limits::day_name;
use crate::store::{DayOfUse, Store};
use crate::telemetry;

pub fn usage_command() -> Command {
    let days = "How many days, today with them, in UTC";
    Command::new("usage")
        .about("Show the requests and tokens of each key, by day and model")
        .arg(
            Arg::new("days")
                .long("days")
                .value_name("NUMBER")
                .default_value("31")
                .value_parser(clap::value_parser!(u32).range(1..=400))
                .help(days),
        )
        .arg(
            Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print each row as a line of JSON"),
        )
}

/// Shows the rows, whether the service runs or not. A running one adds to them every few seconds.
pub fn usage(config: &Config, matches: &ArgMatches) -> ExitCode {
    telemetry::start(&config::Log { filter: "error".into(), ..config.log.clone() });
    if matches!(config.store.location, Location::Memory) {
        return fail(
            78,
            "error: this store forgets everything when the process ends\n  hint: set DATA_DIR or DATABASE_URL as the service has them",
        );
    }
    let days = matches.get_one::<u32>("days").copied().unwrap_or_default();
    match actix_web::rt::System::new().block_on(read(config, days)) {
        Ok((rows, names)) => {
            print(&rows, &names, matches.get_flag("json"));
            ExitCode::SUCCESS
        }
        Err(error) => fail(1, described(&error)),
    }
}

/// The rows, and the name of each owner's key.
async fn read(config: &Config, days: u32) -> Result<(Vec<DayOfUse>, HashMap<Owner, String>), Error> {
    let store = Store::new(config.store.location.clone())?;
    let stored = store.keys().await?;
    let configured = config.gateway.keys.iter().chain(&config.gateway.admin);
    let mut names: HashMap<_, _> =
        configured.map(|key| (key.owner.clone(), key.shown_name().to_string())).collect();
    names.extend(stored.into_iter().map(|key| {
        let name = if key.name == keys::OWNERS_KEY { keys::OWNER.into() } else { key.name };
        (key.owner, name)
    }));
    Ok((store.usage_by_day(days).await?, names))
}

fn print(rows: &[DayOfUse], names: &HashMap<Owner, String>, as_json: bool) {
    for row in rows {
        let (day, tally) = (day_name(row.day), row.tally);
        let key = names.get(&row.owner).map(String::as_str);
        let line = if as_json {
            let tokens = (tally.prompt_tokens, tally.completion_tokens);
            json!({"day": day, "key": key, "model": row.model, "requests": tally.requests,
                   "prompt_tokens": tokens.0, "completion_tokens": tokens.1, "estimated_requests": tally.estimated})
            .to_string()
        } else {
            let (key, model) =
                (key.unwrap_or("(revoked)"), if row.model.is_empty() { "-" } else { &row.model });
            let (asked, answered) = (tally.prompt_tokens, tally.completion_tokens);
            format!(
                "{day}  {key:<24} {model:<32} {:>8} requests {asked:>12}+{answered} tokens",
                tally.requests
            )
        };
        if say(format_args!("{line}\n")).is_err() {
            return;
        }
    }
    if rows.is_empty() && !as_json {
        let _ = say("nothing was used in this time\n");
    }
}
