//! `calls`: the last calls to a running service, and those that come.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;
use time::OffsetDateTime;
use tokio::task::LocalSet;
use tokio::time::sleep;

use super::output::say;
use super::{fail, server_url};
use crate::config::{self, Config};
use crate::doctor::http::{self, Request};
use crate::telemetry;

/// How long the service has to answer.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// How often it is asked for newer calls.
const PAUSE: Duration = Duration::from_secs(1);

/// More than a service knows.
const ALL: usize = 1000;

pub fn calls_command() -> Command {
    let text = |name: &'static str, help: &'static str| Arg::new(name).long(name).help(help);
    Command::new("calls")
        .about("Show the last calls to a running service, and with --follow those that come")
        .arg(text("follow", "Go on with those that come").short('f').action(ArgAction::SetTrue))
        .arg(
            text("url", "The service's base URL; where it is left out, this machine's at PORT")
                .value_name("URL")
                .value_parser(server_url),
        )
        .arg(text("key", "The admin key, where it is not that of ADMIN_KEY").value_name("KEY"))
        .arg(text("result", "Those that ended so: answered, failed, stopped, or a code").value_name("WORD"))
        .arg(
            text("last", "How many of those that are known")
                .value_name("NUMBER")
                .default_value("20")
                .value_parser(clap::value_parser!(usize)),
        )
        .arg(text("json", "Print each call as a line of JSON").action(ArgAction::SetTrue))
}

/// The calls as the service lists them.
#[derive(Deserialize)]
struct Calls {
    calls: Vec<Value>,
    ended: u64,
}

struct Asked {
    base: String,
    key: SecretString,
    result: String,
    json: bool,
}

pub fn calls(config: &Config, matches: &ArgMatches) -> ExitCode {
    telemetry::start(&config::Log { filter: "error".into(), ..config.log.clone() });
    let given = |name: &str| matches.get_one::<String>(name).cloned();
    let key = given("key").map(SecretString::from).or_else(|| config.gateway.admin_text.clone());
    // A service without keys takes any.
    let key = key.or_else(|| (!config.gateway.auth).then(SecretString::default));
    let Some(key) = key else {
        return fail(
            2,
            "error: the calls are shown to the service's owner alone\n  hint: give `--key` the admin key, or set ADMIN_KEY; `mirrorgate key rotate owner` makes another",
        );
    };
    let asked = Asked {
        base: given("url").unwrap_or_else(|| own_url(config)),
        key,
        result: given("result").unwrap_or_default(),
        json: matches.get_flag("json"),
    };
    let last = matches.get_one::<usize>("last").copied().unwrap_or_default();
    let work = show(&asked, last, matches.get_flag("follow"));
    match actix_web::rt::System::new().block_on(LocalSet::new().run_until(work)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => fail(1, text),
    }
}

/// The service that these settings would start, from this machine.
fn own_url(config: &Config) -> String {
    let host = match config.listen.host {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        host => host,
    };
    format!("http://{}", SocketAddr::new(host, config.listen.port))
}

/// Shows the last calls, and goes on with others as they end.
async fn show(asked: &Asked, last: usize, follows: bool) -> Result<(), String> {
    let Calls { mut calls, mut ended } = asked.read(0, last).await?;
    loop {
        for call in calls.iter().rev() {
            // A running one is told when it ends.
            if follows && call["state"] == "running" {
                continue;
            }
            let line = if asked.json { call.to_string() } else { line(call) };
            if say(format_args!("{line}\n")).is_err() {
                return Ok(());
            }
        }
        if !follows {
            return Ok(());
        }
        sleep(PAUSE).await;
        let newer = asked.read(ended, ALL).await?;
        // A service that was restarted counts anew.
        let newer = if newer.ended < ended { asked.read(0, ALL).await? } else { newer };
        (calls, ended) = (newer.calls, newer.ended);
    }
}

impl Asked {
    async fn read(&self, since: u64, most: usize) -> Result<Calls, String> {
        let query = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("since", &since.to_string())
            .append_pair("limit", &most.to_string())
            .append_pair("result", &self.result)
            .finish();
        let url = format!("{}/api/calls?{query}", self.base);
        let headers = [("authorization", format!("Bearer {}", self.key.expose_secret()))];
        let request = Request { url: &url, headers: &headers, body: None, limit: ANSWER_TIME };
        let answer = http::send(request).await.map_err(|why| {
            format!(
                "error: {} does not answer: {why}\n  hint: start the service, or give `--url` its address",
                self.base
            )
        })?;
        if answer.status == 200
            && let Ok(calls) = serde_json::from_str(&answer.text)
        {
            return Ok(calls);
        }
        let said: Value = serde_json::from_str(&answer.text).unwrap_or_default();
        let word = |name: &str| said["error"][name].as_str().unwrap_or_default().to_string();
        match said["error"].is_object() {
            true => Err(format!("error: {} ({})\n  hint: {}", word("message"), word("code"), word("hint"))),
            false => Err(format!(
                "error: {} answers {} and no list of calls\n  hint: is it a mirrorgate of this version?",
                self.base, answer.status
            )),
        }
    }
}

/// A call in one line.
fn line(call: &Value) -> String {
    let text = |name: &str| call[name].as_str().unwrap_or("-").to_string();
    let seconds = |name: &str| {
        call[name]
            .as_u64()
            .map_or("-".into(), |time| format!("{:.2} s", Duration::from_millis(time).as_secs_f64()))
    };
    let tokens = match (call["prompt_tokens"].as_u64(), call["completion_tokens"].as_u64()) {
        (Some(prompt), Some(completion)) => format!("{prompt}+{completion}"),
        _ => "-".into(),
    };
    let ended = match call["code"].as_str() {
        Some(code) => code.to_string(),
        None => text("state"),
    };
    let operation = call["operation"].as_str().or(call["path"].as_str()).unwrap_or("-");
    format!(
        "{} {:<16} {operation:<18} {:<24} {ended:<24} {:>9} {:>9} {tokens:>12} tokens  {}",
        clock(call["at"].as_i64().unwrap_or_default()),
        text("key"),
        text("model"),
        seconds("first_token_ms"),
        seconds("total_ms"),
        text("request_id"),
    )
}

/// A time in UTC.
fn clock(milliseconds: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp(milliseconds / 1000).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (hour, minute, second) = time.to_hms();
    format!("{} {hour:02}:{minute:02}:{second:02}Z", time.date())
}
