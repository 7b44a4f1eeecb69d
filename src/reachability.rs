//! Whether a base URL can be reached from Dify in the cloud, by its looks alone. It is a word that
//! the page, the start-up text and the doctor share; nothing is asked of any network here.

use url::{Host, Url};

/// Why Dify in the cloud cannot reach a base URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreachable {
    /// It names this machine.
    Loopback,
    /// It names a machine in a private network.
    Private,
    /// It is not encrypted.
    Http,
    /// Its port is not 443.
    Port,
}

impl Unreachable {
    /// The word for the page's texts.
    pub fn name(self) -> &'static str {
        match self {
            Unreachable::Loopback => "loopback",
            Unreachable::Private => "private",
            Unreachable::Http => "http",
            Unreachable::Port => "port",
        }
    }

    /// Why a base URL cannot be reached; `None` when nothing speaks against it.
    pub fn of(base: &str) -> Option<Self> {
        let url = Url::parse(base).ok()?;
        let is_private = match url.host()? {
            Host::Domain(name) if name == "localhost" || name.ends_with(".localhost") => {
                return Some(Unreachable::Loopback);
            }
            Host::Domain(name) => {
                !name.contains('.')
                    || [".local", ".internal", ".lan", ".home.arpa"].iter().any(|end| name.ends_with(end))
            }
            Host::Ipv4(address) if address.is_loopback() || address.is_unspecified() => {
                return Some(Unreachable::Loopback);
            }
            Host::Ipv6(address) if address.is_loopback() || address.is_unspecified() => {
                return Some(Unreachable::Loopback);
            }
            // 100.64.0.0/10 is shared address space, RFC 6598.
            Host::Ipv4(address) => {
                address.is_private()
                    || address.is_link_local()
                    || (address.octets()[0] == 100 && address.octets()[1] & 0xc0 == 64)
            }
            Host::Ipv6(address) => address.is_unique_local() || address.is_unicast_link_local(),
        };
        if is_private {
            Some(Unreachable::Private)
        } else if url.scheme() == "http" {
            Some(Unreachable::Http)
        } else {
            url.port().map(|_| Unreachable::Port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_a_cloud_cannot_reach_are_told_apart() {
        for (url, expected) in [
            ("http://127.0.0.1:8080", Some(Unreachable::Loopback)),
            ("http://localhost:8080", Some(Unreachable::Loopback)),
            ("http://[::1]:8080", Some(Unreachable::Loopback)),
            ("http://192.168.1.5:8080", Some(Unreachable::Private)),
            ("https://mirror.local", Some(Unreachable::Private)),
            ("http://gateway:8080", Some(Unreachable::Private)),
            ("http://a.example.com", Some(Unreachable::Http)),
            ("https://a.example.com:8443", Some(Unreachable::Port)),
            ("https://a.example.com", None),
        ] {
            assert_eq!(Unreachable::of(url), expected, "{url}");
        }
    }
}
