//! `doctor`: checks everything between a mirror and Dify, and says what to do.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;

use clap::ArgMatches;
use secrecy::SecretString;
use serde_json::json;
use tokio::task::LocalSet;

use super::settings::Settings;
use super::{fail, precedes_restore, start_log};
use crate::app::background::SessionSync;
use crate::app::{Application, StartError, upstreams};
use crate::config::{self, Config};
use crate::doctor::{self, Finding, Level, Outside, Patient, Service, Source};
use crate::domain::keys::{self, GatewayKey};
use crate::provider::Endpoint;
use crate::store::Store;
use crate::telemetry;

/// What the person asks for.
struct Asked {
    url: Option<String>,
    key: Option<SecretString>,
    deep: bool,
}

/// Examines, and prints the findings. A configuration with mistakes is a finding as well.
pub fn doctor(matches: &ArgMatches) -> ExitCode {
    let given = |name: &str| matches.get_one::<String>(name).cloned().filter(|text| !text.trim().is_empty());
    let asked = Asked {
        url: given("url").map(|url| url.trim_end_matches("/openapi.json").trim_end_matches('/').to_string()),
        key: given("key").map(SecretString::from),
        deep: matches.get_flag("deep"),
    };
    let mut findings = Vec::new();
    // The settings here are not those of a service elsewhere, nor is the mirror that they name its own.
    let config = match asked.url {
        Some(_) => None,
        None => configuration(matches, &mut findings),
    };
    start_log(config.as_ref().map(|config| &config.log), "off");
    actix_web::rt::System::new().block_on(LocalSet::new().run_until(examine(config, &asked, &mut findings)));
    let text = if matches.get_flag("json") { as_json(&findings) } else { as_text(&findings, asked.deep) };
    if let Err(error) = std::io::stdout().write_all(text.as_bytes()).and_then(|()| std::io::stdout().flush())
    {
        return fail(1, format!("error: the findings cannot be written: {error}"));
    }
    // A name server that does not answer may hold a thread for longer than anyone waits.
    telemetry::flush();
    std::process::exit(i32::from(Level::worst(&findings) == Level::Broken));
}

/// Reads the settings; what is wrong becomes findings, and the rest is examined as if the wrong
/// ones were not set.
fn configuration(matches: &ArgMatches, findings: &mut Vec<Finding>) -> Option<Config> {
    const CHECK: &str = "configuration";
    let settings = match Settings::read(matches) {
        Ok(settings) => settings,
        Err(text) => {
            let text = text.trim_start_matches("error: ").to_string();
            findings.push(Finding::broken(CHECK, text, "correct that line; `.env.example` shows the form"));
            return None;
        }
    };
    findings
        .extend(settings.remarks().into_iter().map(|(what, advice)| Finding::warning(CHECK, what, advice)));
    let all_well = match settings.source() {
        Some(file) => format!("all settings are understood, with those of {file}"),
        None => "all settings are understood".into(),
    };
    let mut wrong: Vec<String> = Vec::new();
    // Leaving one setting out can make another a mistake, such as a key without an address.
    for round in 0..5 {
        let lookup = |name: &str| settings.get(name).filter(|_| !wrong.iter().any(|setting| setting == name));
        let names = settings.names().filter(|_| round == 0).collect::<Vec<_>>();
        let problems = match Config::load(&lookup, names.into_iter()) {
            Ok(config) => {
                if wrong.is_empty() {
                    findings.push(Finding::ok(CHECK, all_well));
                }
                return Some(config).filter(|_| !wrong.iter().any(|name| name == "UPSTREAM_URL"));
            }
            Err(problems) => problems.0,
        };
        for problem in problems {
            if round == 0 {
                let seen = format!("{}: {}", problem.setting, problem.what);
                findings.push(Finding::broken(CHECK, seen, problem.advice));
            }
            wrong.push(problem.setting);
        }
    }
    None
}

async fn examine(mut config: Option<Config>, asked: &Asked, findings: &mut Vec<Finding>) {
    let mut patient = Patient { mirrors: Vec::new(), store: None, service: None, outside: None };
    if let Some(url) = &asked.url {
        patient.outside = Some(Outside { address: url.clone(), base: url.clone(), source: Source::Given });
        patient.service = Some(Service {
            base: url.clone(),
            key: asked.key.clone(),
            open: false,
            questions: asked.deep,
            key_in_address: true,
            is_elsewhere: true,
        });
    }
    let mut keeping = Vec::new();
    let mut running = None;
    if let Some(config) = &mut config {
        match mirrors_and_store(config).await {
            Ok((mirrors, store, syncs)) => {
                let sessions = mirrors.iter().map(|mirror| Arc::clone(&mirror.session));
                keeping = sessions.map(|session| (session.snapshot(), session)).zip(syncs).collect();
                patient.mirrors = mirrors;
                // A store that the service is still to restore is not there to be looked at.
                patient.store = (!precedes_restore(config)).then(|| (store, config.state_concern()));
            }
            Err(text) => {
                let text = text.trim_start_matches("error: ");
                let (seen, advice) = text
                    .split_once("\n  hint: ")
                    .unwrap_or((text, "the service itself would not start either"));
                findings.push(Finding::broken("start", seen, advice));
            }
        }
        if let Some(backup) = &config.store.backup {
            findings.push(doctor::backup::check(backup).await);
        }
        running = start(config, asked, &mut patient, findings).await;
    }
    let progress = |what: &str| eprintln!("checking {what} ...");
    findings.extend(doctor::examine(&patient, asked.deep, &progress).await);
    if let Some(handle) = running {
        handle.stop(false).await;
    }
    // What a mirror renewed while it was asked would be lost otherwise.
    for ((before, session), mut sync) in keeping {
        if config.as_ref().is_some_and(|config| config.upstream.url.is_some()) && session.snapshot() != before
        {
            let _ = sync.keep().await;
        }
    }
    if let Some((store, _)) = patient.store {
        store.close().await;
    }
}

