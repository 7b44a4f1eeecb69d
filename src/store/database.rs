//! The database under the store: where it is, how it is opened, and whether it can be written.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;
use std::{fs, io};

use secrecy::ExposeSecret;
use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::{AnyPool, Executor};
use tokio::sync::Mutex;

use super::operation::{Operation, Statement, failed};
use super::unavailable;
use super::writer::Writer;
use crate::config::Location;
use crate::domain::error::{Error, Kind};

static MIGRATIONS: Migrator = sqlx::migrate!();

/// Connections to PostgreSQL, and those that read from a SQLite file, each of which is a thread.
const POSTGRES_CONNECTIONS: u32 = 16;
const SQLITE_READERS: u32 = 2;

/// How long a free connection is waited for.
const ACQUIRE_TIME: Duration = Duration::from_secs(3);

/// The free space without which a SQLite file counts as full: a turn is refused before it is paid
/// for rather than lost after.
const MIN_FREE_BYTES: u64 = 512 << 10;

/// The database, connected to when it is first used.
pub struct Database {
    location: Location,
    connections: RwLock<Connections>,
    /// Whether the schema is up to date in the database that the connections lead to.
    migrated: AtomicBool,
    migrating: Mutex<()>,
    /// The file that the connections have opened, which a path alone does not tell.
    opened: std::sync::Mutex<Option<FileId>>,
}

/// The ways into a database.
#[derive(Clone)]
struct Connections {
    readers: AnyPool,
    /// One connection of its own in a SQLite file, else the readers.
    writers: AnyPool,
    /// `None` for PostgreSQL, which itself commits together what comes at once.
    writer: Option<Writer>,
}

impl Database {
    pub fn new(location: Location) -> Result<Self, Error> {
        sqlx::any::install_default_drivers();
        let connections = RwLock::new(open(&location)?);
        Ok(Database {
            location,
            connections,
            migrated: AtomicBool::new(false),
            migrating: Mutex::new(()),
            opened: std::sync::Mutex::new(None),
        })
    }

    pub fn location(&self) -> &Location {
        &self.location
    }

    fn connections(&self) -> Connections {
        self.connections.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Runs an operation that changes nothing.
    ///
    /// # Errors
    /// The operation's; [`Kind::StorageUnavailable`] when no connection is to be had.
    pub async fn read<T>(&self, operation: impl Operation<T>) -> Result<T, Error> {
        operation(&mut *self.connections().readers.acquire().await.map_err(failed)?).await
    }

    /// Executes one statement, as [`Database::write`]; says how many rows it changed.
    ///
    /// # Errors
    /// [`Kind::StorageUnavailable`] when it cannot be kept.
    pub async fn execute(&self, statement: Statement) -> Result<u64, Error> {
        self.write(|connection| {
            Box::pin(async { Ok(statement.execute(connection).await.map_err(failed)?.rows_affected()) })
        })
        .await
    }

    /// Runs an operation of one statement that changes something. What it changed is durable when
    /// this returns.
    ///
    /// # Errors
    /// The operation's; [`Kind::StorageUnavailable`] when it cannot be kept.
    pub async fn write<T: Send + 'static>(&self, operation: impl Operation<T>) -> Result<T, Error> {
        match self.connections() {
            Connections { writer: Some(writer), .. } => writer.write(operation).await,
            Connections { writers, .. } => operation(&mut *writers.acquire().await.map_err(failed)?).await,
        }
    }

