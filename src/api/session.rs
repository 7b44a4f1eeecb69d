//! Swapping the upstream's credentials without a restart: for its owner, not among the importers'
//! tools.

use actix_web::http::StatusCode;
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse, put};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;

use super::audit;
use crate::config;
use crate::config::settings::{UPSTREAM_API_KEY, UPSTREAM_COOKIE, UPSTREAM_URL};
use crate::domain::error::{Error, Kind};
use crate::gateway::{Credentials, Gateway};
use crate::http::body::JsonBody;
use crate::http::failure::Failure;
use crate::http::log_fields::LogFields;
use crate::http::reply::{self, ErrorBody, FailureBody};
use crate::paste;

/// Adds the operation to an application and to its document.
pub fn routes(config: &mut ServiceConfig) {
    config.service(set_session);
}

/// New credentials for the upstream. What is left out stays as it is.
#[derive(Deserialize, ToSchema)]
pub struct SessionRequest {
    /// A Cookie header line, as copied from the browser's developer tools.
    #[schema(example = "sso=abc; theme=dark")]
    cookie: Option<String>,
    /// What a browser copies of a request to the same mirror: cURL, PowerShell, fetch for Node.js, or a Cookie line.
    #[schema(
        example = "curl 'https://mirror.example.com/rest/app-chat/conversations/new' -b 'sso=abc' --data-raw '{\"message\":\"Hello\"}'"
    )]
    pasted: Option<String>,
    /// A bearer key.
    #[schema(example = "sk-new-key")]
    api_key: Option<String>,
    /// Which upstream, where there are several: its name.
    #[schema(example = "https://mirror.example.com")]
    upstream: Option<String>,
}

impl SessionRequest {
    /// The same, with what a pasted text says, and the address that it was sent to.
    fn with_pasted(mut self) -> Result<(Self, Option<String>), Error> {
        let Some(text) = self.pasted.take().filter(|text| !text.trim().is_empty()) else {
            return Ok((self, None));
        };
        let (imported, _) = paste::import(&text)
            .map_err(|mistake| Error::new(Kind::InvalidRequest, mistake.what).hinted(mistake.advice))?;
        let said = |name: &str| imported.group.get(name).map(String::from);
        self.cookie = self.cookie.or(said(UPSTREAM_COOKIE.name));
        self.api_key = self.api_key.or(said(UPSTREAM_API_KEY.name));
        Ok((self, said(UPSTREAM_URL.name)))
    }

    fn credentials(self) -> Result<Credentials, Error> {
        let given = |text: Option<String>| text.filter(|text| !text.trim().is_empty());
        let invalid = |(what, advice): (&str, &str), name: &str| {
            Error::new(Kind::InvalidRequest, format!("`{name}` {what}")).hinted(advice)
        };
        let cookie = given(self.cookie).map(|line| config::parse_cookie_line(&line)).transpose();
        let api_key = given(self.api_key).map(|key| config::parse_api_key(&key)).transpose();
        let credentials = Credentials {
            cookie: cookie.map_err(|mistake| invalid(mistake, "cookie"))?,
            api_key: api_key.map_err(|mistake| invalid(mistake, "api_key"))?,
        };
        if credentials.cookie.is_none() && credentials.api_key.is_none() {
            return Err(Error::new(Kind::InvalidRequest, "neither a cookie nor a key is given")
                .hinted("send the new Cookie line in `cookie`, the new key in `api_key`, or what the browser copied in `pasted`"));
        }
        Ok(credentials)
    }
}

/// The credentials were accepted.
#[derive(Serialize, ToSchema)]
pub struct SessionResult {
    /// Always true.
    #[schema(example = true)]
    success: bool,
    /// How the upstream took them: `ok`; `expiring`, when they end within a day by their own date; `unknown`,
    /// when it gives what costs nothing without a login as well, so that only a question can show it.
    #[schema(example = "ok")]
    session: &'static str,
    /// Always null.
    #[schema(required = true)]
    error: Option<ErrorBody>,
}

/// Swap the upstream's credentials
///
/// Replaces the cookies or the key with which the gateway speaks to the upstream. They are tried
/// first: when the upstream does not accept them, the old ones stay. Replicas follow in seconds.
#[utoipa::path(
    tag = "session",
    request_body(content = SessionRequest, description = "The new credentials"),
    responses(
        (status = 200, description = "They are in use", body = SessionResult),
        (status = "4XX", description = "A failure with what to do about it", body = FailureBody),
    ),
    security(("bearer" = [])),
)]
#[put("/api/session")]
async fn set_session(
    request: HttpRequest,
    gateway: Data<Gateway>,
    body: JsonBody<SessionRequest>,
) -> Result<HttpResponse, Failure> {
    let fail = |error| Failure::new(&request, error);
    let upstream = body.0.upstream.clone().filter(|name| !name.trim().is_empty());
    let (given, address) = body.0.with_pasted().map_err(fail)?;
    if let Some(address) = address {
        gateway.expect_address(upstream.as_deref(), &address).map_err(fail)?;
    }
    let credentials = given.credentials().map_err(fail)?;
    let state = gateway.swap(upstream.as_deref(), &credentials).await.map_err(fail)?;
    audit::note(&request, &gateway, "session.set", upstream.as_deref().unwrap_or_default()).await;
    let body = SessionResult { success: true, session: state.name(), error: None };
    Ok(reply::json(StatusCode::OK, &body, LogFields::of("set_session")))
}
