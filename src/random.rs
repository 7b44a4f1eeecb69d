//! Random bytes from the operating system.

use crate::error::{Error, Kind};

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
