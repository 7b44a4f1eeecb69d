//! What belongs to a request beside its answer: its id, and what the access log is told.

use std::cell::{Ref, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use actix_web::dev::{Extensions, ServiceRequest};
use actix_web::http::header::HeaderName;

use crate::domain::answer::Answer;
use crate::domain::error::{Error, Kind};
use crate::traffic::Failure;

/// The header of the id.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id of a request: the caller's own when it is a plain one, else random.
#[derive(Clone)]
pub struct RequestId(pub Arc<str>);

impl RequestId {
    /// The id of a request that came in.
    pub fn new(request: &ServiceRequest) -> Self {
        let given = request.headers().get(REQUEST_ID).and_then(|value| value.to_str().ok());
        let is_plain = |id: &&str| {
            (1..=64).contains(&id.len())
                && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        RequestId(
            given
                .filter(is_plain)
                .map_or_else(|| format!("{:016x}", crate::random::number()).into(), Arc::from),
        )
    }

    /// The id that the middleware gave the request with these extensions.
    pub fn of(extensions: impl std::ops::Deref<Target = Extensions>) -> String {
        extensions.get::<RequestId>().map_or_else(|| "-".into(), |id| id.0.to_string())
    }
}

/// What a handler tells the access log about a request.
#[derive(Debug, Clone, Default)]
pub struct LogFields {
    /// The operation's id.
    pub operation: Option<&'static str>,
    /// The model that answered.
    pub model: Option<String>,
    /// The status with which the upstream answered.
    pub upstream_status: Option<u16>,
    /// Whether a good answer is worth a line only to those who look for trouble: probes come often.
    pub is_probe: bool,
    /// The failure, in words that the log may have.
    pub error: Option<(Kind, Failure)>,
}

impl LogFields {
    /// The fields of an operation.
    pub fn of(operation: &'static str) -> Self {
        LogFields { operation: Some(operation), ..LogFields::default() }
    }

    /// Adds the model that answered, and the status with which the upstream did.
    pub fn answered(mut self, answer: &Answer) -> Self {
        self.model = answer.names.model.clone();
        self.upstream_status = answer.upstream_status;
        self
    }

    /// Adds the failure. Its detail stays out: an upstream may quote the prompt.
    pub fn failed(mut self, error: &Error) -> Self {
        self.upstream_status = error.upstream_status.or(self.upstream_status);
        self.error = Some((error.kind, error.into()));
        self
    }
}

/// The fields in a response's extensions. Whoever writes the body keeps a copy, since some of what the
/// log is told shows only at the answer's end.
#[derive(Clone, Default)]
pub struct SharedLogFields(Rc<RefCell<LogFields>>);

impl SharedLogFields {
    /// The fields as they are now.
    pub fn get(&self) -> LogFields {
        self.read().clone()
    }

    /// A look at them.
    pub fn read(&self) -> Ref<'_, LogFields> {
        self.0.borrow()
    }

    /// Replaces them.
    pub fn set(&self, log_fields: LogFields) {
        self.0.replace(log_fields);
    }
}

impl From<LogFields> for SharedLogFields {
    fn from(log_fields: LogFields) -> Self {
        SharedLogFields(Rc::new(RefCell::new(log_fields)))
    }
}
