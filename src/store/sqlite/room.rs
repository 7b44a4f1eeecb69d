//! Whether there is room for a turn where a SQLite file is.

use std::fs;
use std::path::Path;

use super::folder;
use crate::domain::error::Error;
use crate::store::unavailable;

/// The free space without which a file counts as full: a turn is refused before it is paid for
/// rather than lost after.
pub const MIN_FREE_BYTES: u64 = 512 << 10;

/// Sees that there is room for a turn, on the disk and within the file, which can use so many bytes of
/// its own again, and which has this size once the log is written back: without room for that the log could
/// only grow, and not even a delete could be kept. A turn that is under way may use what is held back.
pub fn check(path: &Path, reusable: u64, size: u64) -> Result<(), Error> {
    let growth = size.saturating_sub(fs::metadata(path).map_or(0, |file| file.len()));
    match fs4::available_space(folder(path)) {
        Ok(free) if free.saturating_add(reusable) < MIN_FREE_BYTES.saturating_add(growth) => {
            Err(unavailable("the disk is full"))
        }
        Ok(_) => Ok(()),
        Err(error) => Err(unavailable(format_args!("cannot look at {}: {error}", path.display()))),
    }
}

/// Whether the disk has so many bytes free.
pub fn has(path: &Path, bytes: u64) -> bool {
    fs4::available_space(folder(path)).is_ok_and(|free| free >= bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_held_back_for_what_the_log_has_yet_to_write_back() {
        let path = std::env::temp_dir().join(format!("mirrorgate-room-{:x}", crate::random::number()));
        fs::write(&path, "12345678").expect("a file");
        let much = 2 * fs4::available_space(folder(&path)).expect("its disk");
        assert!(check(&path, 0, 8).is_ok(), "the log takes nothing");
        assert!(check(&path, 0, much).is_err(), "the log would take more than there is");
        assert!(check(&path, much, much).is_ok(), "the file has as much room within itself");
        fs::remove_file(&path).expect("it goes");
    }
}
