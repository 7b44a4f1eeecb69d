//! `serve`: starts the service, and what a person reads then.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::ExitCode;

use super::{fail, output};
use crate::app::{Application, NewKeys};
use crate::cli::tunnel::{Provider, Tunnel};
use crate::config::{self, Config, Location};
use crate::reachability::Unreachable;
use crate::store::{NoLock, ServiceLock};
use crate::telemetry;
use crate::version;

/// Runs the service until it is told to stop.
pub fn serve(config: Config) -> ExitCode {
    telemetry::start(&config.log);
    actix_web::rt::System::new().block_on(run(config, None))
}

/// Runs the service behind a tunnel: the one that is named, else the first that is installed.
pub fn serve_with_tunnel(mut config: Config, name: &str) -> ExitCode {
    let asked = Provider::ALL.into_iter().find(|provider| provider.name() == name);
    telemetry::start(&config.log);
    if config.listen.port == 0 {
        // The tunnel must know the port before the service listens.
        let free = TcpListener::bind((config.listen.host, 0)).and_then(|listener| listener.local_addr());
        config.listen.port = free.map_or(0, |address| address.port());
    }
    let host = match config.listen.host {
        host if host.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        host => host,
    };
    let target = SocketAddr::new(host, config.listen.port);
    actix_web::rt::System::new().block_on(async {
        eprintln!("starting the tunnel ...");
        let tunnel = tokio::select! {
            tunnel = Tunnel::start(asked, target) => tunnel,
            // Dropping the start ends the program that it started.
            () = stopped() => return ExitCode::from(130),
        };
        match tunnel {
            Ok(tunnel) => {
                // PUBLIC_URL and the platform know better, such as a name of one's own.
                config.public.url.get_or_insert_with(|| tunnel.url.clone());
                run(config, Some(tunnel)).await
            }
            Err(failure) => fail(failure.exit_code(), failure),
        }
    })
}

/// Waits for a signal to stop.
async fn stopped() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let Ok(mut terminate) = signal(SignalKind::terminate()) else { return std::future::pending().await };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    }
    #[cfg(not(unix))]
    {
        let _ = tokio::signal::ctrl_c().await;
    }
}

/// Sees that no other service uses the file, and that it can be written where someone chose it.
fn lock(settings: &config::Store) -> Result<Option<ServiceLock>, ExitCode> {
    let Location::File(path) = &settings.location else { return Ok(None) };
    match ServiceLock::take(path) {
        Ok(lock) => Ok(lock),
        Err(NoLock::Held(other)) => {
            let other = other.map_or("another process".into(), |id| format!("process {id}"));
            Err(fail(
                1,
                format!(
                    "error: {other} serves from {} already\n  hint: stop it, or give this one another DATA_DIR; several services share a PostgreSQL, see DATABASE_URL",
                    path.display()
                ),
            ))
        }
        Err(NoLock::Unwritable(error)) if settings.is_chosen => Err(fail(
            78,
            format!(
                "error: the store cannot be kept in {}: {error}\n  hint: set DATA_DIR to a folder that this user can write, or DATABASE_URL; without both, conversations are kept in memory where there is no such folder",
                path.display()
            ),
        )),
        // Then the store is in memory, and that is told.
        Err(NoLock::Unwritable(_)) => Ok(None),
    }
}

async fn run(config: Config, mut tunnel: Option<Tunnel>) -> ExitCode {
    let _lock = match lock(&config.store) {
        Ok(lock) => lock,
        Err(code) => return code,
    };
    let shown = config.clone();
    let application = match Application::start(config).await {
        Ok(application) => application,
        Err(error) => return fail(error.exit_code(), error),
    };
    if let Err(error) = output::show(welcome(&shown, &application, tunnel.as_ref()))
        && !application.withdraw_keys().await
    {
        return fail(74, format!("error: the new keys could not be shown, so they are not kept: {error}"));
    }
    let watch = async {
        match &mut tunnel {
            Some(tunnel) => tunnel.watch().await,
            None => std::future::pending().await,
        }
    };
    let outcome = tokio::select! {
        outcome = application.run() => outcome,
        () = watch => Ok(()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, format!("error: the server failed: {error}")),
    }
}

