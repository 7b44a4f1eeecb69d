//! Random numbers: from the operating system where nobody may guess them, and fast ones.

use std::hash::{BuildHasher, RandomState};

use crate::domain::error::{Error, Kind};

/// `N` random bytes that nobody can guess.
///
/// # Errors
/// [`Kind::Internal`] when the operating system gives none.
pub fn bytes<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|_| Error::new(Kind::Internal, "the operating system gives no random bytes"))?;
    Ok(bytes)
}

/// A number for telling things apart: most likely unlike every other one, but no secret.
pub fn number() -> u64 {
    // Its keys are random and others each time, and the hash of nothing depends on them alone.
    RandomState::new().hash_one(())
}
