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
            host if is_loopback(&host) => return Some(Unreachable::Loopback),
            Host::Domain(name) => {
                !name.contains('.')
                    || [".local", ".internal", ".lan", ".home.arpa"].iter().any(|end| name.ends_with(end))
            }
            Host::Ipv4(address) if address.is_unspecified() => return Some(Unreachable::Loopback),
            Host::Ipv6(address) if address.is_unspecified() => return Some(Unreachable::Loopback),
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

/// Whether a host leads to the very machine that calls it, whoever that is: RFC 6761, section 6.3.
pub fn is_loopback(host: &Host<impl AsRef<str>>) -> bool {
    match host {
        Host::Domain(name) => {
            let name = name.as_ref();
            name == "localhost" || name.ends_with(".localhost")
        }
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_ones_own_machine_are_known() {
        for (host, expected) in [
            ("localhost", true),
            ("a.LOCALHOST", true),
            ("127.9.9.9", true),
            ("[::1]", true),
            ("localhost.evil.example", false),
            ("evillocalhost", false),
            ("127.0.0.1.evil.example", false),
            ("0.0.0.0", false),
            ("[::ffff:10.0.0.1]", false),
        ] {
            assert_eq!(is_loopback(&Host::parse(host).expect("a host")), expected, "{host}");
        }
    }

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
