//! The command line: commands, flags, and what a person reads at the start.

pub mod tunnel;
mod backup;
mod calls;
mod chat;
mod completions;
mod doctor;
mod import_curl;
mod key;
mod output;
mod serve;
mod session;
mod settings;
mod setup;
mod usage;

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command};

use crate::allocator;
use crate::api;
use crate::config::settings::{self as declared, GROUPS, LONG_ANSWERS};
use crate::config::{self, AnyKind, Config, Kind, Language, Location, Setting};
use crate::domain::error::Error;
use crate::http::documents::{self, Document};
use crate::store::snapshot;
use crate::telemetry;
use crate::version;
use settings::Settings;

/// Runs one command and gives the process's exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    allocator::configure();
    // clap prints help, versions and mistakes itself, and exits with 0 or 2.
    let matches = command().get_matches_from(arguments);
    let code = run_command(&matches);
    telemetry::flush();
    code
}

fn run_command(matches: &ArgMatches) -> ExitCode {
    match matches.subcommand() {
        Some(("openapi", matches)) => openapi(matches),
        Some(("healthcheck", matches)) => with_config(matches, healthcheck),
        Some(("key", inner)) => with_store(inner, |config| key::key(config, inner)),
        Some(("calls", inner)) => with_config(inner, |config| calls::calls(&config, inner)),
        Some(("usage", inner)) => with_config(inner, |config| usage::usage(&config, inner)),
        Some(("session", inner)) => with_store(inner, |config| session::session(config, inner)),
        Some(("setup", inner)) => with_store(inner, |config| setup::setup(config, inner)),
        Some(("backup", inner)) => with_config(inner, |config| backup::backup(config, inner)),
        Some(("restore", inner)) => with_config(inner, |config| backup::restore(config, inner)),
        Some(("import-curl", inner)) => import_curl::import_curl(inner),
        Some((tunnel::HOLD, inner)) => tunnel::hold(inner.get_many("command").into_iter().flatten()),
        Some(("doctor", inner)) => doctor::doctor(inner),
        Some(("completions", inner)) => completions::completions(inner),
        Some(("chat", inner)) => with_store(inner, |config| chat::chat(config, inner)),
        Some((_, inner)) => match inner.get_one::<String>("tunnel") {
            Some(name) => configured(inner, true, |config| serve::serve_with_tunnel(config, name)),
            None => with_config(inner, serve::serve),
        },
        None => with_config(matches, serve::serve),
    }
}

fn command() -> Command {
    let text = |name: &'static str, help: &'static str| Arg::new(name).long(name).help(help);
    Command::new("mirrorgate")
        .version(version::VERSION)
        .long_version(version::full())
        .about("Publishes a chat model's mirror as an OpenAPI tool that Dify imports by URL")
        .after_help(usual_settings())
        .after_long_help("Each setting is an environment variable as well, also in a file `.env` here; a secret may stand in a file that the variable of its name with _FILE names. Without UPSTREAM_URL the mirror of `mirrorgate setup` answers, or a demo.")
        .args(GROUPS.iter().flat_map(|group| group.settings.iter().map(|setting| setting_flag(group.title, setting))))
        .subcommand(
            Command::new("serve").about("Start the service (the default command)").arg(
                text("tunnel", "Give the service a public https address by a tunnel program that is installed")
                    .value_name("NAME")
                    .value_parser(["any", "cloudflared", "ngrok", "tailscale"])
                    .num_args(0..=1)
                    .default_missing_value("any"),
            ),
        )
        .subcommand(
            Command::new("openapi")
                .about("Print an OpenAPI document")
                .arg(text("document", "tools (what importers import), dify (with what Dify alone imports) or full").value_name("NAME").value_parser(["tools", "dify", "full"]).default_value("tools"))
                .arg(text("format", "json or yaml").value_name("FORMAT").value_parser(["json", "yaml"]).default_value("json"))
                .arg(text("server", "The service's public base URL").value_name("URL").value_parser(server_url).default_value("http://127.0.0.1:8080")),
        )
        .subcommand(Command::new("healthcheck").about("Exit 0 if the service on this host's port is live"))
        .subcommand(key_command())
        .subcommand(
            Command::new(tunnel::HOLD).hide(true).about("Run a program for as long as standard input is open").arg(
                Arg::new("command")
                    .required(true)
                    .num_args(1..)
                    .trailing_var_arg(true)
                    .allow_hyphen_values(true)
                    .value_parser(clap::value_parser!(OsString)),
            ),
        )
        .subcommand(setup::command())
        .subcommand(session_command())
        .subcommand(calls::calls_command())
        .subcommand(usage::usage_command())
        .subcommand(backup::backup_command())
        .subcommand(backup::restore_command())
        .subcommand(chat::chat_command())
        .subcommand(completions::completions_command())
        .subcommand(
            Command::new("import-curl")
                .about("Make settings of a browser's \"Copy as cURL\" text of the chat's own request")
                .arg(Arg::new("file").value_name("FILE").help("The file that holds the text; standard input without one")),
        )
        .subcommand(
            Command::new("doctor")
                .about("Check settings, mirror, and the service as Dify sees it; exit 1 if anything is broken")
                .arg(text("url", "Examine the running service at this base URL, and ask it of itself, in place of one started for the examination").value_name("URL").value_parser(server_url))
                .arg(text("key", "The key with which Dify's calls are replayed; with the admin key, the service at --url examines its mirror, login and store as well").value_name("KEY"))
                .arg(text("json", "Print the findings as JSON").action(ArgAction::SetTrue))
                .arg(text("deep", "Ask the mirror one real question, which costs tokens").action(ArgAction::SetTrue)),
        )
}

