//! Sealing what the store keeps of the upstream's login, so that a copy of the database alone does
//! not give it away; and whole files that leave this machine.
//!
//! ChaCha20-Poly1305 (RFC 8439) under the SHA-256 of `SECRET_KEY`, which is a long random text and
//! no password, with a random nonce for each text.

mod file;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
pub use file::Pieces;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Prk, Salt};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use crate::domain::error::{Error, Kind};

const SEALED: &str = "chacha20poly1305:";
const PLAIN: &str = "plain:";

/// Seals and opens texts and files; without a key it passes them through, texts marked as plain.
pub struct Vault(Option<Keys>);

struct Keys {
    texts: LessSafeKey,
    /// What each file's key is made of.
    files: Prk,
}

impl Vault {
    /// A vault under `SECRET_KEY`.
    pub fn new(secret: Option<&SecretString>) -> Self {
        Vault(secret.map(|secret| {
            let key = Sha256::digest(secret.expose_secret());
            let files = Salt::new(HKDF_SHA256, b"mirrorgate files").extract(&key);
            let key = UnboundKey::new(&CHACHA20_POLY1305, &key).expect("SHA-256 gives the 32 bytes of a key");
            Keys { texts: LessSafeKey::new(key), files }
        }))
    }

    /// Seals a text.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn seal(&self, text: &str) -> Result<String, Error> {
        let Some(Keys { texts: key, .. }) = &self.0 else { return Ok(format!("{PLAIN}{text}")) };
        let nonce: [u8; NONCE_LEN] = crate::random::bytes()?;
        let mut bytes = text.as_bytes().to_vec();
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut bytes)
            .map_err(|_| Error::new(Kind::Internal, "the session cannot be sealed"))?;
        Ok(format!("{SEALED}{}", STANDARD.encode([&nonce[..], &bytes].concat())))
    }

    /// Opens a sealed text; `None` when it was sealed under another key, or is damaged.
    pub fn open(&self, sealed: &str) -> Option<String> {
        if let Some(text) = sealed.strip_prefix(PLAIN) {
            return Some(text.to_string());
        }
        let bytes = STANDARD.decode(sealed.strip_prefix(SEALED)?).ok()?;
        let (nonce, sealed) = bytes.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut sealed = sealed.to_vec();
        let text = self.0.as_ref()?.texts.open_in_place(nonce, Aad::empty(), &mut sealed).ok()?;
        String::from_utf8(text.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_text_opens_under_its_own_key_alone() {
        let vault = Vault::new(Some(&"a long and random secret".into()));
        let sealed = vault.seal("sso=secret").expect("sealed");
        assert!(!sealed.contains("sso") && sealed != vault.seal("sso=secret").expect("sealed"));
        assert_eq!(vault.open(&sealed).as_deref(), Some("sso=secret"));
        assert_eq!(Vault::new(Some(&"another".into())).open(&sealed), None);
        assert_eq!(Vault::new(None).open(&sealed), None);
        assert_eq!(vault.open(&Vault::new(None).seal("x").expect("plain")).as_deref(), Some("x"));
        for damaged in
            ["", "plain", "chacha20poly1305:", "chacha20poly1305:AAAA", &sealed[..sealed.len() - 6]]
        {
            assert_eq!(vault.open(damaged), None, "{damaged}");
        }
    }
}
