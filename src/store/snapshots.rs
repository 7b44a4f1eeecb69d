//! The store as one file, taken while it is used.

use std::fs::File;
use std::io;

use super::snapshot::{Draft, Snapshots};
use super::{Store, unavailable};
use crate::config::Location;
use crate::domain::error::{Error, Kind};
use crate::domain::keys::hex;

/// A snapshot of the store's file, which is deleted with this.
pub struct Snapshot {
    draft: Draft,
    size: u64,
}

impl Snapshot {
    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The file, to be read.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(&self) -> io::Result<File> {
        File::open(self.draft.path())
    }
}

impl Store {
    /// Takes a snapshot. Those who write meanwhile do not wait.
    ///
    /// # Errors
    /// When the store is no SQLite file, or cannot be read or written.
    pub async fn snapshot(&self) -> Result<Snapshot, Error> {
        let Location::File(path) = self.location.clone() else {
            return Err(Error::new(
                Kind::InvalidRequest,
                format!("the store is no SQLite file, but {}", self.place()),
            )
            .hinted(
                "`pg_dump --format=custom --file=copy.dump \"$DATABASE_URL\"` makes a backup of PostgreSQL",
            ));
        };
        let end = format!(".{}.taken", hex(&crate::random::bytes::<8>()?));
        let work = tokio::task::spawn_blocking(move || {
            let draft = Draft::beside(&path, &end).map_err(unavailable)?;
            let size = Snapshots::of(&path)?.take(&draft)?;
            Ok(Snapshot { draft, size })
        });
        work.await.map_err(|_| Error::new(Kind::Internal, "the snapshot was given up"))?
    }
}
