//! Whose pages may speak MCP, and under which names.
//!
//! A page can make a browser call a service on the browser's own machine or network, also by a name
//! of its own that leads there (DNS rebinding). Such a call says where it comes from in `Origin`
//! and which name was called in `Host`. Source: the MCP specification, transports, security warning.

use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::http::header::{self, HeaderName};
use actix_web::web::Data;
use actix_web::{FromRequest, HttpRequest};
use url::{Host, Url};

use crate::domain::error::{Error, Kind};
use crate::http::auth::Guard;
use crate::http::base_url::Peers;
use crate::http::failure::Failure;

/// That a request comes from no foreign page and by no foreign name.
pub struct Admitted;

impl FromRequest for Admitted {
    type Error = Failure;
    type Future = Ready<Result<Self, Failure>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(check(request).map(|()| Admitted).map_err(|error| Failure::new(request, error)))
    }
}

fn check(request: &HttpRequest) -> Result<(), Error> {
    let peers = request.app_data::<Data<Peers>>().expect("the application holds the peers' rule");
    let guard = request.app_data::<Data<Guard>>().expect("the application holds the guard");
    let public = peers.public();
    let listed = || {
        public.url.iter().chain(public.cors_origins.iter().flatten()).filter_map(|url| Url::parse(url).ok())
    };

    if let Some(origin) = header(request, header::ORIGIN) {
        let own = Url::parse(&peers.base_url(request)).ok();
        if !listed().chain(own).any(|url| url.origin().ascii_serialization() == origin) {
            return Err(Error::new(Kind::OriginNotAllowed, "a page of another origin calls"));
        }
    }
    // Where a key is needed, a trick with names gains nothing; but one's own name is known then.
    let bound_to_names = public.url.is_some() || !guard.needs_key();
    if bound_to_names && let Some(host) = header(request, header::HOST) {
        let called = Url::parse(&format!("http://{host}/")).ok();
        let host = called.as_ref().and_then(Url::host);
        if !host.is_some_and(|host| is_private(&host) || listed().any(|url| url.host() == Some(host.clone())))
        {
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

fn header(request: &HttpRequest, name: HeaderName) -> Option<&str> {
    // What is no text is no origin and no host of ours.
    request.headers().get(name).map(|value| value.to_str().unwrap_or_default())
}
