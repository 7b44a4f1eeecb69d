//! The audit trail: what was done at the owner's doors, noted there and read here.

use actix_web::http::StatusCode;
use actix_web::web::Data;
use actix_web::{HttpMessage, HttpRequest, HttpResponse, get};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_actix_web::service_config::ServiceConfig;

use crate::gateway::{Deed, Gateway};
use crate::http::auth::Caller;
use crate::http::base_url::Peers;
use crate::http::body;
use crate::http::failure::Failure;
use crate::http::log_fields::LogFields;
use crate::http::reply::{self, ErrorBody, FailureBody};

/// Entries on a page.
const PAGE: usize = 100;

/// Adds the operation to an application and to its document.
pub fn routes(config: &mut ServiceConfig) {
    config.service(read_audit);
}

/// Which page of the audit trail.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct AuditQuery {
    /// The `at` of the last entry of the page before this one.
    before: Option<i64>,
}

/// Something that was done at one of the owner's doors.
#[derive(Serialize, ToSchema)]
pub struct DeedBody {
    /// When, in milliseconds since 1970.
    #[schema(example = 1_795_000_000_000_i64)]
    at: i64,
    /// The name of the key with which it was done, or `terminal`.
    #[schema(example = "owner")]
    actor: String,
    /// The address that it came from; empty for the terminal.
    #[schema(example = "203.0.113.7")]
    address: String,
    /// What was done.
    #[schema(example = "key.new")]
    action: String,
    /// To what, by its name.
    #[schema(example = "dify")]
    target: String,
}

/// A page of the audit trail.
#[derive(Serialize, ToSchema)]
pub struct AuditResult {
    /// Always true.
    #[schema(example = true)]
    success: bool,
    /// The entries, the latest first: 100, and those of the same moment as the last one.
    entries: Vec<DeedBody>,
    /// Always null.
    #[schema(required = true)]
    error: Option<ErrorBody>,
}

/// Read the audit trail
///
/// What was done at the owner's doors in the last 90 days: by which key, from where, and when. Never a secret.
#[utoipa::path(
    tag = "operations",
    params(AuditQuery),
    responses(
        (status = 200, description = "The entries", body = AuditResult),
        (status = "4XX", description = "A failure with what to do about it", body = FailureBody),
    ),
    security(("bearer" = [])),
)]
#[get("/api/audit")]
async fn read_audit(request: HttpRequest, gateway: Data<Gateway>) -> Result<HttpResponse, Failure> {
    let read = async {
        let AuditQuery { before } = body::query(&request)?;
        gateway.deeds(before, PAGE).await
    };
    let deeds = read.await.map_err(|error| Failure::new(&request, error))?;
    let entry = |(at, deed): (i64, Deed)| {
        let Deed { actor, address, action, target } = deed;
        DeedBody { at, actor, address, action: action.into_owned(), target }
    };
    let body = AuditResult { success: true, entries: deeds.into_iter().map(entry).collect(), error: None };
    Ok(reply::json(StatusCode::OK, &body, LogFields::of("read_audit")))
}

/// Notes in the audit trail what the caller of this request did.
pub async fn note(request: &HttpRequest, gateway: &Gateway, action: &'static str, target: &str) {
    let actor =
        request.extensions().get::<Caller>().map(|caller| caller.name.to_string()).unwrap_or_default();
    let peers = request.app_data::<Data<Peers>>();
    let address = peers.and_then(|peers| peers.address(request)).map(|address| address.to_string());
    let address = address.unwrap_or_default();
    gateway.note_deed(Deed { actor, address, action: action.into(), target: target.into() }).await;
}