/// The mirrors with the sessions that are kept, and the store; `config` gets the upstream that is kept there.
async fn mirrors_and_store(
    config: &mut Config,
) -> Result<(Vec<Endpoint>, Arc<Store>, Vec<SessionSync>), String> {
    let location =
        if precedes_restore(config) { config::Location::Memory } else { config.store.location.clone() };
    let store = Arc::new(Store::new(location).map_err(|error| error.message)?);
    match upstreams::with_kept(config.clone(), &store).await {
        Ok(with_kept) => *config = with_kept,
        // A store that cannot be used is a finding of its own.
        Err(StartError::Store(_)) => {}
        Err(error) => return Err(error.to_string()),
    }
    let opened = upstreams::open_all(config, &store).await.map_err(|error| error.to_string())?;
    let (mirrors, syncs) = opened.into_iter().unzip();
    Ok((mirrors, store, syncs))
}

/// Starts the service on a free loopback port, with the configured settings and a key of its own.
async fn start(
    config: &Config,
    asked: &Asked,
    patient: &mut Patient,
    findings: &mut Vec<Finding>,
) -> Option<actix_web::dev::ServerHandle> {
    eprintln!("checking the start of the service ...");
    let mut config = config.clone();
    // A service that runs on the same store believes that it is the only one there, so this one has
    // a store of its own; the login is shared with the other checks.
    config.store.location = config::Location::Memory;
    config.store.backup = None;
    let mirrors = patient.mirrors.iter().filter(|mirror| mirror.settings.url.is_some());
    let sessions = mirrors.map(|mirror| Arc::clone(&mirror.session)).collect();
    // The demo's answers cost nothing.
    let questions = asked.deep || config.upstream.url.is_none();
    let configured = config.public.url.clone();
    let address = format!("http://{}", std::net::SocketAddr::new(config.listen.host, config.listen.port));
    config.listen = config::Listen { host: std::net::Ipv4Addr::LOCALHOST.into(), port: 0 };
    let key = match keys::generate() {
        Ok(key) => key,
        Err(error) => {
            findings.push(Finding::failed("start", &error));
            return None;
        }
    };
    config.gateway.keys.push(GatewayKey::new("doctor", &key));
    let open = !config.gateway.auth;
    let application = match Application::start_with(config, sessions).await {
        Ok(application) => application,
        Err(error) => {
            let text = error.to_string();
            let text = text.trim_start_matches("error: ").to_string();
            findings.push(Finding::broken("start", text, "the service itself would not start either"));
            return None;
        }
    };
    // What is kept was looked at before, and may keep it from starting with that.
    if !findings.iter().any(|finding| finding.check == "start") {
        findings.push(Finding::ok("start", "the service starts"));
    }
    let base = format!("http://{}", application.address);
    let handle = application.handle();
    tokio::task::spawn_local(application.run());
    let key = (!open).then(|| asked.key.clone().unwrap_or_else(|| SecretString::from(key)));
    patient.service =
        Some(Service { base: base.clone(), key, open, questions, key_in_address: true, is_elsewhere: false });
    patient.outside = Some(Outside::of(configured.as_deref(), address, base));
    Some(handle)
}

fn count(findings: &[Finding], level: Level) -> usize {
    findings.iter().filter(|finding| finding.level == level).count()
}

fn as_json(findings: &[Finding]) -> String {
    let items: Vec<_> = findings
        .iter()
        .map(|finding| {
            json!({
                "check": finding.check,
                "status": finding.level.name(),
                "seen": finding.seen,
                "advice": finding.advice,
            })
        })
        .collect();
    let report = json!({ "status": Level::worst(findings).name(), "findings": items });
    format!("{report:#}\n")
}

fn as_text(findings: &[Finding], deep: bool) -> String {
    let colors = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let mut text = String::new();
    for finding in findings {
        let word = format!("{:<8}", finding.level.name());
        let word = match (colors, finding.level) {
            (false, _) => word,
            (true, Level::Ok) => format!("\u{1b}[32m{word}\u{1b}[0m"),
            (true, Level::Warning) => format!("\u{1b}[33m{word}\u{1b}[0m"),
            (true, Level::Broken) => format!("\u{1b}[31m{word}\u{1b}[0m"),
        };
        text.push_str(&format!("{word} {:<18} {}\n", finding.check, finding.seen));
        if let Some(advice) = &finding.advice {
            text.push_str(&format!("{:<27} hint: {advice}\n", ""));
        }
    }
    let (warnings, broken) = (count(findings, Level::Warning), count(findings, Level::Broken));
    text.push_str(&format!("\n{} ok, {warnings} warnings, {broken} broken\n", count(findings, Level::Ok)));
    if !deep {
        text.push_str("no question was asked: --deep asks the mirror one, which costs tokens\n");
    }
    text
}
