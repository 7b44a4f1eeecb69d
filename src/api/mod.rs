//! The faces: each translates between a wire format and the use cases, and decides nothing.

pub mod answers;
pub mod conversations;
pub mod docs;
pub mod doctor;
pub mod home;
pub mod live;
pub mod mcp;
pub mod metrics;
pub mod openai;
pub mod session;
pub mod tools;
pub mod usage;

use std::time::Duration;

use actix_web::web::{self, Data};
use actix_web::{HttpRequest, HttpResponse};
use utoipa_actix_web::service_config::ServiceConfig;

use crate::domain::error::{Error, Kind};
use crate::http::failure::Failure;
use docs::Documents;

/// Every operation, served and documented.
pub fn routes(config: &mut ServiceConfig) {
    tools::routes(config);
    // Before those that are found by a pattern: most requests come here.
    openai::routes(config);
    answers::routes(config);
    mcp::routes(config);
    conversations::routes(config);
    usage::routes(config);
    session::routes(config);
    doctor::routes(config);
    home::routes(config);
    live::routes(config);
    metrics::routes(config);
    docs::routes(config);
}

/// What is served beside the operations: the files of the page, Swagger UI, and the answer where
/// nothing else does.
pub fn pages(config: &mut web::ServiceConfig) {
    openai::pages(config);
    docs::pages(config);
    home::assets(config);
    config.default_service(web::to(not_found));
}

/// The documents of [`routes`]; with `long_answers`, importers learn of answers to come back for.
pub fn documents(long_answers: bool) -> Documents {
    if long_answers {
        let tools = |config: &mut ServiceConfig| {
            tools::routes(config);
            answers::routes(config);
        };
        Documents::new(tools, routes, &["upstream"])
    } else {
        Documents::new(tools::routes, routes, &["upstream", "wait_seconds"])
    }
}

/// 405 where another method would be answered, else 404.
async fn not_found(request: HttpRequest, documents: Data<Documents>) -> Result<HttpResponse, Failure> {
    let allowed = documents.methods(request.path());
    Err(if allowed.is_empty() {
        Failure::new(&request, Error::new(Kind::NotFound, "there is nothing at this path"))
    } else {
        Failure::method(&request, allowed.join(", "))
    })
}

/// `Retry-After` in whole seconds, rounded up: RFC 9110, section 10.2.3.
pub fn retry_after_seconds(after: Duration) -> u64 {
    after.as_secs() + u64::from(after.subsec_nanos() > 0)
}
