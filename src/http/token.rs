//! The console's sign-in tokens: what a browser holds in place of the admin key.
//!
//! A token says when it was signed in and until when it holds, under an HMAC (RFC 2104) whose key is derived
//! from the admin key's digest, so that every replica knows it and a new admin key ends it. The store keeps
//! that digest where the start made the admin key; so that a stolen store signs nothing, the key is derived
//! from a secret as well that stands in no store. Nothing is kept of a token, so it cannot be taken back
//! before it ends: it holds for half an hour.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hkdf::{HKDF_SHA256, Prk, Salt};
use ring::hmac;

use crate::domain::keys::GatewayKey;

/// What a token begins with; gateway keys and admin keys begin with `mg_`.
pub const PREFIX: &str = "mgt_";

/// How long a token holds.
const HOLDS: Duration = Duration::from_secs(30 * 60);

/// How long after the sign-in the last of its tokens ends.
const MOST: Duration = Duration::from_secs(12 * 3600);

/// The bytes before the signature: two times in seconds since 1970.
const TIMES: usize = 16;

/// Signs tokens, and reads those that it has signed.
pub struct Signer(Prk);

/// A genuine token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// When the admin key was presented, in seconds since 1970.
    begun: u64,
    ends: u64,
}

impl Signer {
    /// A signer over a secret that is in no store.
    pub fn new(secret: &[u8]) -> Self {
        Signer(Salt::new(HKDF_SHA256, b"mirrorgate console").extract(secret))
    }

    /// The text of a token.
    pub fn sign(&self, admin: &GatewayKey, token: Token) -> String {
        let mut bytes = [token.begun.to_be_bytes(), token.ends.to_be_bytes()].concat();
        let tag = hmac::sign(&self.key(admin), &bytes);
        bytes.extend_from_slice(tag.as_ref());
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    /// The token of a text, if it was signed here, whether it still holds or not.
    pub fn read(&self, admin: &GatewayKey, text: &str) -> Option<Token> {
        let bytes = URL_SAFE_NO_PAD.decode(text.strip_prefix(PREFIX)?).ok()?;
        let (times, tag) = bytes.split_at_checked(TIMES)?;
        hmac::verify(&self.key(admin), times, tag).ok()?;
        let (begun, ends) = times.split_at(TIMES / 2);
        let seconds = |bytes: &[u8]| bytes.try_into().map(u64::from_be_bytes).ok();
        Some(Token { begun: seconds(begun)?, ends: seconds(ends)? })
    }

    fn key(&self, admin: &GatewayKey) -> hmac::Key {
        let digest = admin.digest();
        let info = [digest.as_bytes()];
        let key = self.0.expand(&info, hmac::HMAC_SHA256).expect("a key of HMAC is shorter than HKDF's most");
        key.into()
    }
}

impl Token {
    /// The token of a sign-in.
    pub fn begin(now: SystemTime) -> Self {
        let begun = seconds(now);
        Token { begun, ends: begun + HOLDS.as_secs() }
    }

    /// The one after this; `None` where none may follow it any more.
    pub fn renewed(self, now: SystemTime) -> Option<Self> {
        let last = self.begun.saturating_add(MOST.as_secs());
        let token = Token { begun: self.begun, ends: last.min(seconds(now) + HOLDS.as_secs()) };
        token.left(now).map(|_| token)
    }

    /// How long it still holds; `None` where it has ended.
    pub fn left(self, now: SystemTime) -> Option<Duration> {
        self.ends.checked_sub(seconds(now)).filter(|left| *left > 0).map(Duration::from_secs)
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_795_000_000 + seconds)
    }

    #[test]
    fn a_token_is_read_by_whoever_shares_secret_and_admin_key_and_by_no_other() {
        let (signer, admin) = (Signer::new(b"a secret"), GatewayKey::owners("0wners-k3y"));
        let token = Token::begin(at(0));
        let text = signer.sign(&admin, token);
        assert_eq!(Signer::new(b"a secret").read(&admin, &text), Some(token));
        assert_eq!(Signer::new(b"another").read(&admin, &text), None);
        assert_eq!(signer.read(&GatewayKey::owners("0wners-new-k3y"), &text), None);
    }

    #[test]
    fn a_token_that_was_changed_is_none() {
        let (signer, admin) = (Signer::new(b"a secret"), GatewayKey::owners("0wners-k3y"));
        let text = signer.sign(&admin, Token::begin(at(0)));
        let bytes = URL_SAFE_NO_PAD.decode(&text[PREFIX.len()..]).expect("base64");
        for place in 0..bytes.len() {
            let mut forged = bytes.clone();
            forged[place] ^= 1;
            let forged = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(forged));
            assert_eq!(signer.read(&admin, &forged), None, "byte {place}");
        }
        for text in ["", PREFIX, "mgt_AAAA", &text[..text.len() - 4], &text[PREFIX.len()..]] {
            assert_eq!(signer.read(&admin, text), None, "{text}");
        }
    }

    #[test]
    fn half_an_hour_without_use_and_twelve_hours_in_any_case_end_a_sign_in() {
        let first = Token::begin(at(0));
        assert_eq!(first.left(at(0)), Some(Duration::from_secs(1800)));
        assert_eq!(first.left(at(1800)), None);
        let mut token = first;
        for minute in 1..720 {
            token = token.renewed(at(60 * minute)).expect("within twelve hours");
        }
        assert_eq!(token.left(at(12 * 3600 - 1)), Some(Duration::from_secs(1)));
        assert_eq!(token.left(at(12 * 3600)), None);
        assert_eq!(token.renewed(at(12 * 3600)), None);
    }
}
