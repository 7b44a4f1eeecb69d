//! Gateway keys: what callers must present.
//!
//! Only SHA-256 digests are held in memory and in the store, and digests are what is looked up.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::domain::chat::Owner;
use crate::domain::error::{Error, Kind};
use crate::domain::limits::KeyLimits;

/// The name of the key that is generated at the first start.
pub const GENERATED: &str = "generated";

/// The name of the owner as a caller.
pub const OWNER: &str = "owner";

/// The name of everyone, where no key is needed.
pub const ANYONE: &str = "anyone";

/// What the owner's key is called in the store: no key of a caller can have this name.
pub const OWNERS_KEY: &str = "the owner";

/// The fewest characters of a key that is accepted.
pub const MIN_KEY_CHARS: usize = 16;

/// Whether all is open to this owner: the service's own, or everyone where no key is needed.
pub fn open_all(owner: &Owner) -> bool {
    [OWNER, ANYONE].contains(&owner.0.as_ref())
}

/// One gateway key, as its digest.
#[derive(Clone)]
pub struct GatewayKey {
    /// The name that logs show.
    pub name: String,
    /// Who owns what is kept for this key. A new key under an old name has another owner, so that it
    /// does not inherit another's conversations; the store keeps it with the key, which may be replaced.
    pub owner: Owner,
    /// What it may.
    pub limits: Arc<KeyLimits>,
    digest: [u8; 32],
}

impl GatewayKey {
    /// A key of the given name.
    pub fn new(name: impl Into<String>, key: &str) -> Self {
        GatewayKey::of(name.into(), Sha256::digest(key).into())
    }

    /// A key by its digest in hexadecimal, as the store keeps it with its owner.
    pub fn kept(name: impl Into<String>, digest: &str, owner: Owner, limits: KeyLimits) -> Option<Self> {
        let key = GatewayKey::of(name.into(), unhex(digest)?);
        Some(GatewayKey { owner, limits: Arc::new(limits), ..key })
    }

    /// The owner's key.
    pub fn owners(key: &str) -> Self {
        GatewayKey { owner: Owner(OWNER.into()), ..GatewayKey::new(OWNER, key) }
    }

    /// The same, which may only so much.
    pub fn limited(self, limits: KeyLimits) -> Self {
        GatewayKey { limits: Arc::new(limits), ..self }
    }

    /// Whether it is the owner's. The owners of callers' keys are digests.
    pub fn is_owners(&self) -> bool {
        self.owner.0.as_ref() == OWNER
    }

    /// What it is called to people.
    pub fn shown_name(&self) -> &str {
        if self.is_owners() { OWNER } else { &self.name }
    }

    /// Whether it is the same key as another, whatever their names.
    pub fn is_same(&self, other: &GatewayKey) -> bool {
        self.digest == other.digest
    }

    fn of(name: String, digest: [u8; 32]) -> Self {
        GatewayKey { name, owner: Owner(hex(&digest[..16]).into()), limits: Arc::default(), digest }
    }

    /// The digest in hexadecimal.
    pub fn digest(&self) -> String {
        hex(&self.digest)
    }
}

/// The keys that are accepted, looked up by their digests: ten thousand cost what one costs.
#[derive(Default)]
pub struct KeyRing {
    entries: HashMap<[u8; 32], Entry>,
    /// How many of them are not the owner's.
    callers: usize,
}

/// A key of a ring.
pub struct Entry {
    /// The key.
    pub key: GatewayKey,
    passed: AtomicBool,
    /// How many bytes its requests hold of what all may hold.
    pub held: Arc<AtomicUsize>,
}

impl Entry {
    /// Whether a caller has presented it before.
    pub fn has_passed(&self) -> bool {
        self.passed.load(Ordering::Relaxed)
    }

    /// Notes that a caller has presented it.
    pub fn pass(&self) {
        self.passed.store(true, Ordering::Relaxed);
    }
}

impl KeyRing {
    /// A ring of these keys.
    pub fn new(keys: Vec<GatewayKey>) -> Self {
        KeyRing::default().renewed(keys)
    }

    /// A ring of these keys, which knows of those that it had already whether they have passed, and what
    /// they hold.
    pub fn renewed(&self, keys: Vec<GatewayKey>) -> Self {
        let entry = |key: GatewayKey| {
            let before = self.entries.get(&key.digest);
            let passed = AtomicBool::new(before.is_some_and(Entry::has_passed));
            let held = before.map(|before| Arc::clone(&before.held)).unwrap_or_default();
            (key.digest, Entry { key, passed, held })
        };
        let entries: HashMap<_, _> = keys.into_iter().map(entry).collect();
        let callers = entries.values().filter(|entry| !entry.key.is_owners()).count();
        KeyRing { entries, callers }
    }

    /// Whether several keys share the service, beside the owner's.
    pub fn is_shared(&self) -> bool {
        self.callers > 1
    }

    /// Whether the owner's key is among them.
    pub fn has_owner(&self) -> bool {
        self.owners().is_some()
    }

