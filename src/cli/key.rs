//! `key`: gateway keys in the store.

use std::process::ExitCode;
use std::time::Duration;

use clap::ArgMatches;

use super::output::{self, say};
use super::{described, fail};
use crate::config::{self, Config, Location};
use crate::domain::error::{Error, Kind};
use crate::domain::keys::{self, GatewayKey};
use crate::store::Store;
use crate::telemetry;

/// `key new NAME`, `key list` and `key revoke NAME`: on the store itself, whether the service runs
/// or not. A running service follows within seconds.
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
        match matches.subcommand() {
            Some(("new", inner)) => new_key(&store, inner, &config).await,
            Some(("revoke", inner)) => {
                let name = inner.get_one::<String>("name").cloned().unwrap_or_default();
                store.remove_key(&name).await?;
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

async fn new_key(store: &Store, matches: &ArgMatches, config: &Config) -> Result<(), Error> {
    let name = matches.get_one::<String>("name").cloned().unwrap_or_default();
    if !keys::is_name(&name) {
        return Err(Error::new(
            Kind::InvalidRequest,
            "a key's name has up to 40 letters, digits, `-`, `_` and `.`",
        )
        .hinted("mirrorgate key new my-dify"));
    }
    let text = keys::generate()?;
    let configured = config.gateway.keys.iter().any(|key| key.name == name);
    let key = GatewayKey::new(&name, &text);
    if configured || !store.add_key(&name, &key.digest(), &key.owner).await? {
        return Err(Error::new(Kind::InvalidRequest, format!("there is a key `{name}` already"))
            .hinted("choose another name, or revoke that key first"));
    }
    if output::show(format_args!("{text}\n")).is_err() {
        store.remove_key(&name).await?;
        return Err(Error::new(Kind::Internal, "the key could not be shown, so it is not kept")
            .hinted("run the command where its output is seen"));
    }
    eprintln!("this is the key `{name}`, shown only now; running services accept it within seconds");
    Ok(())
}

async fn list_keys(store: &Store, config: &Config) -> Result<(), Error> {
    for key in &config.gateway.keys {
        let _ = say(format_args!("{:<40} from GATEWAY_API_KEYS\n", key.name));
    }
    for key in store.keys().await? {
        let _ = say(format_args!("{:<40} made {}\n", key.name, date(key.created_at)));
    }
    Ok(())
}

/// The day of a time in milliseconds since 1970, by the civil calendar.
fn date(milliseconds: i64) -> String {
    let time = std::time::UNIX_EPOCH + Duration::from_millis(milliseconds.max(0) as u64);
    actix_web::http::header::HttpDate::from(time).to_string()
}
