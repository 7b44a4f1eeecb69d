//! Whether there is room for a turn where a SQLite file is.

use std::path::Path;

use super::folder;
use crate::domain::error::Error;
use crate::store::unavailable;

/// The free space without which a file counts as full: a turn is refused before it is paid for
/// rather than lost after.
pub const MIN_FREE_BYTES: u64 = 512 << 10;

/// Sees that there is room for a turn, on the disk and within the file, which can use so many bytes of
/// its own again. A turn that is under way may then use what is held back.
pub fn check(path: &Path, reusable: u64) -> Result<(), Error> {
    match fs4::available_space(folder(path)) {
        Ok(free) if free.saturating_add(reusable) < MIN_FREE_BYTES => Err(unavailable("the disk is full")),
        Ok(_) => Ok(()),
        Err(error) => Err(unavailable(format_args!("cannot look at {}: {error}", path.display()))),
    }
}

/// Whether the disk has so many bytes free.
pub fn has(path: &Path, bytes: u64) -> bool {
    fs4::available_space(folder(path)).is_ok_and(|free| free >= bytes)
}
