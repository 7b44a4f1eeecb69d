//! `setup`: keeps the upstream in the store, where running services notice it; asked for at a terminal, else by
//! flags or on standard input.

use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Arg, ArgAction, ArgMatches, Command};
use tokio::task::LocalSet;

use super::output::say;
use super::{described, fail, key, start_log};
use crate::app::upstreams;
use crate::config::settings::{
    DEFAULT_MODEL, MODELS, UPSTREAM_API_KEY, UPSTREAM_COOKIE, UPSTREAM_PROTOCOL, UPSTREAM_URL,
};
use crate::config::{Config, Location, UpstreamGroup};
use crate::doctor::{Level, Outcome, Place, Step, Trial};
use crate::domain::error::{Error, Kind};
use crate::gateway::{Kept, KeptGroup, UpstreamKeeper, Upstreams};
use crate::paste;
use crate::store::Store;
use crate::vault::Vault;

/// A flag of the command, the setting that it gives, what stands for its value, and its help. The settings' own flags
/// are the environment's, which nothing kept can change.
const FLAGS: [(&str, &str, &str, &str); 6] = [
    ("url", UPSTREAM_URL.name, "URL", "Base URL of the mirror"),
    ("protocol", UPSTREAM_PROTOCOL.name, "NAME", "openai, anthropic or web-chat"),
    ("key", UPSTREAM_API_KEY.name, "KEY", "Its key; `-` reads it from standard input"),
    ("cookie", UPSTREAM_COOKIE.name, "LINE", "A Cookie header line; `-` reads it from standard input"),
    ("model", DEFAULT_MODEL.name, "NAME", "The model that is asked when the caller names none"),
    ("model-names", MODELS.name, "NAMES", "The models that callers can name, with commas between"),
];

pub fn command() -> Command {
    let flag = |name: &'static str, help: &'static str| Arg::new(name).long(name).help(help);
    let text = "A browser's \"Copy as cURL\", \"Copy as PowerShell\" or \"Copy as fetch\" of the chat's own request; `-` is standard input";
    Command::new("setup")
        .about("Try a mirror and keep it in the store, from where running services take it up")
        .arg(Arg::new("file").value_name("FILE").help(text))
        .args(FLAGS.map(|(name, _, value, help)| flag(name, help).value_name(value)))
        .arg(flag("untested", "Keep it without asking it anything").action(ArgAction::SetTrue))
        .arg(flag("remove", "Take away the mirror that is kept").action(ArgAction::SetTrue))
}

/// `setup`
pub fn setup(config: Config, matches: &ArgMatches) -> ExitCode {
    start_log(Some(&config.log), "error");
    if matches!(config.store.location, Location::Memory) {
        let hint = "set DATA_DIR or DATABASE_URL as the service has them";
        return fail(
            78,
            format!("error: this store forgets everything when the process ends\n  hint: {hint}"),
        );
    }
    let outcome = actix_web::rt::System::new().block_on(LocalSet::new().run_until(run(&config, matches)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, described(&error)),
    }
}

async fn run(config: &Config, matches: &ArgMatches) -> Result<(), Error> {
    let store = Arc::new(Store::new(config.store.location.clone())?);
    let vault = Vault::new(config.store.secret_key.as_ref());
    let kept = Kept::read(&store, &vault).await?;
    let generation = kept.generation;
    let before = match &kept.group {
        KeptGroup::Open(group) => group.clone(),
        KeptGroup::Absent | KeptGroup::Sealed => UpstreamGroup::default(),
    };
    let nobody = Upstreams::new(kept, Vec::new());
    let keeper = UpstreamKeeper::new(config, Arc::clone(&store), vault, nobody);
    keeper.expect_unlocked()?;
    if matches.get_flag("remove") {
        keeper.write(None, generation).await?;
        key::note(&store, "upstream.remove", "").await;
        let _ = say("no mirror is kept any more; the demo answers within seconds\n");
        return Ok(());
    }
    let mut group = asked_for(matches)?;
    group.completed_by(&before, |_| true);
    let endpoint = keeper.open(&group)?;
    let mut session = upstreams::session_sync(config, &store, &endpoint);
    // What has become of the same login since it was given.
    session.follow().await?;
    let mut trial = Trial::new(endpoint, Place::of(config, Arc::clone(&store)));
    if !matches.get_flag("untested") {
        passed(&mut trial).await?;
    }
    keeper.write(Some(&group), generation).await?;
    session.keep().await?;
    let name = &trial.endpoint().settings.name;
    key::note(&store, "upstream.set", name).await;
    let _ = say(format_args!("{name} is kept; running services answer from it within seconds\n"));
    Ok(())
}