    /// The owner's key.
    pub fn owners(&self) -> Option<&GatewayKey> {
        self.keys().find(|key| key.is_owners())
    }

    /// All of them.
    pub fn keys(&self) -> impl Iterator<Item = &GatewayKey> {
        self.entries.values().map(|entry| &entry.key)
    }

    /// The key that a caller presented, if it is ours. The time that this takes tells nothing of the keys:
    /// what is looked up is a digest, which nobody can choose.
    pub fn find(&self, presented: &str) -> Option<&Entry> {
        let digest: [u8; 32] = Sha256::digest(presented).into();
        self.entries.get(&digest).filter(|entry| bool::from(entry.key.digest.ct_eq(&digest)))
    }
}

/// Reads `GATEWAY_API_KEYS`: comma-separated `name:key` or `key`.
///
/// # Errors
/// One text for each key that is too weak, without the key itself.
pub fn parse_list(text: &str) -> Result<Vec<GatewayKey>, Vec<String>> {
    let mut keys = Vec::new();
    let mut problems = Vec::new();
    for (index, entry) in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).enumerate() {
        let (name, key) = match entry.split_once(':') {
            Some((name, key)) if is_name(name.trim()) => (name.trim().to_string(), key.trim()),
            _ => (format!("key-{}", index + 1), entry),
        };
        match weakness(key) {
            None if name == OWNER => problems.push(format!("no key can be named `{OWNER}`: set `ADMIN_KEY`")),
            Some(weakness) => problems.push(format!("the key `{name}` {weakness}")),
            None => keys.push(GatewayKey::new(name, key)),
        }
    }
    if problems.is_empty() { Ok(keys) } else { Err(problems) }
}

/// The error for a new key whose name another key has.
pub fn taken(name: &str) -> Error {
    Error::new(Kind::InvalidRequest, format!("there is a key `{name}` already"))
        .hinted("choose another name, or revoke that key first")
}

/// Whether a text can name a key: up to 40 letters, digits, `-`, `_` and `.`.
pub fn is_name(name: &str) -> bool {
    (1..=40).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// Why a key is refused.
pub fn weakness(key: &str) -> Option<String> {
    const WELL_KNOWN: &[&str] = &[
        "changeme",
        "change-me",
        "change_me",
        "your-key",
        "your_key",
        "your-api",
        "your_api",
        "yourkey",
        "password",
        "passw0rd",
        "secret-key",
        "secret_key",
        "mysecret",
        "my-secret",
        "my_secret",
        "supersecret",
        "example",
        "placeholder",
        "replace-me",
        "replaceme",
        "1234567890",
        "0123456789",
        "abcdefghij",
        "qwertyuiop",
        "test-key",
        "testkey",
        "letmein",
    ];
    let characters = key.chars().count();
    if characters < MIN_KEY_CHARS {
        return Some(format!("has {characters} characters, {MIN_KEY_CHARS} are the least"));
    }
    if key.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Some("holds a space or a control character".into());
    }
    let lower = key.to_ascii_lowercase();
    if let Some(known) = WELL_KNOWN.iter().find(|known| lower.contains(**known)) {
        return Some(format!("is easily guessed: it holds `{known}`"));
    }
    let mut distinct: Vec<char> = lower.chars().collect();
    distinct.sort_unstable();
    distinct.dedup();
    (distinct.len() < 6).then(|| "is easily guessed: it has fewer than 6 different characters".into())
}

/// A new key of 256 random bits.
///
/// # Errors
/// When the operating system gives no random bytes.
pub fn generate() -> Result<String, Error> {
    random("mg_")
}

/// As [`generate`], for the owner: told apart at first sight, so that it is not pasted into Dify.
///
/// # Errors
/// When the operating system gives no random bytes.
pub fn generate_owners() -> Result<String, Error> {
    random("mg_admin_")
}

fn random(prefix: &str) -> Result<String, Error> {
    Ok(format!("{prefix}{}", URL_SAFE_NO_PAD.encode(crate::random::bytes::<32>()?)))
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (index, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_take_names_and_base64_keys() {
        let keys =
            parse_list("dify:Zm9v+YmFy/2sxYmF6PQ==, R4nd0m-string:with-colon:and-more ,").expect("good keys");
        let names: Vec<_> = keys.iter().map(|key| key.name.as_str()).collect();
        assert_eq!(names, ["dify", "R4nd0m-string"]);
        let ring = KeyRing::new(keys);
        assert!(ring.find("Zm9v+YmFy/2sxYmF6PQ==").is_some());
        assert!(ring.find("zm9v+YmFy/2sxYmF6PQ==").is_none() && ring.find("").is_none());
    }

    #[test]
    fn weak_keys_are_refused_without_being_repeated() {
        let problems =
            parse_list("a:short,b:changeme-changeme-1,c:aaaaaaaaaaaaaaaaaaaaaaaa,Qx7!pL2mVt9#Zk4w")
                .err()
                .expect("weak");
        assert_eq!(problems.len(), 3);
        assert!(problems.iter().all(|problem| !problem.contains("aaaaaaa") && !problem.contains("short")));
    }
}
