//! Every other request under `/v1`, passed through to an upstream of the same protocol.

use std::pin::Pin;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::web::{Bytes, Data, ReqData};
use actix_web::{HttpMessage, HttpRequest, HttpResponse};
use futures_util::stream::{self, Stream, StreamExt};
use memchr::memmem;

use super::body::V1Body;
use super::events::Events;
use super::{failure, headers, needs, references, tokens};
use crate::api::audit;
use crate::domain::chat::Owner;
use crate::domain::error::{Error, Kind};
use crate::gateway::{Failed, Gateway, InFlight, Needs, RelayForm, RelayRequest, Relaying};
use crate::http::auth::Caller;
use crate::http::documents::Documents;
use crate::http::failure::Failure;
use crate::http::keep_alive::{self, EventStream, Heartbeat};
use crate::http::log_fields::{LogFields, RequestId, SharedLogFields};
use crate::http::reply::{self, Prepared};

/// The methods that are passed through.
const METHODS: [&str; 3] = ["GET", "POST", "DELETE"];

/// Passes a request through.
pub async fn relay(
    request: HttpRequest,
    caller: ReqData<Caller>,
    gateway: Data<Gateway>,
    heartbeat: Data<Heartbeat>,
    documents: Data<Documents>,
    body: V1Body,
) -> Result<HttpResponse, Failure> {
    let allowed = documents.methods(request.path());
    if !allowed.is_empty() {
        return Err(Failure::method(&request, allowed.join(", ")));
    }
    let method = request.method().as_str();
    if !METHODS.contains(&method) {
        return Err(Failure::method(&request, METHODS.join(", ")));
    }
    let admitted = admitted(&request, &caller, &gateway, body).await;
    let (needs, relayed) = admitted.map_err(|error| {
        let open = needs::methods_of(request.match_info().query("path"));
        match open.filter(|open| error.kind == Kind::NotAllowed && !open.contains(&method)) {
            Some(open) => Failure::method(&request, open.join(", ")),
            None => Failure::new(&request, error),
        }
    })?;
    let request_id = RequestId::of(request.extensions());
    let Relaying { upstream, headers: passed, form, body } = match gateway
        .relay(caller.owner.clone(), relayed, tokens::of_prompt)
        .await
    {
        Ok(answer) => answer,
        Err(error) => return Ok(failure::prepared(&error, &request_id, LogFields::of("relay")).response()),
    };
    let status = body.upstream_status();
    let log_fields = LogFields { upstream_status: Some(status), ..LogFields::of("relay") };
    let account: Vec<_> = headers::told(body.upstream_headers()).collect();
    let mut response = match form {
        RelayForm::Whole => {
            let prepared = whole(body, log_fields, &request_id).await;
            if needs.makes_object {
                gateway.remember_objects(&caller.owner, references::ids_of(&prepared.body)).await;
            }
            prepared.response()
        }
        RelayForm::Events => {
            let (gateway, owner) = (gateway.clone(), caller.owner.clone());
            let begin = async move {
                let events = Events::blocks(body).begun().await;
                let events = events.map_err(|Failed { error, .. }| {
                    failure::prepared(&error, &request_id, log_fields.clone())
                })?;
                let events: Pin<Box<dyn Stream<Item = _>>> = match needs.makes_object {
                    true => Box::pin(remembered(events, gateway, owner)),
                    false => Box::pin(events),
                };
                Ok(EventStream { events, log_fields, headers: Vec::new() })
            };
            keep_alive::stream(&request, heartbeat.every, Box::pin(begin)).await
        }
        RelayForm::Bytes => bytes(body, log_fields),
    };
    if response.status() == StatusCode::OK {
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
        let name = reply::upstream_header(upstream.as_deref().unwrap_or_default());
        dress(response.headers_mut(), account.into_iter().chain(name), passed, form);
    }
    Ok(response)
}

/// The request as it goes on, and what it needs, where its caller may have that.
async fn admitted(
    request: &HttpRequest,
    caller: &Caller,
    gateway: &Gateway,
    body: V1Body,
) -> Result<(Needs, RelayRequest), Error> {
    let (body, is_form) = body.json_or_form(request)?;
    let length = body.len();
    let relayed = asked(request, caller, body)?;
    let read = move || {
        let RelayRequest { method, path, body, .. } = &relayed;
        let (needs, model) = needs::of_request(method, path, body, is_form)?;
        Ok((needs, RelayRequest { model, ..relayed }))
    };
    let (needs, relayed) = crate::request::apart(length, read).await.and_then(|read| read)?;
    gateway.allow(&caller.owner, &needs).await?;
    if caller.is_owner && relayed.method != "GET" && !needs.paths.is_empty() {
        let target = format!("{} {}", relayed.method, relayed.path.join("/"));
        audit::note(request, gateway, "account.change", &target).await;
    }
    Ok((needs, relayed))
}