/// The settings that most people need, for a help of one screen.
fn usual_settings() -> String {
    let usual: [&Setting<dyn AnyKind>; 7] = [
        &declared::UPSTREAM_URL,
        &declared::UPSTREAM_PROTOCOL,
        &declared::UPSTREAM_API_KEY,
        &declared::UPSTREAM_COOKIE,
        &declared::GATEWAY_API_KEYS,
        &declared::PUBLIC_URL,
        &declared::PORT,
    ];
    let lines = usual.map(|setting| format!("  {:<18} {}\n", setting.name, brief(setting)));
    let head = "Settings, as environment variables, in a file `.env` here, or as flags (--upstream-url):\n";
    format!(
        "{head}{}\nAll settings: `mirrorgate --help`. Without UPSTREAM_URL a demo answers.",
        lines.concat()
    )
}

/// What a setting is, without what stands behind for those who read all of it.
fn brief(setting: &Setting<dyn AnyKind>) -> String {
    let help = config::plain(setting.help.of(Language::English));
    help.split([';', ',', ':', '(']).next().unwrap_or_default().trim_end().into()
}

/// A setting as a flag, under its group's heading.
fn setting_flag(heading: &'static str, setting: &Setting<dyn AnyKind>) -> Arg {
    let help = config::plain(setting.help.of(Language::English));
    let default = config::plain(&setting.default(Language::English));
    Arg::new(setting.name)
        .long(setting.flag())
        .env(setting.name)
        .value_name(setting.kind.placeholder())
        .allow_hyphen_values(true)
        .help_heading(heading)
        .hide_short_help(true)
        .global(true)
        .help(brief(setting))
        // clap would put the variable into a paragraph of its own.
        .hide_env(true)
        .long_help(format!("{help}\n[default: {default}] [env: {}]", setting.name))
}

fn key_command() -> Command {
    let name = || Arg::new("name").required(true).value_name("NAME").help("The key's name");
    let limits = || {
        let flag = |name: &'static str, value: &'static str, help: &'static str| {
            Arg::new(name).long(name).value_name(value).help(help)
        };
        [
            flag("expires", "TIME", "How long it holds from now on, such as 30d, 12h or 2w"),
            // In place of the setting's flag of this name, which a key's command has no use for.
            flag(declared::MODELS.name, "NAMES", "The models that it may ask, with commas between")
                .long("models"),
            flag("rpm", "NUMBER", "Questions in any 60 seconds"),
            flag("parallel", "NUMBER", "Questions that are answered at once"),
            flag("tokens-per-day", "NUMBER", "Tokens of questions and answers in a day, in UTC"),
            flag("tokens-per-month", "NUMBER", "The same in a month"),
            flag(
                "storage",
                "SIZE",
                "Bytes of conversations that are kept for it, such as 200MiB; 0 for any number",
            ),
            flag(
                "paths",
                "PATHS",
                "Paths under /v1/ that it opens beside those open to every key, such as files",
            ),
        ]
    };
    Command::new("key")
        .about("Make, limit, list, replace and revoke gateway keys in the store")
        .subcommand_required(true)
        .subcommand(Command::new("new").about("Make a key and print it once").arg(name()).args(limits()))
        .subcommand(
            Command::new("set")
                .about("Change limits of a key: those that are named; `none` removes one")
                .arg(name())
                .args(limits()),
        )
        .subcommand(Command::new("list").about("List the keys by name, with limits and last use"))
        .subcommand(
            Command::new("rotate")
                .about("Give a key another text; what it owns stays. `owner` is the admin key")
                .arg(name()),
        )
        .subcommand(Command::new("revoke").about("Revoke a key").arg(name()))
}

fn session_command() -> Command {
    let text = |name: &'static str, help: &'static str| Arg::new(name).long(name).help(help);
    Command::new("session")
        .about("Change the login at the upstream without a restart")
        .subcommand_required(true)
        .subcommand(
            Command::new("set")
                .about("Try new credentials at the upstream and hand them to running services")
                .arg(
                    text(
                        "cookie",
                        "A Cookie header line, as copied from the browser; `-` reads it from standard input",
                    )
                    .value_name("LINE"),
                )
                .arg(text("key", "A bearer key; `-` reads it from standard input").value_name("KEY"))
                .arg(text("upstream", "Which upstream, where there are several").value_name("NAME"))
                .group(ArgGroup::new("credentials").args(["cookie", "key"]).required(true)),
        )
}

