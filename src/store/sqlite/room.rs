//! Whether there is room for a turn where a SQLite file is.

use std::path::Path;

use super::folder;
use crate::domain::error::Error;
use crate::store::unavailable;

/// The free space without which a file counts as full: a turn is refused before it is paid for
/// rather than lost after.
const MIN_FREE_BYTES: u64 = 512 << 10;

/// Sees that there is room for a turn. A turn that is under way may then use what is held back.
pub fn check(path: &Path) -> Result<(), Error> {
    match fs4::available_space(folder(path)) {
        Ok(free) if free < MIN_FREE_BYTES => Err(unavailable("the disk is full")),
        Ok(_) => Ok(()),
        Err(error) => Err(unavailable(format_args!("cannot look at {}: {error}", path.display()))),
    }
}
