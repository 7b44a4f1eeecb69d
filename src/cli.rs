//! The command line: commands, flags, and what a person reads at the start.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{IsTerminal, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Arg, ArgGroup, ArgMatches, Command};
use tokio::task::LocalSet;

use crate::api;
use crate::api::base_url::Unreachable;
use crate::api::docs::{self, Document};
use crate::app::{self, Application, Keeper, StartError};
use crate::chat::{Event, Owner};
use crate::config::{self, Config, Location, SETTINGS};
use crate::error::{Error, Kind};
use crate::keys::{self, GatewayKey};
use crate::service::{Question, Service, Shared};
use crate::store::Store;
use crate::telemetry;
use crate::upstream::Upstream;
use crate::upstream::session::{Credentials, Session};
use crate::vault::Vault;

/// Runs one command and gives the process's exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    // clap prints help, versions and mistakes itself, and exits with 0 or 2.
    let matches = command().get_matches_from(arguments);
    match matches.subcommand() {
        Some(("openapi", matches)) => openapi(matches),
        Some(("healthcheck", matches)) => with_config(matches, healthcheck),
        Some(("key", inner)) => with_config(inner, |config| key(config, inner)),
        Some(("session", inner)) => with_config(inner, |config| session(config, inner)),
        Some(("chat", inner)) => with_config(inner, |config| chat(config, inner)),
        Some((_, inner)) => with_config(inner, serve),
        None => with_config(&matches, serve),
    }
}

fn command() -> Command {
    let settings = {
        SETTINGS.iter().map(|setting| {
            Arg::new(setting.name)
                .long(setting.flag())
                .env(setting.name)
                .hide_env_values(true)
                .value_name(setting.value)
                .allow_hyphen_values(true)
                .help_heading("Settings")
                .global(true)
                .help(format!("{} [default: {}]", setting.help, setting.default))
        })
    };
    let text = |name: &'static str, help: &'static str| Arg::new(name).long(name).help(help);
    let name = || Arg::new("name").required(true).value_name("NAME").help("The key's name");
    Command::new("mirrorgate")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Publishes a chat model's mirror as an OpenAPI tool that Dify imports by URL")
        .after_help("Each setting is an environment variable as well, also in a file `.env` here. Without UPSTREAM_URL a demo answers.")
        .args(settings)
        .subcommand(Command::new("serve").about("Start the service (the default command)"))
        .subcommand(
            Command::new("openapi")
                .about("Print an OpenAPI document")
                .arg(text("document", "tools (what Dify imports) or full").value_name("NAME").value_parser(["tools", "full"]).default_value("tools"))
                .arg(text("format", "json or yaml").value_name("FORMAT").value_parser(["json", "yaml"]).default_value("json"))
                .arg(text("server", "The service's public base URL").value_name("URL").value_parser(server_url).default_value("http://127.0.0.1:8080")),
        )
        .subcommand(Command::new("healthcheck").about("Exit 0 if the service on this host's port is live"))
        .subcommand(
            Command::new("key")
                .about("Make, list and revoke gateway keys in the store")
                .subcommand_required(true)
                .subcommand(Command::new("new").about("Make a key and print it once").arg(name()))
                .subcommand(Command::new("list").about("List the keys by name"))
                .subcommand(Command::new("revoke").about("Revoke a key").arg(name())),
        )
        .subcommand(
            Command::new("session").about("Change the login at the upstream without a restart").subcommand_required(true).subcommand(
                Command::new("set")
                    .about("Try new credentials at the upstream and hand them to running services")
                    .arg(text("cookie", "A Cookie header line, as copied from the browser; `-` reads it from standard input").value_name("LINE"))
                    .arg(text("key", "A bearer key; `-` reads it from standard input").value_name("KEY"))
                    .group(ArgGroup::new("credentials").args(["cookie", "key"]).required(true)),
            ),
        )
        .subcommand(
            Command::new("chat")
                .about("Ask the configured upstream one question, without a running service")
                .arg(Arg::new("message").required(true).value_name("MESSAGE").help("The question; `-` reads it from standard input"))
                .arg(text("model", "The model").value_name("NAME"))
                .arg(text("system", "Instructions for the model").value_name("TEXT"))
                .arg(text("conversation", "Go on with this conversation, by the id printed after its last answer").value_name("ID")),
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

/// Reads the settings from flags, the environment and `.env`, in this order, and goes on with them.
fn with_config(matches: &ArgMatches, go_on: impl FnOnce(Config) -> ExitCode) -> ExitCode {
    let file = match env_file() {
        Ok(file) => file,
        Err(text) => return fail(2, text),
    };
    let lookup = |name: &str| {
        let flag = matches.try_get_one::<String>(name).ok().flatten().cloned();
        // Platforms' own variables are no settings, so clap does not know them.
        flag.or_else(|| std::env::var(name).ok())
            .filter(|value| !value.trim().is_empty())
            .or_else(|| file.get(name).cloned())
    };
    let names =
        std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).chain(file.keys().cloned());
    match Config::load(&lookup, names) {
        Ok(config) => go_on(config),
        Err(problems) => fail(problems.exit_code(), problems),
    }
}

/// The `.env` file of the current directory, else the one beside the program.
fn env_file() -> Result<HashMap<String, String>, String> {
    let beside =
        std::env::current_exe().ok().and_then(|program| program.parent().map(|folder| folder.join(".env")));
    for path in [Some(".env".into()), beside].into_iter().flatten() {
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                return config::parse_env_file(&text)
                    .map_err(|(line, what)| format!("error: {}, line {line}: {what}", path.display()));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("error: {}: {error}", path.display())),
        }
    }
    Ok(HashMap::new())
}

