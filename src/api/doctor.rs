//! The doctor's findings over HTTP: for the service's owner, not among the importers' tools.

use std::borrow::Cow;

use actix_web::http::StatusCode;
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse, get};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;

use crate::doctor::{self, Doctor, Level};
use crate::domain::error::{Error, Kind};
use crate::http::auth::Guard;
use crate::http::base_url::Peers;
use crate::http::failure::Failure;
use crate::http::log_fields::LogFields;
use crate::http::reply::{self, ErrorBody, FailureBody};

/// Adds the operation to an application and to its document.
pub fn routes(config: &mut ServiceConfig) {
    config.service(run_doctor);
}

/// What the doctor found.
#[derive(Serialize, ToSchema)]
pub struct DoctorResult {
    /// Always true: the checks were made, whatever they found.
    #[schema(example = true)]
    success: bool,
    /// The worst of the findings: `ok`, `warning` or `broken`.
    #[schema(example = "ok")]
    status: &'static str,
    /// The findings, in the order of the checks.
    findings: Vec<FindingBody>,
    /// Always null.
    #[schema(required = true)]
    error: Option<ErrorBody>,
}

/// One finding.
#[derive(Serialize, ToSchema)]
pub struct FindingBody {
    /// What was checked.
    #[schema(value_type = String, example = "upstream.dns")]
    check: Cow<'static, str>,
    /// `ok`, `warning` or `broken`.
    #[schema(example = "broken")]
    status: &'static str,
    /// What was seen.
    #[schema(example = "`mirror.example.com` has no address")]
    seen: String,
    /// What to do; null where all is well.
    #[schema(required = true, example = "check the spelling of the host in UPSTREAM_URL")]
    advice: Option<String>,
}

/// Examine the service
///
/// Checks the upstream, the login, the store, and the service as Dify sees it, and says of each what
/// was seen and what to do. It asks no question and costs no tokens. It may take half a minute.
#[utoipa::path(
    tag = "operations",
    responses(
        (status = 200, description = "The findings", body = DoctorResult),
        (status = "4XX", description = "A failure with what to do about it", body = FailureBody),
    ),
    security(("bearer" = [])),
)]
#[get("/api/doctor")]
async fn run_doctor(
    request: HttpRequest,
    doctor: Data<Doctor>,
    peers: Data<Peers>,
    guard: Data<Guard>,
) -> Result<HttpResponse, Failure> {
    let examination = doctor.examine(peers.base_url(&request), guard.accepted(&request));
    let findings = examination.await.ok_or_else(|| {
        let error = Error::new(Kind::Overloaded, "an examination is under way already");
        Failure::new(&request, error.retry_after(Some(std::time::Duration::from_secs(10))))
    })?;
    let body = DoctorResult {
        success: true,
        status: Level::worst(&findings).name(),
        findings: findings.into_iter().map(FindingBody::from).collect(),
        error: None,
    };
    Ok(reply::json(StatusCode::OK, &body, LogFields::of("run_doctor")))
}

impl From<doctor::Finding> for FindingBody {
    fn from(finding: doctor::Finding) -> Self {
        FindingBody {
            check: finding.check,
            status: finding.level.name(),
            seen: finding.seen,
            advice: finding.advice,
        }
    }
}
