//! Telling one address that the upstream's session has expired.

use std::time::Duration;

use awc::Client;
use awc::http::header;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use crate::domain::error::Kind;
use crate::outbound::client;

const TIME: Duration = Duration::from_secs(10);

/// Posts that the session of `upstream` has expired. It carries no secret of the session; a failure
/// is logged, since nobody waits for it.
pub async fn session_expired(url: &SecretString, upstream: &str) {
    let body = json!({
        "event": "session_expired",
        "upstream": upstream,
        "hint": Kind::UpstreamAuthExpired.hint(),
    });
    let connector = awc::Connector::new().rustls_0_23(client::tls(client::mozilla_roots())).timeout(TIME);
    let client = Client::builder().connector(connector).timeout(TIME).disable_redirects().finish();
    let sent = client
        .post(url.expose_secret())
        .insert_header((header::USER_AGENT, concat!("mirrorgate/", env!("CARGO_PKG_VERSION"))))
        .send_json(&body)
        .await;
    match sent {
        Ok(response) if response.status().is_success() => log::info!("the session webhook was told"),
        Ok(response) => {
            log::warn!(status = response.status().as_u16(); "the session webhook answers with a failure")
        }
        // The error may quote the address, which may hold a token.
        Err(_) => log::warn!("the session webhook cannot be reached"),
    }
}
