//! Snapshots of a SQLite file while others use it, and putting one in a store's place.
//!
//! A snapshot is one whole database without a log beside it. It holds every commit that was told before
//! it began, and nothing of one that was not.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::connection::{BUSY_TIME, FileId, failed, file_at, taken};
pub use super::draft::Draft;
use super::draft::with_end;
use super::room;
use crate::domain::error::{Error, Kind};
use crate::store::migrations::{Taken, missing};
use crate::store::unavailable;

/// Takes snapshots of a store's file, whoever writes to it.
pub struct Snapshots {
    path: PathBuf,
    file: FileId,
    connection: Connection,
}

impl Snapshots {
    /// Of the file at a path, whose schema is left as it is.
    ///
    /// # Errors
    /// When there is none, or it is not this program's.
    pub fn of(store: &Path) -> Result<Self, Error> {
        let there = file_at(store).ok().filter(|_| is_there(store));
        let Some(file) = there else {
            return Err(unavailable(format_args!("there is no file {}", store.display())));
        };
        let connection = open(store).map_err(failed)?;
        connection.busy_timeout(BUSY_TIME).map_err(failed)?;
        schema(&connection)?;
        Ok(Snapshots { path: store.to_path_buf(), file, connection })
    }

    /// Whether it is still the file at its path.
    pub fn is_current(&self) -> bool {
        file_at(&self.path).is_ok_and(|file| file == self.file)
    }

    /// A number that is another one after a commit of anybody, whichever process it came from.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn version(&self) -> Result<i64, Error> {
        self.connection.pragma_query_value(None, "data_version", |row| row.get(0)).map_err(failed)
    }

    /// Writes a snapshot into a draft, and gives its size. Those who write meanwhile do not wait.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn take(&self, draft: &Draft) -> Result<u64, Error> {
        let size = fs::metadata(&self.path).map_or(0, |metadata| metadata.len());
        if !room::has(draft.path(), size + room::MIN_FREE_BYTES) {
            return Err(unavailable("the disk is too full for a snapshot"));
        }
        let path = draft.path().to_str().ok_or_else(|| unavailable("a path is not in UTF-8"))?;
        self.connection.execute("VACUUM INTO ?1", [path]).map_err(failed)?;
        let written = || File::open(draft.path())?.metadata().map(|metadata| metadata.len());
        written().map_err(|error| unwritten(draft.path(), &error))
    }
}

/// Whether a store has been kept at this path: an empty file is what a lock leaves.
pub fn is_there(store: &Path) -> bool {
    fs::metadata(store).is_ok_and(|metadata| metadata.len() > 0)
}

/// Whether nothing is kept at this path: there is no store, or one whose tables are empty.
pub fn is_blank(store: &Path) -> bool {
    let tables = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name <> '_sqlx_migrations'";
    let has_rows = || {
        let connection = open(store)?;
        let mut query = connection.prepare(tables)?;
        let names = query.query_map((), |row| row.get::<_, String>(0))?;
        for name in names {
            let name = name?.replace('"', "\"\"");
            if connection.prepare(&format!("SELECT 1 FROM \"{name}\""))?.exists(())? {
                return Ok::<_, rusqlite::Error>(true);
            }
        }
        Ok(false)
    };
    // What cannot be read is not nothing.
    !is_there(store) || matches!(has_rows(), Ok(false))
}

/// Whether two paths name one file.
pub fn is_same_file(one: &Path, other: &Path) -> bool {
    matches!((file_at(one), file_at(other)), (Ok(one), Ok(other)) if one == other)
}

/// Sees that a draft is a whole database of this program, or of an earlier version, and ends with all of
/// it in one file.
///
/// # Errors
/// [`Kind::StorageDamaged`] when it is something else, or broken; [`Kind::StorageNewer`] when a newer
/// program has written it.
pub fn check(draft: &Draft) -> Result<(), Error> {
    let look = || {
        let connection = open(draft.path())?;
        // One that was copied from under a service says that it has a log.
        connection.pragma_update(None, "journal_mode", "DELETE")?;
        let verdict = connection.query_row("PRAGMA integrity_check(1)", (), |row| row.get::<_, String>(0))?;
        Ok::<_, rusqlite::Error>((connection, verdict))
    };
    let (connection, verdict) = look().map_err(|_| damaged("is damaged, or no SQLite database"))?;
    if verdict != "ok" {
        return Err(damaged("is damaged: its pages do not agree with each other"));
    }
    missing(&schema(&connection)?).map(drop)
}