/// What a person reads at the start. The key is shown here and nowhere else.
fn welcome(config: &Config, application: &Application, tunnel: Option<&Tunnel>) -> String {
    let url = &application.url;
    let mut lines = vec![format!("mirrorgate {} listens on {}", version::full(), application.address)];
    let mut line = |name: &str, text: String| lines.push(format!("  {name:<10} {text}"));
    for upstream in application.upstreams().endpoints.iter().map(|endpoint| &endpoint.settings) {
        line(
            "upstream",
            match &upstream.url {
                Some(_) => format!("{} ({})", upstream.name, upstream.protocol.name()),
                None => {
                    "DEMO: no model is connected; connect your mirror in /console, or set UPSTREAM_URL".into()
                }
            },
        );
    }
    if let Some(file) = &config.read_from {
        line("settings", file.clone());
    }
    line("store", application.store.clone());
    if let Some(backup) = &config.store.backup {
        let from = application.restored.map(|number| format!("; the store comes from generation {number}"));
        line("backup", backup.describe() + &from.unwrap_or_default());
    }
    if let Some(tunnel) = tunnel {
        line("tunnel", format!("{} by {}", tunnel.url, tunnel.provider.name()));
    }
    let made = &application.new_keys;
    let fragment = made.caller.as_ref().map(|key| format!("#key={key}"));
    line("page", format!("{url}/{}", fragment.unwrap_or_default()));
    line("document", format!("{url}/openapi.json  <- import this URL in Dify"));
    line("key", key_line(config, made));
    if let Some(key) = &made.owner {
        line("owner", format!("{url}/console#admin={key}  <- your own link, shown only now"));
        line("admin key", format!("{key}  <- opens what callers may not do: the login, keys, metrics"));
    }
    if made.names().next().is_some() && config.store.backup.is_none() {
        let both = "only hashes are kept, in the store; on a disk that is wiped at a restart, set";
        line("", format!("{both} GATEWAY_API_KEYS and ADMIN_KEY instead"));
    }
    for note in notes(config, application, tunnel) {
        line("note", note);
    }
    lines.join("\n") + "\n"
}

/// What is said of callers' keys.
fn key_line(config: &Config, made: &NewKeys) -> String {
    match &made.caller {
        Some(key) => format!("{key}  <- for Dify, shown only now; sent as `Authorization: Bearer KEY`"),
        None if !config.gateway.auth && config.gateway.keys.is_empty() => {
            "none needed (GATEWAY_AUTH=none): anyone on this machine may call".into()
        }
        None if !config.gateway.auth => {
            "none needed (GATEWAY_AUTH=none), those of GATEWAY_API_KEYS neither: anyone on this machine may call".into()
        }
        None if config.gateway.keys.is_empty() => {
            "those of the store, see `mirrorgate key list`; `mirrorgate key new NAME` makes another".into()
        }
        None => format!("{} from GATEWAY_API_KEYS", config.gateway.keys.len()),
    }
}

/// What a person should know about this start.
fn notes(config: &Config, application: &Application, tunnel: Option<&Tunnel>) -> Vec<String> {
    let reach = Unreachable::of(&application.url).map(|why| match why {
        Unreachable::Loopback | Unreachable::Private => {
            "Dify in the cloud cannot reach this address; deploy it, or set PUBLIC_URL to a tunnel's address"
        }
        Unreachable::Http => {
            "Dify in the cloud wants https: put a proxy with a certificate in front and set PUBLIC_URL"
        }
        Unreachable::Port => "Dify in the cloud reaches https on port 443 only",
    });
    let limits = tunnel.and_then(|tunnel| tunnel.provider.limits());
    let concern = match application.lasts {
        true => config.state_concern(),
        false => Some("conversations and the login are forgotten at a restart".into()),
    };
    let concern = concern.map(|concern| {
        format!("{concern}; set DATABASE_URL to a PostgreSQL server, BACKUP_URL to a bucket, or DATA_DIR to a disk that lasts")
    });
    reach.into_iter().chain(limits).map(String::from).chain(concern).collect()
}