/// The events of an answer that the upstream keeps; whoever made it and its parts is remembered before its caller
/// knows their ids.
fn remembered(
    events: Events,
    gateway: Data<Gateway>,
    owner: Owner,
) -> impl Stream<Item = Result<Bytes, Error>> {
    events.enumerate().then(move |(place, event)| {
        let (gateway, owner) = (gateway.clone(), owner.clone());
        async move {
            let tells = |event: &&Bytes| place == 0 || memmem::find(event, b"output_item").is_some();
            if let Some(event) = event.as_ref().ok().filter(tells) {
                gateway.remember_objects(&owner, references::ids_of(event)).await;
            }
            event
        }
    })
}

/// Sets the headers of an answer: those of ours, and over them those that the upstream's body has.
fn dress(
    headers: &mut HeaderMap,
    ours: impl Iterator<Item = (HeaderName, HeaderValue)>,
    passed: Vec<(&'static str, String)>,
    form: RelayForm,
) {
    let passed = passed.into_iter().filter_map(|(name, value)| {
        Some((HeaderName::from_static(name), HeaderValue::from_str(&value).ok()?))
    });
    for (name, value) in ours.chain(passed) {
        headers.insert(name, value);
    }
    // Of several types in one header a browser takes the last.
    let media = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media = media.split(',').next().unwrap_or_default().trim().to_string();
    if form == RelayForm::Bytes && !is_shown(&media) {
        let given = headers.get(header::CONTENT_DISPOSITION).and_then(|value| value.to_str().ok());
        let file = given.and_then(|given| given.split_once(';')).map(|(_, file)| file.trim());
        let download = file.map_or("attachment".into(), |file| format!("attachment; {file}"));
        let download = HeaderValue::try_from(download).unwrap_or(HeaderValue::from_static("attachment"));
        headers.insert(header::CONTENT_DISPOSITION, download);
    }
    if let Ok(media) = HeaderValue::try_from(media) {
        headers.insert(header::CONTENT_TYPE, media);
    }
    let policy = HeaderValue::from_static("default-src 'none'; sandbox");
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
}

/// Whether a browser shows what an upstream sent as this type, and never runs it, which would then speak in this
/// service's name. All else is a download.
fn is_shown(media: &str) -> bool {
    const SHOWN: [&str; 6] = ["audio/", "video/", "image/png", "image/jpeg", "image/webp", "image/gif"];
    let media = media.to_ascii_lowercase();
    SHOWN.iter().any(|shown| media.starts_with(shown))
}

/// JSON, all of it.
async fn whole(mut body: InFlight, log_fields: LogFields, request_id: &str) -> Prepared {
    let mut wire = Bytes::new();
    while let Some(piece) = body.next().await {
        match piece {
            Ok(piece) => wire = piece.wire.unwrap_or(wire),
            Err(Failed { error, .. }) => return failure::prepared(&error, request_id, log_fields),
        }
    }
    Prepared::json(wire, log_fields)
}

/// The request as it goes on: its path, query, body, and the two headers that tell of the body.
fn asked(request: &HttpRequest, caller: &Caller, body: Bytes) -> Result<RelayRequest, Error> {
    let missing = || Error::new(Kind::NotFound, "there is nothing at this path");
    let path: Vec<String> = request.match_info().query("path").split('/').map(String::from).collect();
    // What follows a `;`, and blanks around, some servers leave out before they read the path.
    let is_plain = |segment: &String| {
        let name = segment.split(';').next().unwrap_or_default().trim();
        !matches!(name, "" | "." | "..")
            && !segment.contains(['\\', '%', '?', '#'])
            && !segment.contains(char::is_control)
    };
    if !path.iter().all(is_plain) {
        return Err(missing());
    }
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    let pairs = url::form_urlencoded::parse(request.query_string().as_bytes());
    let query = query.extend_pairs(pairs.filter(|(name, _)| name != "key")).finish();
    let header = |name: header::HeaderName| request.headers().get(name)?.to_str().ok().map(String::from);
    Ok(RelayRequest {
        method: request.method().to_string(),
        path,
        query: Some(query).filter(|query| !query.is_empty()),
        accept: header(header::ACCEPT),
        media_type: header(header::CONTENT_TYPE),
        headers: headers::asked(request, &caller.owner),
        body,
        model: None,
    })
}

/// Bytes as they come. A failure can only break the connection off, since the head is gone.
fn bytes(body: InFlight, log_fields: LogFields) -> HttpResponse {
    let shared = SharedLogFields::from(log_fields);
    let told = shared.clone();
    let body = stream::unfold(Some((Events::blocks(body), told)), |state| async move {
        let (mut pieces, told) = state?;
        match pieces.next().await? {
            Ok(bytes) => Some((Ok(bytes), Some((pieces, told)))),
            Err(error) => {
                told.set(told.get().failed(&error));
                // actix loses what was ready just before an error: give it a turn to send that.
                tokio::task::yield_now().await;
                Some((Err(error), None))
            }
        }
    });
    let mut response = HttpResponse::Ok().streaming(body);
    response.extensions_mut().insert(shared);
    response
}