/// Puts a checked database in the place of a store that nobody serves from. Whenever the machine fails,
/// the one or the other stands there whole.
///
/// # Errors
/// When it cannot be put there.
pub fn put(draft: Draft, store: &Path) -> Result<(), Error> {
    // The newest of the old store is in its log, which must be gone before the other one comes: what is
    // whole without it can wait for that.
    if is_there(store)
        && let Ok(old) = open(store)
    {
        let _ = old.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
    }
    for end in ["-wal", "-shm", "-journal"] {
        match fs::remove_file(with_end(store, end)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(unwritten(store, &error)),
            _ => {}
        }
    }
    draft.place(store).map_err(|error| unwritten(store, &error))
}

/// The steps of the schema that were taken, of which a store has some.
fn schema(connection: &Connection) -> Result<Vec<Taken>, Error> {
    let taken = taken(connection)?;
    if taken.is_empty() { Err(damaged("is no database of mirrorgate")) } else { Ok(taken) }
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)
}

fn damaged(what: &str) -> Error {
    Error::new(Kind::StorageDamaged, format!("the file {what}"))
        .hinted("take another one; `mirrorgate backup FILE` makes them")
}

fn unwritten(path: &Path, error: &io::Error) -> Error {
    unavailable(format_args!("{} cannot be written: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::connection::{Place, create, migrate};

    const KEY: &str = "INSERT INTO gateway_keys (name, digest, created_at) VALUES ('a', 'd', 0)";

    /// A store in a folder of its own, and a connection that writes to it.
    fn store() -> (PathBuf, Connection) {
        let name = format!("mirrorgate-snapshot-{:x}", crate::random::number());
        let path = std::env::temp_dir().join(name).join("mirrorgate.db");
        create(&path).expect("created");
        let mut connection = super::super::connection::open(&Place::File(path.clone())).expect("open");
        migrate(&mut connection).expect("a schema");
        (path, connection)
    }

    fn remove(store: &Path) {
        fs::remove_dir_all(super::super::folder(store)).expect("removed");
    }

    #[test]
    fn a_store_is_blank_until_something_is_kept_in_it() {
        let (path, writing) = store();
        assert!(is_blank(&path) && is_blank(Path::new("/nowhere/at/all")));
        writing.execute_batch(KEY).expect("written");
        assert!(!is_blank(&path));
        let damaged = with_end(&path, ".damaged");
        fs::write(&damaged, "no database").expect("written");
        assert!(!is_blank(&damaged), "what cannot be read is not nothing");
        remove(&path);
    }

    #[test]
    fn a_commit_of_another_connection_is_another_version_and_is_in_the_next_snapshot() {
        let (path, writing) = store();
        let snapshots = Snapshots::of(&path).expect("a store");
        let version = snapshots.version().expect("a version");
        assert_eq!(snapshots.version().expect("a version"), version);
        writing.execute_batch(KEY).expect("written");
        assert_ne!(snapshots.version().expect("a version"), version);
        let draft = Draft::beside(&path, ".draft").expect("a draft");
        let size = snapshots.take(&draft).expect("a snapshot");
        assert_eq!(fs::metadata(draft.path()).expect("a file").len(), size);
        check(&draft).expect("whole");
        assert!(!is_blank(draft.path()));
        drop(draft);
        assert!(!with_end(&path, ".draft").exists());
        remove(&path);
    }

    #[test]
    fn what_is_put_in_a_stores_place_is_seen_and_keeps_nothing_of_the_one_before() {
        let (path, writing) = store();
        let draft = Draft::beside(&path, ".draft").expect("a draft");
        let snapshots = Snapshots::of(&path).expect("a store");
        snapshots.take(&draft).expect("a snapshot");
        writing.execute_batch(KEY).expect("written");
        assert!(snapshots.is_current() && !is_blank(&path));
        put(draft, &path).expect("put");
        assert!(!snapshots.is_current() && !with_end(&path, "-wal").exists());
        assert!(is_blank(&path), "the log of the one before is not its own");
        remove(&path);
    }
}
