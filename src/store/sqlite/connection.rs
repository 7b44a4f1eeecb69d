//! A connection to SQLite: how it is opened, what is done over it, and how its failure is told.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags, ToSql};

use super::folder;
use crate::domain::error::{Error, Kind};
use crate::store::migrations::{Taken, missing};
use crate::store::statement::{Done, Row, Statement, Value};
use crate::store::unavailable;

/// How long another process may hold the file locked.
pub const BUSY_TIME: Duration = Duration::from_secs(4);

/// How much of the write-ahead log stays on the disk when it is written back.
const MAX_IDLE_LOG: i64 = 4 << 20;

/// How soon one looks again whether it is let go, where SQLite does not look by itself.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// More than there are statements, so that each is compiled once.
const STATEMENTS: usize = 64;

/// Where a database is.
#[derive(Clone)]
pub enum Place {
    File(PathBuf),
    Memory,
}

/// What tells two files apart that had the same path one after the other.
pub type FileId = (u64, u64);

/// What stands for the file where there is none.
pub const MEMORY: FileId = (0, 0);

/// Opens a file that exists, or memory.
pub fn open(place: &Place) -> Result<Connection, Error> {
    let opened = match place {
        Place::Memory => Connection::open_in_memory(),
        Place::File(path) => Connection::open_with_flags(
            path,
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        ),
    };
    let connection = opened.map_err(failed)?;
    let prepare = || {
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        connection.busy_timeout(BUSY_TIME)?;
        // What is deleted is overwritten, and its space goes back to the disk step by step. A file that
        // has tables already keeps its kind until it is written anew.
        connection.pragma_update(None, "secure_delete", true)?;
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        connection.pragma_update(None, "journal_size_limit", MAX_IDLE_LOG)?;
        write_ahead(&connection)?;
        // FULL: in WAL mode NORMAL loses acknowledged turns when the power fails.
        connection.pragma_update(None, "synchronous", "FULL")
    };
    prepare().map_err(failed)?;
    Ok(connection)
}

/// Turns the write-ahead log on, once for a file. SQLite does not wait by itself where another process
/// does the same.
fn write_ahead(connection: &Connection) -> rusqlite::Result<()> {
    let begin = Instant::now();
    loop {
        match connection.pragma_update(None, "journal_mode", "WAL") {
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                    && begin.elapsed() < BUSY_TIME =>
            {
                thread::sleep(LOOK_AGAIN)
            }
            outcome => return outcome,
        }
    }
}

/// Brings the schema up to date.
pub fn migrate(connection: &mut Connection) -> Result<(), Error> {
    if missing(&taken(connection)?)?.is_empty() {
        return Ok(());
    }
    // Of several processes one goes first, and the others find it done.
    let transaction =
        connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(failed)?;
    for migration in missing(&taken(&transaction)?)? {
        let step = || {
            transaction.execute_batch(
                "CREATE TABLE IF NOT EXISTS _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT NOT NULL, \
                 installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, success BOOLEAN NOT NULL, \
                 checksum BLOB NOT NULL, execution_time BIGINT NOT NULL)",
            )?;
            transaction.execute_batch(migration.text)?;
            transaction.execute(
                "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                 VALUES (?1, ?2, TRUE, ?3, 0)",
                (migration.version, migration.description, migration.digest()),
            )
        };
        step().map_err(failed)?;
    }
    transaction.commit().map_err(failed)
}

/// The steps of the schema that were taken.
pub fn taken(connection: &Connection) -> Result<Vec<Taken>, Error> {
    let read = || {
        // Asked of the file, since what is remembered of the schema may be older than the lock.
        let table = "SELECT 1 FROM sqlite_schema WHERE name = '_sqlx_migrations'";
        if !connection.prepare(table)?.exists(())? {
            return Ok(Vec::new());
        }
        let mut query =
            connection.prepare("SELECT version, success, checksum FROM _sqlx_migrations ORDER BY version")?;
        let rows = query.query_map((), |row| {
            Ok(Taken { version: row.get(0)?, success: row.get(1)?, digest: row.get(2)? })
        })?;
        rows.collect()
    };
    read().map_err(failed)
}

/// Does one statement.
pub fn execute(connection: &Connection, statement: &Statement) -> rusqlite::Result<Done> {
    let mut prepared = connection.prepare_cached(statement.text.sqlite)?;
    for index in 1..=prepared.parameter_count() {
        // `$7` is a name to SQLite, which numbers names in the order in which they first appear.
        let number = prepared.parameter_name(index).and_then(|name| name[1..].parse::<usize>().ok());
        let value = number.and_then(|number| statement.values.get(number - 1));
        prepared.raw_bind_parameter(index, value)?;
    }
    let mut done = Done::default();
    let columns = prepared.column_count();
    let mut rows = prepared.raw_query();
    while let Some(row) = rows.next()? {
        let values = (0..columns).map(|column| {
            Ok(match row.get_ref(column)? {
                ValueRef::Integer(number) => Value::Integer(number),
                ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
                ValueRef::Null | ValueRef::Real(_) | ValueRef::Blob(_) => Value::Null,
            })
        });
        done.rows.push(Row(values.collect::<rusqlite::Result<_>>()?));
    }
    drop(rows);
    done.changed = connection.changes();
    Ok(done)
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Value::Null => ValueRef::Null,
            Value::Integer(number) => ValueRef::Integer(*number),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
        }))
    }
}

/// The error for a failed statement. What SQLite says may quote values, so only its kind is told.
pub fn failed(error: rusqlite::Error) -> Error {
    let Some(code) = error.sqlite_error_code() else { return unavailable("a statement failed") };
    match code {
        ErrorCode::DiskFull => unavailable("the disk is full"),
        ErrorCode::ReadOnly => unavailable("its file cannot be written: it is read-only"),
        ErrorCode::CannotOpen => unavailable("its file cannot be opened"),
        ErrorCode::PermissionDenied => unavailable("its file may not be opened"),
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => {
            unavailable("another program holds its file locked")
        }
        ErrorCode::SystemIoFailure => unavailable("its disk reports a failure"),
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => {
            Error::new(Kind::StorageDamaged, "the store's file is damaged, or is no SQLite database")
        }
        _ => unavailable(format_args!(
            "it reports an error (code {})",
            error.sqlite_error().map_or(0, |error| error.extended_code)
        )),
    }
}

/// Which file stands at a path, if one does.
pub fn file_at(path: &Path) -> io::Result<FileId> {
    fs::metadata(path).map(|metadata| file_id(&metadata))
}

/// Creates the file for its owner alone.
pub fn create(path: &Path) -> io::Result<FileId> {
    fs::create_dir_all(folder(path))?;
    for_owner(&mut fs::OpenOptions::new()).open(path)?.metadata().map(|metadata| file_id(&metadata))
}

/// How a file is opened to be written, and created for its owner alone.
pub fn for_owner(options: &mut fs::OpenOptions) -> &mut fs::OpenOptions {
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

#[cfg(unix)]
fn file_id(metadata: &fs::Metadata) -> FileId {
    use std::os::unix::fs::MetadataExt;
    (metadata.dev(), metadata.ino())
}

/// Elsewhere an open file cannot be taken away.
#[cfg(not(unix))]
fn file_id(_: &fs::Metadata) -> FileId {
    (0, 1)
}
