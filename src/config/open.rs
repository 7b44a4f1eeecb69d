//! A gateway without keys (`GATEWAY_AUTH=none`): it starts only where nobody can come but programs of
//! this machine. Which of their requests are answered, `api::origin` decides.

use url::Url;

use super::reader::Reader;
use super::settings::{GATEWAY_AUTH, PUBLIC_URL, TRUST_PROXY_HEADERS};
use super::{Listen, Public};
use crate::reachability;

impl Reader<'_> {
    /// Refuses whatever would let others in, all of it at once.
    pub fn closed_to_others(&mut self, listen: &Listen, public: &Public, tunnel: bool) {
        const DANGER: &str =
            "would let anyone use your upstream account, as GATEWAY_AUTH=none asks for no key";
        const KEYS: &str = "set GATEWAY_API_KEYS and remove GATEWAY_AUTH";
        if !listen.host.is_loopback() {
            self.unsafe_value(
                GATEWAY_AUTH.name,
                format!("`none` would let anyone who reaches {} use your upstream account", listen.host),
                &format!("{KEYS}, or set HOST=127.0.0.1"),
            );
        }
        if let Some(platform) = public.platform {
            let platform = platform.name();
            self.unsafe_value(
                GATEWAY_AUTH.name,
                format!(
                    "`none` would let anyone use your upstream account: {platform} publishes what runs there"
                ),
                KEYS,
            );
        }
        if let Some(url) = self.text(&PUBLIC_URL).and(public.url.as_deref())
            && !Url::parse(url)
                .is_ok_and(|url| url.host().is_some_and(|host| reachability::is_loopback(&host)))
        {
            self.unsafe_value(
                PUBLIC_URL.name,
                format!("`{url}` {DANGER}"),
                &format!("{KEYS}, or remove PUBLIC_URL"),
            );
        }
        if public.trust_proxy_headers {
            self.unsafe_value(
                TRUST_PROXY_HEADERS.name,
                format!("a proxy in front {DANGER}"),
                &format!("{KEYS}, or remove TRUST_PROXY_HEADERS"),
            );
        }
        if tunnel {
            self.unsafe_value(
                "--tunnel",
                format!("a tunnel {DANGER}"),
                &format!("{KEYS}, or start without --tunnel"),
            );
        }
    }
}