/// An absolute http or https URL without a trailing slash.
fn server_url(text: &str) -> Result<String, String> {
    match url::Url::parse(text) {
        Ok(url)
            if matches!(url.scheme(), "http" | "https")
                && url.query().is_none()
                && url.fragment().is_none() =>
        {
            Ok(url.as_str().trim_end_matches('/').to_string())
        }
        _ => Err("give an absolute URL, such as https://your-app.example.com".into()),
    }
}

/// Reads the settings and goes on with them.
fn with_config(matches: &ArgMatches, go_on: impl FnOnce(Config) -> ExitCode) -> ExitCode {
    configured(matches, false, go_on)
}

/// As [`with_config`], for a command that writes to the store: what it wrote before the service has restored
/// it would take the backup's place.
fn with_store(matches: &ArgMatches, go_on: impl FnOnce(Config) -> ExitCode) -> ExitCode {
    with_config(matches, |config| {
        if precedes_restore(&config) {
            let hint = "start the service, which restores it; then run this beside it";
            return fail(1, format!("error: the store is not restored from BACKUP_URL yet\n  hint: {hint}"));
        }
        go_on(config)
    })
}

/// Whether the next start of the service will take the store from its backup, if there is one.
fn precedes_restore(config: &Config) -> bool {
    let Location::File(path) = &config.store.location else { return false };
    config.store.backup.is_some() && snapshot::is_blank(path)
}

/// As [`with_config`], for a service that a `tunnel` may publish.
fn configured(matches: &ArgMatches, tunnel: bool, go_on: impl FnOnce(Config) -> ExitCode) -> ExitCode {
    let settings = match Settings::read(matches) {
        Ok(settings) => settings,
        Err(text) => return fail(2, text),
    };
    tell(&settings);
    match Config::load_for(tunnel, &|name: &str| settings.get(name), settings.names()) {
        Ok(config) => go_on(Config { read_from: settings.source(), ..config }),
        Err(problems) => fail(problems.exit_code(), problems),
    }
}

/// Says what a person should know of the settings, and what stops nothing.
fn tell(settings: &Settings) {
    for (what, advice) in settings.remarks() {
        eprintln!("warning: {what}\n  hint: {advice}");
    }
}

/// Starts the log of a command whose output a person reads: as `RUST_LOG` says, else with this filter.
fn start_log(log: Option<&config::Log>, filter: &str) {
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| filter.into());
    telemetry::start(&config::Log { filter, json: log.and_then(|log| log.json) });
}

fn fail(code: u8, text: impl std::fmt::Display) -> ExitCode {
    eprintln!("{}", text.to_string().trim_end());
    ExitCode::from(code)
}

fn openapi(matches: &ArgMatches) -> ExitCode {
    let value = |name: &str| matches.get_one::<String>(name).map(String::as_str).unwrap_or_default();
    let document = match value("document") {
        "full" => Document::Full,
        "dify" => Document::Dify,
        _ => Document::Tools,
    };
    let long_answers = matches.try_get_one::<String>(LONG_ANSWERS.name).ok().flatten().cloned();
    let long_answers = long_answers.or_else(|| std::env::var(LONG_ANSWERS.name).ok());
    let long_answers = long_answers.and_then(|text| LONG_ANSWERS.kind.parse(text.trim()));
    let long_answers = long_answers.unwrap_or_else(|| LONG_ANSWERS.kind.unset());
    let document = api::documents(long_answers).at(document, value("server"));
    let text =
        if value("format") == "yaml" { documents::yaml(&document) } else { documents::pretty(&document) };
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, format!("error: the document cannot be written: {error}")),
    }
}

/// Asks `/health` over a plain connection: the image that runs this holds no other client.
fn healthcheck(config: Config) -> ExitCode {
    let host = match config.listen.host {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        host => host,
    };
    let address = SocketAddr::new(host, config.listen.port);
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(3))?;
        stream.set_read_timeout(Some(Duration::from_secs(3)))?;
        stream.set_write_timeout(Some(Duration::from_secs(3)))?;
        write!(stream, "GET /health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        Ok(String::from_utf8_lossy(&head).into_owned())
    };
    match ask() {
        Ok(head) if head == "HTTP/1.1 200" => ExitCode::SUCCESS,
        Ok(head) => fail(
            1,
            format!(
                "error: {address} answers `{head}` and not 200\n  hint: is it mirrorgate that listens there? compare HOST and PORT"
            ),
        ),
        Err(error) => fail(
            1,
            format!(
                "error: nothing healthy at {address}: {error}\n  hint: start the service, and give this command the same HOST and PORT"
            ),
        ),
    }
}

fn described(error: &Error) -> String {
    format!("error: {} ({})\n  hint: {}", error.caller_message(), error.kind.code(), error.hint())
}