/// The settings of flags, of a file, or of what a person types.
fn asked_for(matches: &ArgMatches) -> Result<UpstreamGroup, Error> {
    let given = |name: &str| matches.get_one::<String>(name).cloned();
    let mut group = UpstreamGroup::default();
    let mut is_given = false;
    for (flag, setting, ..) in FLAGS {
        let Some(text) = given(flag) else { continue };
        let text = if text == "-" { whole(&mut io::stdin())? } else { text };
        group.set(setting, &text);
        is_given = true;
    }
    match given("file").as_deref() {
        Some("-") => pasted(&whole(&mut io::stdin())?, &group),
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|error| mistake(format!("{path}: {error}")))?;
            pasted(&text, &group)
        }
        None if is_given => Ok(group),
        None if io::stdin().is_terminal() => typed(),
        None => pasted(&whole(&mut io::stdin())?, &group),
    }
}

/// The settings of a text, over which flags win.
fn pasted(text: &str, flags: &UpstreamGroup) -> Result<UpstreamGroup, Error> {
    let imported = paste::import(text);
    let (mut imported, _) =
        imported.map_err(|mistake| Error::new(Kind::InvalidRequest, mistake.what).hinted(mistake.advice))?;
    for note in &imported.notes {
        eprintln!("note: {}", note.text());
    }
    flags.settings().for_each(|(name, value)| imported.group.set(name, value));
    Ok(imported.group)
}

/// What a person says at a terminal.
fn typed() -> Result<UpstreamGroup, Error> {
    eprintln!(
        "What does your mirror speak?\n  1  OpenAI's protocol: an address and a key\n  2  Anthropic's protocol: an address and a key\n  3  a web chat, as your browser uses it"
    );
    let protocol = match line("1, 2 or 3: ")?.as_str() {
        "1" => "openai",
        "2" => "anthropic",
        "3" => {
            eprintln!(
                "In the browser press F12, choose Network, ask something, right-click the line `new` or `responses`, Copy, Copy as cURL."
            );
            eprintln!("Paste it here, then press Ctrl-D (Windows: Ctrl-Z and Enter):");
            return pasted(&whole(&mut io::stdin())?, &UpstreamGroup::default());
        }
        other => return Err(mistake(format!("`{other}` is none of the three"))),
    };
    let mut group = UpstreamGroup::default();
    group.set(UPSTREAM_PROTOCOL.name, protocol);
    group.set(UPSTREAM_URL.name, &line("Address: ")?);
    group.set(UPSTREAM_API_KEY.name, &line("Key (empty for none): ")?);
    Ok(group)
}

fn line(prompt: &str) -> Result<String, Error> {
    eprint!("{prompt}");
    let _ = io::stderr().flush();
    let mut text = String::new();
    io::stdin().lock().read_line(&mut text).map_err(|error| unreadable(&error))?;
    Ok(text.trim().to_string())
}

fn whole(input: &mut impl Read) -> Result<String, Error> {
    let mut text = String::new();
    input.read_to_string(&mut text).map_err(|error| unreadable(&error))?;
    Ok(text)
}

fn unreadable(error: &io::Error) -> Error {
    mistake(format!("standard input cannot be read: {error}"))
}

fn mistake(what: String) -> Error {
    Error::new(Kind::InvalidRequest, what).hinted("`mirrorgate setup --help` lists what can be given")
}

/// Takes the steps of a trial and says how each goes.
async fn passed(trial: &mut Trial) -> Result<(), Error> {
    while let Some(step) = trial.upcoming() {
        eprint!("{:<33}", doing(step));
        let _ = io::stderr().flush();
        let Some(outcome) = trial.go_on().await else { break };
        let Outcome { level, seen, advice, took, error, .. } = outcome;
        if level == Level::Broken {
            eprintln!("failed");
            let untold = || Error::new(Kind::UpstreamUnreachable, seen).hinted(advice.unwrap_or_default());
            return Err(error.unwrap_or_else(untold));
        }
        eprintln!("{} ({seen}, {} ms)", level.name(), took.as_millis());
        if let Some(advice) = advice {
            eprintln!("  hint: {advice}");
        }
    }
    Ok(())
}

fn doing(step: Step) -> &'static str {
    match step {
        Step::Reach => "reach the address ...",
        Step::SignIn => "sign in ...",
        Step::Models => "list models ...",
        Step::Question => "ask one short question ...",
        Step::Conversation => "ask in the same conversation ...",
        Step::Keeping => "keep it through a restart ...",
    }
}
