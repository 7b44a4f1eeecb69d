//! The models, as OpenAI lists them.
//!
//! Source: <https://platform.openai.com/docs/api-reference/models>.

use actix_web::web::{Data, Path, ReqData};
use actix_web::{HttpMessage, HttpRequest, HttpResponse, get};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;

use super::failure::{self, OpenAiFailure};
use crate::domain::chat::Model;
use crate::gateway::Gateway;
use crate::http::auth::Caller;
use crate::http::log_fields::{LogFields, RequestId};
use crate::http::reply::Prepared;

/// Adds the operations to an application and to its document.
pub fn routes(config: &mut ServiceConfig) {
    config.service(openai_list_models).service(openai_get_model);
}

/// A model, as OpenAI lists it.
#[derive(Serialize, ToSchema)]
pub struct OpenAiModel {
    /// Its name.
    #[schema(example = "gpt-4o")]
    id: String,
    /// Always `model`.
    #[schema(example = "model")]
    object: &'static str,
    /// When it was made, in seconds since 1970; 0, since the upstream does not say.
    #[schema(example = 0)]
    created: u64,
    /// Who runs it, as far as the upstream says.
    #[schema(example = "upstream")]
    owned_by: String,
}

impl From<Model> for OpenAiModel {
    fn from(model: Model) -> Self {
        OpenAiModel { id: model.id, object: "model", created: 0, owned_by: model.owned_by }
    }
}

/// The list of models, as OpenAI gives it.
#[derive(Serialize, ToSchema)]
pub struct OpenAiModels {
    /// Always `list`.
    #[schema(example = "list")]
    object: &'static str,
    /// The models.
    data: Vec<OpenAiModel>,
}

/// List the models
///
/// The same models as list_models, in OpenAI's form.
#[utoipa::path(
    tag = "openai",
    responses(
        (status = 200, description = "The models", body = OpenAiModels),
        (status = "4XX", description = "A failure with what to do about it", body = OpenAiFailure),
        (status = "5XX", description = "A failure with what to do about it", body = OpenAiFailure),
    ),
    security(("bearer" = [])),
)]
#[get("/v1/models")]
async fn openai_list_models(
    request: HttpRequest,
    caller: ReqData<Caller>,
    gateway: Data<Gateway>,
) -> HttpResponse {
    let log_fields = LogFields::of("openai_list_models");
    match gateway.models_of(&caller.owner).await {
        Ok(models) => {
            let data = models.models.into_iter().map(OpenAiModel::from).collect();
            plain(&OpenAiModels { object: "list", data }, log_fields)
        }
        Err(error) => failure::prepared(&error, &RequestId::of(request.extensions()), log_fields).response(),
    }
}

/// Look a model up
///
/// Tells whether a model can be named.
#[utoipa::path(
    tag = "openai",
    params(("id" = String, Path, description = "The model's name")),
    responses(
        (status = 200, description = "The model", body = OpenAiModel),
        (status = "4XX", description = "A failure with what to do about it", body = OpenAiFailure),
        (status = "5XX", description = "A failure with what to do about it", body = OpenAiFailure),
    ),
    security(("bearer" = [])),
)]
#[get("/v1/models/{id:.*}")]
async fn openai_get_model(
    request: HttpRequest,
    caller: ReqData<Caller>,
    gateway: Data<Gateway>,
    id: Path<String>,
) -> HttpResponse {
    let log_fields = LogFields::of("openai_get_model");
    match gateway.model(&caller.owner, &id).await {
        Ok(model) => plain(&OpenAiModel::from(model), log_fields),
        Err(error) => failure::prepared(&error, &RequestId::of(request.extensions()), log_fields).response(),
    }
}

fn plain(body: &impl Serialize, log_fields: LogFields) -> HttpResponse {
    Prepared::json(serde_json::to_vec(body).expect("a list of models is made of texts"), log_fields)
        .response()
}
