//! `serve`: starts the service, and what a person reads then.

use std::process::ExitCode;

use super::fail;
use crate::api::base_url::Unreachable;
use crate::app::Application;
use crate::config::Config;
use crate::telemetry;

/// Runs the service until it is told to stop.
pub fn serve(config: Config) -> ExitCode {
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
        Some(_) => config.upstreams().for_each(|upstream| {
            line("upstream", format!("{} ({})", upstream.name, upstream.protocol.name()));
        }),
        None => {
            line("upstream", "DEMO: no model is connected; set UPSTREAM_URL to your mirror's address".into())
        }
    }
    line("store", application.store.clone());
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
                "those of the store, see `mirrorgate key list`; `mirrorgate key new NAME` makes another"
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