    /// Runs an operation of several statements, of which all are kept or none. What they changed
    /// is durable when this returns.
    ///
    /// # Errors
    /// As [`Database::write`].
    pub async fn transact<T: Send + 'static>(&self, operation: impl Operation<T>) -> Result<T, Error> {
        match self.connections() {
            Connections { writer: Some(writer), .. } => writer.write(operation).await,
            Connections { writers, .. } => {
                let mut transaction = writers.begin().await.map_err(failed)?;
                let done = operation(&mut transaction).await?;
                transaction.commit().await.map_err(failed)?;
                Ok(done)
            }
        }
    }

    /// Executes what stands in one text and keeps all of it or nothing: a statement, or for SQLite
    /// several. Says how many rows it returns; what it changed is durable when it does.
    ///
    /// # Errors
    /// As [`Database::write`].
    pub async fn write_text(&self, statements: Statement) -> Result<usize, Error> {
        match self.connections() {
            Connections { writer: Some(writer), .. } => writer.write_text(statements).await,
            Connections { writers, .. } => Ok(statements.fetch_all(&writers).await.map_err(failed)?.len()),
        }
    }

    /// Ends all connections; a SQLite file then holds everything in itself.
    pub async fn close(&self) {
        let connections = self.connections();
        connections.readers.close().await;
        connections.writers.close().await;
    }

    /// Whether several processes may share it, so that turns must be ordered in it.
    pub fn is_shared(&self) -> bool {
        matches!(self.location, Location::Postgres(_))
    }

    /// The database's own clock, in SQL: milliseconds since 1970. Replicas' clocks differ.
    pub fn now(&self) -> &'static str {
        match self.location {
            Location::Postgres(_) => "CAST(EXTRACT(EPOCH FROM statement_timestamp()) * 1000 AS BIGINT)",
            Location::File(_) | Location::Memory => "CAST(unixepoch('subsec') * 1000 AS BIGINT)",
        }
    }

    /// Creates the file and brings the schema up to date, unless that was done before.
    pub async fn ensure(&self) -> Result<(), Error> {
        if let Location::File(path) = &self.location {
            self.check_file(path)?;
        }
        if self.migrated.load(Ordering::Acquire) {
            return Ok(());
        }
        let _one_at_a_time = self.migrating.lock().await;
        if !self.migrated.load(Ordering::Acquire) {
            MIGRATIONS.run(&self.connections().writers).await.map_err(migration_failed)?;
            self.migrated.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Creates the file for its owner alone, and refuses one that was taken away under an open
    /// connection, which would swallow what is written. Another file in its place, such as a backup,
    /// is opened anew.
    fn check_file(&self, path: &Path) -> Result<(), Error> {
        let trouble =
            |what: &str, error: io::Error| unavailable(format_args!("{what} {}: {error}", path.display()));
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let found = match fs::metadata(path) {
            Ok(metadata) => file_id(&metadata),
            Err(_) if opened.is_some() => {
                return Err(unavailable(format_args!("its file {} is gone", path.display())).hinted(
                    "put the file of the store back; or restart the service to begin with an empty one",
                ));
            }
            Err(_) => create(path).map_err(|error| trouble("cannot create", error))?,
        };
        if opened.is_some_and(|opened| opened != found) {
            log::warn!("the store's file was replaced by another, which is opened now");
            *self.connections.write().unwrap_or_else(PoisonError::into_inner) = open(&self.location)?;
            self.migrated.store(false, Ordering::Release);
        }
        *opened = Some(found);
        Ok(())
    }

    /// Sees that there is room for a turn. A turn that is under way may then use what is held back.
    pub fn check_room(&self) -> Result<(), Error> {
        let Location::File(path) = &self.location else { return Ok(()) };
        match fs4::available_space(path) {
            Ok(free) if free < MIN_FREE_BYTES => Err(unavailable("the disk is full")),
            Ok(_) => Ok(()),
            Err(error) => Err(unavailable(format_args!("cannot look at {}: {error}", path.display()))),
        }
    }

    /// Whether it is known without a look that a turn could be kept: in memory there is neither a
    /// file nor a server that could be gone.
    pub fn is_at_hand(&self) -> bool {
        matches!(self.location, Location::Memory) && self.migrated.load(Ordering::Acquire)
    }

    /// Sees that a turn could be kept now.
    pub async fn probe(&self) -> Result<(), Error> {
        self.check_room()?;
        let Connections { readers, writer, .. } = self.connections();
        if writer.is_some() && readers.size() > 0 {
            // What is open stays so; to wait until it is free would tell nothing more.
            return Ok(());
        }
        readers.acquire().await.map(drop).map_err(failed)
    }
}

fn migration_failed(error: MigrateError) -> Error {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => failed(error),
        MigrateError::VersionMissing(version) => Error::new(
            Kind::StorageNewer,
            format!("the store's schema is newer than this program: it holds version {version}"),
        ),
        error => unavailable(format_args!("its schema cannot be brought up to date ({error})")),
    }
}