fn fail(code: u8, text: impl std::fmt::Display) -> ExitCode {
    eprintln!("{}", text.to_string().trim_end());
    ExitCode::from(code)
}

fn serve(config: Config) -> ExitCode {
    telemetry::start(&config.log);
    let shown = config.clone();
    actix_web::rt::System::new().block_on(async {
        match Application::start(config).await {
            Ok(application) => {
                welcome(&shown, &application);
                match application.run().await {
                    Ok(()) => ExitCode::SUCCESS,
                    Err(error) => fail(1, format!("error: the server failed: {error}")),
                }
            }
            Err(error) => fail(error.exit_code(), error),
        }
    })
}

/// What a person reads at the start, on standard output. The key is shown here and nowhere else.
fn welcome(config: &Config, application: &Application) {
    let url = &application.url;
    let mut lines =
        vec![format!("mirrorgate {} listens on {}", env!("CARGO_PKG_VERSION"), application.address)];
    let mut line = |name: &str, text: String| lines.push(format!("  {name:<10} {text}"));
    match &config.upstream.url {
        Some(upstream) => line(
            "upstream",
            format!("{} ({})", upstream.origin().ascii_serialization(), config.upstream.protocol.name()),
        ),
        None => {
            line("upstream", "DEMO: no model is connected; set UPSTREAM_URL to your mirror's address".into())
        }
    }
    line("store", config.store.location.describe());
    match &application.new_key {
        Some(key) => {
            line("page", format!("{url}/#key={key}"));
            line("document", format!("{url}/openapi.json  <- import this URL in Dify"));
            line("key", format!("{key}  <- shown only now; callers send it as `Authorization: Bearer KEY`"));
            line(
                "",
                "its hash is kept in the store; on a disk that is wiped at a restart, set GATEWAY_API_KEYS instead"
                    .into(),
            );
        }
        None => {
            line("page", format!("{url}/"));
            line("document", format!("{url}/openapi.json  <- import this URL in Dify"));
            let keys = if !config.gateway.auth {
                "none needed (GATEWAY_AUTH=none): anyone on this machine may call".into()
            } else if config.gateway.keys.is_empty() {
                "the one printed at the first start; remove the key file in DATA_DIR for a new one"
                    .to_string()
            } else {
                format!("{} from GATEWAY_API_KEYS", config.gateway.keys.len())
            };
            line("key", keys);
        }
    }
    match Unreachable::of(url) {
        Some(Unreachable::Loopback | Unreachable::Private) => {
            line("note", "Dify in the cloud cannot reach this address; deploy it, or set PUBLIC_URL to a tunnel's address".into());
        }
        Some(Unreachable::Http) => line(
            "note",
            "Dify in the cloud wants https: put a proxy with a certificate in front and set PUBLIC_URL"
                .into(),
        ),
        Some(Unreachable::Port) => line("note", "Dify in the cloud reaches https on port 443 only".into()),
        None => {}
    }
    println!("{}", lines.join("\n"));
}

