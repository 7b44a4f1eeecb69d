//! Why the service does not start, for a person.

use std::fmt;
use std::net::SocketAddr;

use crate::domain::error::Error;

/// Why the service does not start.
#[derive(Debug)]
pub enum StartError {
    /// The address cannot be listened on.
    Bind(SocketAddr, std::io::Error),
    /// The store was changed by a newer program, or is damaged.
    Store(Error),
    /// The bucket with the store's snapshots cannot be used: why.
    Backup(String),
    /// No key is configured, and a generated one cannot be kept; the clear text of one to paste.
    KeyNotKept {
        /// Why it cannot be kept.
        why: String,
        /// A key that would do.
        key: String,
    },
    /// A caller's key of this name is the owner's as well.
    OneKeyForBoth(String),
    /// The upstream in the store was sealed under another `SECRET_KEY`.
    UpstreamSealed {
        /// Whether there is one now.
        has_key: bool,
    },
    /// Anything else.
    Other(String),
}

impl StartError {
    /// The process's exit code: 78 (`EX_CONFIG`) where a setting is needed, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            StartError::KeyNotKept { .. }
            | StartError::OneKeyForBoth(_)
            | StartError::UpstreamSealed { .. } => 78,
            StartError::Bind(..) | StartError::Store(_) | StartError::Backup(_) | StartError::Other(_) => 1,
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Bind(address, error) => write!(
                f,
                "error: cannot listen on {address}: {error}\n  hint: set PORT to a free port, or stop the program that uses this one"
            ),
            StartError::KeyNotKept { why, key } => write!(
                f,
                "error: no gateway key is set, and a generated one cannot be kept: {why}\n  hint: set this variable, or DATA_DIR to a directory that can be written, or DATABASE_URL:\n\n  GATEWAY_API_KEYS={key}\n"
            ),
            StartError::OneKeyForBoth(name) => write!(
                f,
                "error: ADMIN_KEY is the gateway key `{name}` as well, so whoever may call would be the owner\n  hint: give the owner another key: `openssl rand -hex 32`, or any long random text"
            ),
            StartError::UpstreamSealed { has_key } => {
                let why =
                    if *has_key { "SECRET_KEY is not the one" } else { "SECRET_KEY is not set, and one was" };
                write!(
                    f,
                    "error: the upstream that is kept in the store does not open: {why} under which it was sealed\n  hint: set SECRET_KEY as it was; or `mirrorgate setup` keeps another upstream in its place; or set UPSTREAM_URL and its login here, which then hold"
                )
            }
            StartError::Store(error) => write!(f, "error: {}\n  hint: {}", error.message, error.hint()),
            StartError::Backup(why) => write!(
                f,
                "error: the backup at BACKUP_URL cannot be used: {why}\n  hint: nothing in the bucket was changed; look at BACKUP_URL, AWS_ENDPOINT_URL_S3, AWS_REGION, the key and SECRET_KEY. Without BACKUP_URL the service starts with what its disk holds"
            ),
            StartError::Other(text) => write!(f, "error: {text}"),
        }
    }
}

impl std::error::Error for StartError {}