/// The ways into the database of a location, with no connection yet.
fn open(location: &Location) -> Result<Connections, Error> {
    match location {
        Location::File(path) => {
            let url = format!("sqlite://{}?mode=rwc", in_url(path));
            let (readers, writers) = (sqlite().max_connections(SQLITE_READERS), sqlite().max_connections(1));
            let writers = connect(writers, &url)?;
            let writer = Some(Writer::start(writers.clone()));
            Ok(Connections { readers: connect(readers, &url)?, writers, writer })
        }
        // A database in memory is its one connection's, which must never end.
        Location::Memory => {
            let only = sqlite().max_connections(1).min_connections(1).idle_timeout(None).max_lifetime(None);
            let pool = connect(only, "sqlite::memory:")?;
            let writer = Some(Writer::start(pool.clone()));
            Ok(Connections { readers: pool.clone(), writers: pool, writer })
        }
        Location::Postgres(url) => {
            let pool = connect(options().max_connections(POSTGRES_CONNECTIONS), url.expose_secret())?;
            Ok(Connections { readers: pool.clone(), writers: pool, writer: None })
        }
    }
}

fn connect(options: AnyPoolOptions, url: &str) -> Result<AnyPool, Error> {
    let target: AnyConnectOptions = url
        .parse()
        // The text may quote the URL with its password.
        .map_err(|_| Error::new(Kind::StorageUnavailable, "DATABASE_URL is not understood"))?;
    Ok(options.connect_lazy_with(target))
}

fn options() -> AnyPoolOptions {
    AnyPoolOptions::new()
        .acquire_timeout(ACQUIRE_TIME)
        .idle_timeout(Duration::from_secs(60))
        .max_lifetime(Duration::from_secs(1800))
}

fn sqlite() -> AnyPoolOptions {
    // No server can have ended a connection, so none is tested before it is used.
    options().test_before_acquire(false).after_connect(|connection, _| {
        Box::pin(async move {
            // FULL: in WAL mode NORMAL loses acknowledged turns when the power fails.
            connection
                .execute("PRAGMA busy_timeout = 4000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;")
                .await?;
            Ok(())
        })
    })
}

/// What tells two files apart that had the same path one after the other.
type FileId = (u64, u64);

#[cfg(unix)]
fn file_id(metadata: &fs::Metadata) -> FileId {
    use std::os::unix::fs::MetadataExt;
    (metadata.dev(), metadata.ino())
}

/// Elsewhere an open file cannot be taken away.
#[cfg(not(unix))]
fn file_id(_: &fs::Metadata) -> FileId {
    (0, 0)
}

/// Creates the file for its owner alone.
fn create(path: &Path) -> io::Result<FileId> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)?.metadata().map(|metadata| file_id(&metadata))
}

/// A path as a URL holds it.
fn in_url(path: &Path) -> String {
    path.to_string_lossy().replace('%', "%25").replace('?', "%3F").replace('#', "%23")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::chat::ConversationId;
    use std::borrow::Cow;
    use std::path::PathBuf;

    fn file() -> PathBuf {
        let name = ConversationId::random().expect("random bytes").to_string();
        std::env::temp_dir().join(format!("mirrorgate-schema-{}", std::process::id())).join(name)
    }

    #[tokio::test]
    async fn every_earlier_schema_is_brought_up_to_date() {
        for count in 0..MIGRATIONS.migrations.len() {
            let database = Database::new(Location::File(file())).expect("a database");
            let earlier = Migrator {
                migrations: Cow::Owned(MIGRATIONS.migrations[..count].to_vec()),
                ..Migrator::DEFAULT
            };
            if let Location::File(path) = database.location() {
                create(path).expect("a file");
            }
            earlier.run(&database.connections().writers).await.expect("the earlier schema");
            database.ensure().await.expect("today's schema");
            for table in ["conversations", "turns", "gateway_keys", "upstream_sessions"] {
                let query = sqlx::AssertSqlSafe(format!("SELECT COUNT(*) FROM {table}"));
                sqlx::query(query)
                    .execute(&database.connections().writers)
                    .await
                    .unwrap_or_else(|error| panic!("{table}: {error}"));
            }
        }
    }

    #[tokio::test]
    async fn a_newer_schema_is_refused() {
        let path = file();
        let database = Database::new(Location::File(path.clone())).expect("a database");
        database.ensure().await.expect("today's schema");
        sqlx::query("INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'x', 1, x'00', 0)")
            .execute(&database.connections().writers)
            .await
            .expect("a row");
        let older = Database::new(Location::File(path)).expect("a database");
        let error = older.ensure().await.expect_err("newer");
        assert_eq!(error.kind, Kind::StorageNewer);
    }
}
