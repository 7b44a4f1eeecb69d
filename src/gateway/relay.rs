//! Any other request of the OpenAI protocol, passed on to an upstream that speaks it.

use std::pin::pin;
use std::sync::Arc;

use super::Gateway;
use super::admission::Permit;
use super::callers::model_for;
use super::in_flight::{InFlight, Terms};
use super::usage::{Estimate, Meter};
use crate::domain::chat::Owner;
use crate::domain::error::{Error, Kind};
use crate::provider::relay::{Form, Relayed, Request};
use crate::request;

/// The answer to such a request.
pub struct Relaying {
    /// The name of the upstream that answers, where there are several.
    pub upstream: Option<String>,
    /// The headers that go on, beside those of any answer.
    pub headers: Vec<(&'static str, String)>,
    /// How the body comes.
    pub form: Form,
    /// The body.
    pub body: InFlight,
}

impl Gateway {
    /// Passes a request on. `tokens` estimates those in its body.
    ///
    /// # Errors
    /// Why there will be no answer.
    pub async fn relay(
        &self,
        owner: Owner,
        request: Request,
        tokens: fn(&[u8]) -> u64,
    ) -> Result<Relaying, Error> {
        let limits = self.shared.callers.limits(&owner);
        let model = request.model.clone();
        if let Some(call) = request::call() {
            call.asks("relay", model.as_deref());
        }
        // What else is done with the answers and files that the upstream keeps is no question.
        let limits = limits.as_deref().filter(|_| request.method == "POST");
        if let Some((limits, models)) = limits.and_then(|limits| Some((limits, limits.models.as_ref()?))) {
            let unnamed = || {
                let what = "this key asks certain models, and the request names none";
                Error::new(Kind::NotAllowed, what)
                    .hinted(format!("name one of these in `model`: {}", models.join(", ")))
            };
            model_for(Some(limits), Some(model.clone().ok_or_else(unnamed)?), None)?;
        }
        let permit = self.shared.permit(&owner, "relay", limits).await?;
        permit.end().or(pin!(self.begin_relay(permit, owner, model, request, tokens))).await?
    }

    async fn begin_relay(
        &self,
        permit: Permit,
        owner: Owner,
        model: Option<String>,
        request: Request,
        tokens: fn(&[u8]) -> u64,
    ) -> Result<Relaying, Error> {
        let mut candidates = self.candidates(model.as_deref(), None).await;
        // Where only others offer the model, its own upstream says best what it can do.
        if candidates.iter().any(|member| member.passthrough().is_ok()) {
            candidates.retain(|member| member.passthrough().is_ok());
        } else if let Some(member) = self.members.iter().find(|member| member.passthrough().is_ok()) {
            candidates = vec![member];
        }
        let relayed =
            self.ask_in_turn(candidates, async |member| member.passthrough()?.relay(&request).await);
        let (member, Relayed { headers, form, deltas }) = relayed.await?;
        let asked = match request.method.as_str() {
            "POST" => Estimate::Request(request.body, tokens),
            _ => Estimate::Nothing,
        };
        let meter = Meter::new(Arc::clone(&self.shared.usage), owner, model.as_deref(), asked);
        let body = InFlight::new(deltas, permit, meter, Arc::clone(&self.shared.store), Terms::default());
        Ok(Relaying { upstream: self.upstream_label(member), headers, form, body })
    }
}
