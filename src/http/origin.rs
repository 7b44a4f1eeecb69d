//! Whose pages may call, and by which names.
//!
//! A page can make a browser call a service on the browser's own machine or network, also by a name
//! of its own that leads there (DNS rebinding). Such a call says where it comes from in `Origin`
//! and which name was called in `Host`. Without gateway keys this is all that tells a page from a
//! program of this machine, so it is asked of every request. Where keys are in force, a page has none
//! to send, and it is asked on `/mcp` alone, since MCP's specification wants that (transports,
//! security warning).

use std::future::{Ready, ready};

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderName};
use actix_web::middleware::Next;
use actix_web::web::Data;
use actix_web::{FromRequest, HttpRequest, ResponseError};
use url::{Host, Url};

use super::auth::Guard;
use super::base_url::{Peers, url_of};
use super::failure::Failure;
use crate::config::Public;
use crate::domain::error::{Error, Kind};
use crate::reachability;

/// Where a browser says what its page is to the service: <https://www.w3.org/TR/fetch-metadata/>.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Where a proxy says which name was called.
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The middleware of a service without keys: only this machine's own names and pages are answered.
///
/// # Errors
/// Those of the handlers.
pub async fn check<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, actix_web::Error> {
    match without_keys(request.request()) {
        Ok(()) => Ok(next.call(request).await?.map_into_left_body()),
        Err(error) => {
            let response = Failure::new(request.request(), error).error_response();
            Ok(request.into_response(response).map_into_right_body())
        }
    }
}

fn guard(request: &HttpRequest) -> &Guard {
    request.app_data::<Data<Guard>>().expect("the application holds the guard")
}

fn without_keys(request: &HttpRequest) -> Result<(), Error> {
    let peers = peers(request);
    let public = peers.public();
    let target = request.uri().authority().map(|authority| authority.as_str());
    let mut names = values(request, header::HOST)
        .chain(values(request, X_FORWARDED_HOST))
        .flat_map(|names| names.split(','))
        .chain(target);
    let has_host = request.headers().contains_key(header::HOST);
    if !has_host || !names.all(|name| is_ours(name.trim(), public)) {
        return Err(Error::new(
            Kind::OriginNotAllowed,
            "the service is called by a name that is not its own",
        )
        .hinted(
            "call it by `localhost` or `127.0.0.1`, or add the host name that is called to `HOSTS_ALLOWED`",
        ));
    }
    let mut origins = values(request, header::ORIGIN).peekable();
    // A page can fetch without telling its origin, as for an image; then the browser tells this.
    let is_foreign = match origins.peek() {
        Some(_) => !origins.all(|origin| is_own(origin, peers.port()) || is_listed(origin, public)),
        None => {
            let sites = ["cross-site", "same-site"];
            !guard(request).opens(request)
                && values(request, SEC_FETCH_SITE).any(|site| sites.contains(&site))
        }
    };
    if is_foreign {
        return Err(Error::new(Kind::OriginNotAllowed, "a page of another origin calls").hinted(
            "add the page's origin to `CORS_ALLOWED_ORIGINS`, where `*` does not count as long as `GATEWAY_AUTH` is `none`, or set `GATEWAY_API_KEYS` and remove `GATEWAY_AUTH`",
        ));
    }
    Ok(())
}

/// Whether no other machine can be meant by the name that is called, nor a page have chosen it.
fn is_ours(name: &str, public: &Public) -> bool {
    url_of("http", name).as_ref().and_then(Url::host).is_some_and(|host| {
        reachability::is_loopback(&host) || public.hosts_allowed.iter().any(|allowed| *allowed == host)
    })
}

/// Whether an origin is that of this service's own pages.
fn is_own(origin: &str, port: u16) -> bool {
    Url::parse(origin).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.origin().ascii_serialization() == origin
            && url.port_or_known_default() == Some(port)
            && url.host().is_some_and(|host| reachability::is_loopback(&host))
    })
}

/// Whether an origin is that of `PUBLIC_URL` or one of `CORS_ALLOWED_ORIGINS`.
fn is_listed(origin: &str, public: &Public) -> bool {
    listed(public).any(|url| url.origin().ascii_serialization() == origin)
}

fn listed(public: &Public) -> impl Iterator<Item = Url> {
    public.url.iter().chain(public.cors_origins.iter().flatten()).filter_map(|url| Url::parse(url).ok())
}

/// That a message of MCP comes from no foreign page and by no foreign name.
pub struct Admitted;

impl FromRequest for Admitted {
    type Error = Failure;
    type Future = Ready<Result<Self, Failure>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(with_keys(request).map(|()| Admitted).map_err(|error| Failure::new(request, error)))
    }
}

fn with_keys(request: &HttpRequest) -> Result<(), Error> {
    let guard = guard(request);
    if !guard.needs_key() {
        // More was asked of it already.
        return Ok(());
    }
    let peers = peers(request);
    let public = peers.public();
    if let Some(origin) = values(request, header::ORIGIN).next() {
        let own = Url::parse(&peers.base_url(request)).ok();
        let is_own = own.is_some_and(|url| url.origin().ascii_serialization() == origin);
        if !is_own && !is_listed(origin, public) {
            return Err(Error::new(Kind::OriginNotAllowed, "a page of another origin calls"));
        }
    }
    // Where a key is needed, a trick with names gains nothing; but one's own name is known then.
    if public.url.is_some()
        && let Some(name) = values(request, header::HOST).next()
    {
        let called = url_of("http", name);
        let host = called.as_ref().and_then(Url::host);
        let is_known = |host: Host<&str>| {
            is_private(&host)
                || is_ours(name, public)
                || listed(public).any(|url| url.host() == Some(host.clone()))
        };
        if !host.is_some_and(is_known) {
            return Err(Error::new(
                Kind::OriginNotAllowed,
                "the service is called by a name that is not its own",
            ));
        }
    }
    Ok(())
}

/// Whether no stranger can make this host lead here: an address, or a name outside the public DNS.
fn is_private(host: &Host<&str>) -> bool {
    match host {
        Host::Ipv4(_) | Host::Ipv6(_) => true,
        Host::Domain(name) => {
            !name.contains('.')
                || [".localhost", ".local", ".internal"].iter().any(|zone| name.ends_with(zone))
        }
    }
}

fn peers(request: &HttpRequest) -> &Peers {
    request.app_data::<Data<Peers>>().expect("the application holds the peers' rule")
}

/// The values of a header.
fn values(request: &HttpRequest, name: HeaderName) -> impl Iterator<Item = &str> {
    // What is no text is no origin and no host of ours.
    request.headers().get_all(name).map(|value| value.to_str().unwrap_or_default())
}
