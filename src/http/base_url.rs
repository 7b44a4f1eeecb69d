//! How the service is reached from outside: its base URL for the documents, and the address that
//! a request comes from. Headers are believed from a proxy that is trusted, and from no one else.

use std::net::{IpAddr, SocketAddr};

use actix_web::HttpRequest;
use actix_web::http::header;
use url::Url;

use crate::config::Public;

/// The address of ours that a connection came in at.
#[derive(Debug, Clone, Copy)]
pub struct LocalAddress(pub SocketAddr);

/// The rule for believing what peers say about themselves and about us.
#[derive(Clone)]
pub struct Peers {
    public: Public,
    bound: SocketAddr,
}

impl Peers {
    /// The rule of this configuration, for a service bound at `bound`.
    pub fn new(public: Public, bound: SocketAddr) -> Self {
        Peers { public, bound }
    }

    /// What is configured about it.
    pub fn public(&self) -> &Public {
        &self.public
    }

    /// The port that the service listens on.
    pub fn port(&self) -> u16 {
        self.bound.port()
    }

    /// This service's base URL as the sender of `request` sees it, without a trailing slash.
    ///
    /// `PUBLIC_URL` and the platform come first. Else a proxy on this machine, such as a tunnel, or
    /// one that `TRUST_PROXY_HEADERS` vouches for says it; else it is the address at which the
    /// connection came in. A Host header from anywhere else would let strangers write our document.
    pub fn base_url(&self, request: &HttpRequest) -> String {
        if let Some(url) = &self.public.url {
            return url.clone();
        }
        if self.believes(request)
            && let Some(url) = told(request)
        {
            return url;
        }
        let local = request.conn_data::<LocalAddress>().map_or(self.bound, |local| local.0);
        format!("http://{local}")
    }

    /// The base URL for the start-up text.
    pub fn own_url(&self) -> String {
        match &self.public.url {
            Some(url) => url.clone(),
            None if self.bound.ip().is_unspecified() => format!("http://127.0.0.1:{}", self.bound.port()),
            None => format!("http://{}", self.bound),
        }
    }

    /// The address that a request comes from: the peer's, or what its trusted proxy says.
    pub fn address(&self, request: &HttpRequest) -> Option<IpAddr> {
        let peer = request.peer_addr()?.ip();
        let behind_proxy = self.believes(request) || self.public.platform.is_some();
        // The nearest proxy appends to the list; what stands before is the sender's own word.
        let told = || last(request, "x-forwarded-for")?.parse().ok();
        behind_proxy.then(told).flatten().or(Some(peer))
    }

    fn believes(&self, request: &HttpRequest) -> bool {
        self.public.trust_proxy_headers
            || request.peer_addr().is_some_and(|peer| peer.ip().to_canonical().is_loopback())
    }
}

/// The base URL that the request's headers tell.
fn told(request: &HttpRequest) -> Option<String> {
    let host = last(request, "x-forwarded-host").or_else(|| last(request, header::HOST.as_str()))?;
    let scheme =
        last(request, "x-forwarded-proto").map(str::to_ascii_lowercase).unwrap_or_else(|| "http".into());
    if !matches!(scheme.as_str(), "http" | "https") {
        return None;
    }
    url_of(&scheme, host).map(|url| url.origin().ascii_serialization())
}

/// The URL of an authority, such as a `Host` header's value, that is a host, perhaps a port, and no more.
pub fn url_of(scheme: &str, authority: &str) -> Option<Url> {
    let url = Url::parse(&format!("{scheme}://{authority}/")).ok()?;
    let is_bare = url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    is_bare.then_some(url)
}

fn last<'a>(request: &'a HttpRequest, name: &str) -> Option<&'a str> {
    let value = request.headers().get_all(name).last()?.to_str().ok()?;
    value.rsplit(',').next().map(str::trim).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    fn base(trust: bool, peer: &str, headers: &[(&str, &str)]) -> String {
        let public = Public {
            url: None,
            trust_proxy_headers: trust,
            platform: None,
            cors_origins: None,
            hosts_allowed: Vec::new(),
            long_answers: false,
            metrics: false,
        };
        let peers = Peers::new(public, "0.0.0.0:8080".parse().expect("address"));
        let mut request = TestRequest::default().peer_addr(peer.parse().expect("address"));
        for header in headers {
            request = request.append_header(*header);
        }
        peers.base_url(&request.to_http_request())
    }

    #[test]
    fn headers_are_believed_from_loopback_and_trusted_peers_alone() {
        let tunnel = [
            ("host", "127.0.0.1:8080"),
            ("x-forwarded-host", "a.example.com"),
            ("x-forwarded-proto", "https"),
        ];
        assert_eq!(base(false, "127.0.0.1:1", &tunnel), "https://a.example.com");
        assert_eq!(base(false, "127.0.0.1:1", &[("host", "localhost:8080")]), "http://localhost:8080");
        assert_eq!(base(false, "203.0.113.9:1", &tunnel), "http://0.0.0.0:8080");
        assert_eq!(base(true, "203.0.113.9:1", &tunnel), "https://a.example.com");
    }

    #[test]
    fn headers_that_are_no_host_are_ignored() {
        for host in ["a.example.com/evil", "user@a.example.com", "a b", "a.example.com?x", ""] {
            assert_eq!(
                base(true, "203.0.113.9:1", &[("x-forwarded-host", host)]),
                "http://0.0.0.0:8080",
                "{host}"
            );
        }
        assert_eq!(
            base(true, "203.0.113.9:1", &[("host", "a.example.com"), ("x-forwarded-proto", "javascript")]),
            "http://0.0.0.0:8080"
        );
    }
}
