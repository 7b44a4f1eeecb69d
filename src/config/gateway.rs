//! Who may call: the gateway keys, or nobody but programs of this machine.

use secrecy::{ExposeSecret, SecretString};

use super::reader::Reader;
use super::settings::{ADMIN_KEY, GATEWAY_API_KEYS, GATEWAY_AUTH};
use crate::domain::keys::{self, GatewayKey};

/// Who may call.
#[derive(Clone)]
pub struct Gateway {
    /// `GATEWAY_API_KEYS`; when empty and `auth` is set, one is generated at the start.
    pub keys: Vec<GatewayKey>,
    /// `ADMIN_KEY`: the owner's key; where it is not set, the store may have one.
    pub admin: Option<GatewayKey>,
    /// The same as it was written, for commands that ask the running service.
    pub admin_text: Option<SecretString>,
    /// Whether a key is needed: `GATEWAY_AUTH`.
    pub auth: bool,
}

impl Reader<'_> {
    pub fn gateway(&mut self) -> Gateway {
        let admin_text = self.admin_key();
        let admin = admin_text.as_ref().map(|key| GatewayKey::owners(key.expose_secret()));
        Gateway { auth: self.read(&GATEWAY_AUTH), keys: self.gateway_keys(), admin, admin_text }
    }

    fn admin_key(&mut self) -> Option<SecretString> {
        let text = self.read(&ADMIN_KEY)?;
        let key = text.trim();
        match keys::weakness(key) {
            None => Some(key.into()),
            Some(weakness) => {
                self.problem(ADMIN_KEY.name, format!("the key {weakness}"), advice());
                None
            }
        }
    }

    fn gateway_keys(&mut self) -> Vec<GatewayKey> {
        let text = self.read(&GATEWAY_API_KEYS).unwrap_or_default();
        keys::parse_list(&text).unwrap_or_else(|problems| {
            let advice = advice();
            for problem in problems {
                self.problem(GATEWAY_API_KEYS.name, problem, &advice);
            }
            Vec::new()
        })
    }
}

fn advice() -> String {
    match keys::generate() {
        Ok(key) => format!("use a long random key, such as this new one: {key}"),
        Err(_) => "use a long random key".to_string(),
    }
}