fn openapi(matches: &ArgMatches) -> ExitCode {
    let value = |name: &str| matches.get_one::<String>(name).map(String::as_str).unwrap_or_default();
    let document = if value("document") == "full" { Document::Full } else { Document::Tools };
    let document = api::documents().at(document, value("server"));
    let text = if value("format") == "yaml" { docs::yaml(&document) } else { docs::pretty(&document) };
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

fn chat(config: Config, matches: &ArgMatches) -> ExitCode {
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
    telemetry::start(&config::Log {
        filter: std::env::var("RUST_LOG").unwrap_or_else(|_| "error".into()),
        ..config.log.clone()
    });
    let conversation = match argument("conversation").map(|id| id.parse()).transpose() {
        Ok(conversation) => conversation,
        Err(()) => {
            return fail(
                2,
                "error: --conversation is not an id\n  hint: give it as the last answer printed it, or leave it out",
            );
        }
    };
    let question = Question {
        owner: Owner("terminal".into()),
        conversation,
        model: argument("model"),
        system: argument("system"),
        message,
        temperature: None,
        max_tokens: None,
    };
    actix_web::rt::System::new().block_on(LocalSet::new().run_until(ask(config, question)))
}

/// Asks in this process, without a server of ours between, and writes the answer as it comes.
async fn ask(config: Config, question: Question) -> ExitCode {
    let service = match service(&config).await {
        Ok(service) => service,
        Err(error) => return fail(error.exit_code(), error),
    };
    let mut running = match service.start(question).await {
        Ok(running) => running,
        Err(failed) => return fail(1, described(&failed.error)),
    };
    let mut written = String::new();
    while let Some(event) = running.next().await {
        let news = match event {
            Ok(Event::Text(text)) => text,
            // What the upstream settled may go on where the pieces ended.
            Ok(Event::WholeText(text)) => match text.strip_prefix(&written) {
                Some(rest) => rest.to_string(),
                None => format!("\n{text}"),
            },
            Ok(_) => continue,
            Err(error) => {
                println!();
                return fail(1, described(&service.abandon(running, error).await.error));
            }
        };
        print!("{news}");
        let _ = std::io::stdout().flush();
        written.push_str(&news);
    }
    println!();
    let reply = match service.finish(running).await {
        Ok(reply) => reply,
        Err(failed) => return fail(1, described(&failed.error)),
    };
    if std::io::stderr().is_terminal() {
        let tokens = reply.answer.usage.map_or(0, |usage| usage.total_tokens);
        eprintln!(
            "[{}, {tokens} tokens]",
            reply.answer.model.unwrap_or_else(|| "the upstream's model".into())
        );
    }
    if let Some(id) = reply.conversation_id {
        eprintln!("to go on: --conversation {id}");
    }
    ExitCode::SUCCESS
}

/// The use cases in this process, over the configured upstream and store.
async fn service(config: &Config) -> Result<Service, StartError> {
    let (base, _) = app::upstream_base(&config.upstream)?;
    let session = Arc::new(Session::new(&base, &config.upstream));
    let store = Arc::new(app::open_store(&config.store).await?);
    let mut keeper = keeper(config, &store, &session);
    // What the store keeps of the session is better than the settings; without it, those do.
    let _ = keeper.follow().await;
    let upstream = Upstream::new(base, &config.upstream, session);
    Ok(Service::new(upstream, Arc::new(Shared::new(store)), config.upstream.clone()))
}

fn keeper(config: &Config, store: &Arc<Store>, session: &Arc<Session>) -> Keeper {
    Keeper::new(Arc::clone(store), Arc::clone(session), Vault::new(config.store.secret_key.as_ref()))
}

/// `session set`: new credentials for the upstream, tried first, then written to the store, where
/// running services notice them.
fn session(config: Config, matches: &ArgMatches) -> ExitCode {
    telemetry::start(&config::Log { filter: "error".into(), ..config.log.clone() });
    let Some(("set", matches)) = matches.subcommand() else { return ExitCode::from(2) };
    if config.upstream.url.is_none() {
        return fail(
            2,
            "error: there is no session without an upstream\n  hint: give this command UPSTREAM_URL as the service has it",
        );
    }
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
    let outcome =
        actix_web::rt::System::new().block_on(LocalSet::new().run_until(set_session(&config, &credentials)));
    match outcome {
        Ok(()) => {
            println!("the upstream accepts it; running services use it within seconds");
            ExitCode::SUCCESS
        }
        Err(error) => fail(1, described(&error)),
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

async fn set_session(config: &Config, credentials: &Credentials) -> Result<(), Error> {
    let trouble = |error: StartError| Error::new(Kind::Internal, error.to_string());
    let (base, _) = app::upstream_base(&config.upstream).map_err(trouble)?;
    let session = Arc::new(Session::new(&base, &config.upstream));
    let store = Arc::new(Store::new(config.store.location.clone())?);
    let mut keeper = keeper(config, &store, &session);
    keeper.follow().await?;
    let upstream = Upstream::new(base, &config.upstream, Arc::clone(&session));
    let service = Service::new(upstream, Arc::new(Shared::new(store)), config.upstream.clone());
    service.swap(credentials).await?;
    keeper.keep().await
}

/// `key new NAME`, `key list` and `key revoke NAME`: on the store itself, whether the service runs
/// or not. A running service follows within seconds.
fn key(config: Config, matches: &ArgMatches) -> ExitCode {
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
            Some(("new", inner)) => new_key(&store, inner).await,
            Some(("revoke", inner)) => {
                let name = inner.get_one::<String>("name").cloned().unwrap_or_default();
                store.remove_key(&name).await?;
                println!("revoked {name}; running services follow within seconds");
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

async fn new_key(store: &Store, matches: &ArgMatches) -> Result<(), Error> {
    let name = matches.get_one::<String>("name").cloned().unwrap_or_default();
    if !keys::is_name(&name) {
        return Err(Error::new(
            Kind::InvalidRequest,
            "a key's name has up to 40 letters, digits, `-`, `_` and `.`",
        )
        .hinted("mirrorgate key new my-dify"));
    }
    let text = keys::generate()?;
    if !store.add_key(&name, &GatewayKey::new(&name, &text).digest()).await? {
        return Err(Error::new(Kind::InvalidRequest, format!("there is a key `{name}` already"))
            .hinted("choose another name, or revoke that key first"));
    }
    println!("{text}");
    eprintln!("this is the key `{name}`, shown only now; running services accept it within seconds");
    Ok(())
}

async fn list_keys(store: &Store, config: &Config) -> Result<(), Error> {
    for key in &config.gateway.keys {
        println!("{:<40} from GATEWAY_API_KEYS", key.name);
    }
    for key in store.keys().await? {
        println!("{:<40} made {}", key.name, date(key.created_at));
    }
    Ok(())
}

/// The day of a time in milliseconds since 1970, by the civil calendar.
fn date(milliseconds: i64) -> String {
    let time = std::time::UNIX_EPOCH + Duration::from_millis(milliseconds.max(0) as u64);
    actix_web::http::header::HttpDate::from(time).to_string()
}

fn described(error: &Error) -> String {
    format!("error: {} ({})\n  hint: {}", error.caller_message(), error.kind.code(), error.hint())
}
