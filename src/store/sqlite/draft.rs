//! A file that is still being written: for its owner alone, and gone unless it is put in its place, so
//! that nobody ever finds half of it there.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use super::connection::for_owner;
use super::folder;

/// A file that is still being written.
pub struct Draft {
    path: PathBuf,
    is_placed: bool,
}

impl Draft {
    /// An empty file beside the one that it may replace, with this end to its name: what lies on one
    /// file system can take the other's place in one step. What an earlier process left there goes.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn beside(target: &Path, end: &str) -> io::Result<Self> {
        let draft = Draft { path: with_end(target, end), is_placed: false };
        draft.remove();
        for_owner(OpenOptions::new().create_new(true)).open(&draft.path)?;
        Ok(draft)
    }

    /// Where it is for now.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts it in the place of a file, or where none is, for good: also when the power fails now.
    ///
    /// # Errors
    /// When it cannot be put there; what was there before is there still.
    pub fn place(mut self, target: &Path) -> io::Result<()> {
        File::open(&self.path)?.sync_all()?;
        fs::rename(&self.path, target)?;
        self.is_placed = true;
        // The name lasts when the folder does. Only Unix opens one.
        if cfg!(unix) { File::open(folder(target))?.sync_all() } else { Ok(()) }
    }

    fn remove(&self) {
        for end in ["", "-journal", "-wal", "-shm"] {
            let _ = fs::remove_file(with_end(&self.path, end));
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_placed {
            self.remove();
        }
    }
}

/// A path with more at the end of its last name.
pub fn with_end(path: &Path, end: impl AsRef<OsStr>) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}
