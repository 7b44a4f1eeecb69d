//! Telling one address that the upstream's session has expired.

use std::time::Duration;

use awc::ClientRequest;
use awc::http::{Method, header};
use bytes::Bytes;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use tokio::time::timeout;
use url::Url;

use crate::domain::error::Kind;
use crate::outbound::client::Client;

const TIME: Duration = Duration::from_secs(10);

/// Posts that the session of `upstream` has expired. It carries no secret of the session; a failure
/// is logged, since nobody waits for it.
pub async fn session_expired(url: &SecretString, upstream: &str) {
    let body = json!({
        "event": "session_expired",
        "upstream": upstream,
        "hint": Kind::UpstreamAuthExpired.hint(),
    });
    let told = async {
        let url = Url::parse(url.expose_secret()).ok()?;
        let client = Client::new(&url, TIME);
        let dress = |request: ClientRequest| {
            let agent = concat!("mirrorgate/", env!("CARGO_PKG_VERSION"));
            let json = (header::CONTENT_TYPE, "application/json");
            request.insert_header((header::USER_AGENT, agent)).insert_header(json)
        };
        let body = Bytes::from(body.to_string());
        client.send(&Method::POST, &client.uri(&url).ok()?, Some(&body), dress).await.ok()
    };
    // The error may quote the address, which may hold a token.
    match timeout(TIME, told).await.ok().flatten() {
        Some(response) if response.status().is_success() => log::info!("the session webhook was told"),
        Some(response) => {
            log::warn!(status = response.status().as_u16(); "the session webhook answers with a failure")
        }
        None => log::warn!("the session webhook cannot be reached"),
    }
}
