//! Writes to SQLite, where one connection writes at a time: operations queue for it, and what waits
//! while the disk is busy is committed together, so that many turns share one wait for the disk.

use futures_util::future::BoxFuture;
use sqlx::{AnyConnection, AnyPool};
use tokio::sync::{mpsc, oneshot};

use super::operation::{Operation, Statement, between, failed};
use super::unavailable;
use crate::domain::error::Error;

/// The most operations in one transaction: the first of them waits for the last.
const MOST_TOGETHER: usize = 256;

type Outcome = Result<(), Error>;
type Erased = Box<dyn for<'c> FnOnce(&'c mut AnyConnection) -> BoxFuture<'c, Outcome> + Send>;

/// What is written. Each way to SQLite's own thread and back takes longer than a statement.
enum Work {
    /// Statements that go there in one text; and who is told how many rows they return.
    Text(Statement, oneshot::Sender<usize>),
    /// Statements of which each is looked at before the next.
    Operation(Erased),
}

/// Work that waits to be written, and the caller who is told once it is durable.
struct Write {
    work: Work,
    caller: oneshot::Sender<Outcome>,
}

/// The queue to the one who writes; it ends with the last of its clones.
#[derive(Clone)]
pub struct Writer(mpsc::UnboundedSender<Write>);

impl Writer {
    /// One who writes over this pool. Within the store's runtime only.
    pub fn start(pool: AnyPool) -> Self {
        let (queue, waiting) = mpsc::unbounded_channel();
        tokio::spawn(work(pool, waiting));
        Writer(queue)
    }

    /// Has an operation written; when this returns a value, it is durable. Dropped before the
    /// operation has begun, it never begins.
    ///
    /// # Errors
    /// The operation's own, which then has changed nothing; that of the commit, which every
    /// operation in it is told.
    pub async fn write<T: Send + 'static>(&self, operation: impl Operation<T>) -> Result<T, Error> {
        let (keep, value) = oneshot::channel();
        let operation: Erased = Box::new(|connection| {
            let work = operation(connection);
            Box::pin(async move {
                let _ = keep.send(work.await?);
                Ok(())
            })
        });
        self.queue(Work::Operation(operation), value).await
    }

    /// Has statements written that come in one text; says how many rows they return.
    ///
    /// # Errors
    /// As [`Writer::write`].
    pub async fn write_text(&self, statements: Statement) -> Result<usize, Error> {
        let (keep, rows) = oneshot::channel();
        self.queue(Work::Text(statements, keep), rows).await
    }

    async fn queue<T>(&self, work: Work, value: oneshot::Receiver<T>) -> Result<T, Error> {
        let (caller, outcome) = oneshot::channel();
        let stopped = || unavailable("it does not write any more");
        self.0.send(Write { work, caller }).map_err(|_| stopped())?;
        outcome.await.map_err(|_| stopped())??;
        value.await.map_err(|_| stopped())
    }
}

async fn work(pool: AnyPool, mut waiting: mpsc::UnboundedReceiver<Write>) {
    let mut group = Vec::new();
    while waiting.recv_many(&mut group, MOST_TOGETHER).await > 0 {
        // Whoever was told already that it failed must not find it done.
        group.retain(|write: &Write| !write.caller.is_closed());
        if group.is_empty() {
            continue;
        }
        let (works, callers): (Vec<_>, Vec<_>) =
            group.drain(..).map(|write| (write.work, write.caller)).unzip();
        // A task of its own, so that a defect in one operation does not end the writing for good.
        let outcomes = match tokio::spawn(commit(pool.clone(), works)).await {
            Ok(Ok(outcomes)) => outcomes,
            Ok(Err(error)) => vec![Err(failed(error)); callers.len()],
            Err(_) => vec![Err(unavailable("an operation met a defect of the program")); callers.len()],
        };
        for (caller, outcome) in callers.into_iter().zip(outcomes) {
            let _ = caller.send(outcome);
        }
    }
}

/// Does the works in one transaction and commits it. One that fails is undone alone.
///
/// # Errors
/// When the transaction failed as a whole: then nothing of it is kept.
async fn commit(pool: AnyPool, works: Vec<Work>) -> Result<Vec<Outcome>, sqlx::Error> {
    let mut connection = pool.acquire().await?;
    let committed = attempt(&mut connection, works).await;
    if committed.is_err() {
        // It fails where SQLite itself has rolled back, which a full disk makes it do.
        let _ = sqlx::query("ROLLBACK").execute(&mut *connection).await;
    }
    committed
}

async fn attempt(connection: &mut AnyConnection, works: Vec<Work>) -> Result<Vec<Outcome>, sqlx::Error> {
    let works = match <[Work; 1]>::try_from(works) {
        Ok([Work::Text(statements, keep)]) => {
            let whole = between("BEGIN IMMEDIATE", statements, "; COMMIT");
            let _ = keep.send(whole.fetch_all(connection).await?.len());
            return Ok(vec![Ok(())]);
        }
        Ok(works) => Vec::from(works),
        Err(works) => works,
    };
    let mut outcomes = Vec::with_capacity(works.len());
    let mut settled = "BEGIN IMMEDIATE; SAVEPOINT operation";
    for work in works {
        let outcome = match work {
            Work::Text(statements, keep) => {
                let rows = between(settled, statements, "").fetch_all(&mut *connection).await;
                rows.map_err(failed).map(|rows| {
                    let _ = keep.send(rows.len());
                })
            }
            Work::Operation(operation) => {
                sqlx::query(settled).execute(&mut *connection).await?;
                operation(connection).await
            }
        };
        settled = match &outcome {
            Ok(()) => "RELEASE operation; SAVEPOINT operation",
            Err(_) => "ROLLBACK TO operation",
        };
        outcomes.push(outcome);
    }
    if outcomes.last().is_some_and(Outcome::is_err) {
        sqlx::query(settled).execute(&mut *connection).await?;
    }
    sqlx::query("COMMIT").execute(connection).await?;
    Ok(outcomes)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use futures_util::future::join;
    use sqlx::any::AnyPoolOptions;

    use super::*;
    use crate::domain::error::Kind;

    async fn writer() -> (AnyPool, Writer) {
        sqlx::any::install_default_drivers();
        let options = AnyPoolOptions::new().min_connections(1).max_connections(1);
        let pool = options.connect("sqlite::memory:").await.expect("a database");
        let schema = "CREATE TABLE kept (name TEXT PRIMARY KEY); \
                      CREATE TABLE late (name TEXT REFERENCES kept DEFERRABLE INITIALLY DEFERRED)";
        sqlx::raw_sql(schema).execute(&pool).await.expect("tables");
        (pool.clone(), Writer::start(pool))
    }

    async fn keep(connection: &mut AnyConnection, name: &str) -> Outcome {
        let statement = sqlx::query("INSERT INTO kept VALUES ($1)").bind(name);
        statement.execute(connection).await.map(drop).map_err(failed)
    }

    async fn kept(pool: &AnyPool) -> Vec<String> {
        sqlx::query_scalar("SELECT name FROM kept ORDER BY name").fetch_all(pool).await.expect("names")
    }

    #[tokio::test]
    async fn an_operation_that_fails_is_undone_alone() {
        let (pool, writer) = writer().await;
        let fails = writer.write::<()>(|connection| {
            Box::pin(async {
                keep(connection, "undone").await?;
                keep(connection, "undone").await
            })
        });
        let before = writer.write(|connection| Box::pin(keep(connection, "before")));
        let after = writer.write(|connection| Box::pin(keep(connection, "after")));
        let (before, (failed, after)) = join(before, join(fails, after)).await;
        before.expect("kept");
        assert_eq!(failed.expect_err("a name twice").kind, Kind::StorageUnavailable);
        after.expect("kept");
        assert_eq!(kept(&pool).await, ["after", "before"]);
    }

    #[tokio::test]
    async fn what_stands_in_one_text_is_kept_whole_or_not_at_all() {
        let (pool, writer) = writer().await;
        let pair = |first: &'static str, second: &'static str| {
            let text = "INSERT INTO kept VALUES ($1); INSERT INTO kept VALUES ($2) RETURNING name";
            writer.write_text(sqlx::query(text).bind(first).bind(second))
        };
        // Alone, and among others: a name that is there already spoils its own text.
        assert_eq!(pair("a", "b").await.expect("kept"), 1);
        assert_eq!(pair("c", "a").await.expect_err("a name twice").kind, Kind::StorageUnavailable);
        let single = writer.write(|connection| Box::pin(keep(connection, "f")));
        let (first, (second, (third, fourth))) =
            join(pair("d", "e"), join(pair("g", "a"), join(single, pair("h", "i")))).await;
        assert_eq!((first.expect("kept"), fourth.expect("kept")), (1, 1));
        assert_eq!(second.expect_err("a name twice").kind, Kind::StorageUnavailable);
        third.expect("kept");
        assert_eq!(kept(&pool).await, ["a", "b", "d", "e", "f", "h", "i"]);
    }

    #[tokio::test]
    async fn a_commit_that_fails_fails_for_all_in_it() {
        let (pool, writer) = writer().await;
        let fine = writer.write(|connection| Box::pin(keep(connection, "fine")));
        // What it refers to is looked for at the commit.
        let spoils = writer.write(|connection| {
            let insert = sqlx::query("INSERT INTO late VALUES ('nobody')").execute(connection);
            Box::pin(async { insert.await.map(drop).map_err(failed) })
        });
        let (fine, spoils) = join(fine, spoils).await;
        for outcome in [fine, spoils] {
            assert_eq!(outcome.expect_err("not committed").kind, Kind::StorageUnavailable);
        }
        assert!(kept(&pool).await.is_empty());
        writer.write(|connection| Box::pin(keep(connection, "next"))).await.expect("kept");
        assert_eq!(kept(&pool).await, ["next"]);
    }

    #[tokio::test]
    async fn an_operation_with_a_defect_ends_itself_and_not_the_writing() {
        let (pool, writer) = writer().await;
        let defect = writer.write::<()>(|connection| {
            Box::pin(async {
                keep(connection, "half").await?;
                panic!("a defect")
            })
        });
        assert_eq!(defect.await.expect_err("a defect").kind, Kind::StorageUnavailable);
        let next = || writer.write(|connection| Box::pin(keep(connection, "next")));
        // What the defect left open is found, and undone, by the next at the latest.
        if next().await.is_err() {
            next().await.expect("kept");
        }
        assert_eq!(kept(&pool).await, ["next"]);
    }

    #[tokio::test]
    async fn an_operation_whose_caller_gave_up_before_it_began_never_begins() {
        let (pool, writer) = writer().await;
        let given_up = writer.write(|connection| Box::pin(keep(connection, "given up")));
        assert!(given_up.now_or_never().is_none());
        writer.write(|connection| Box::pin(keep(connection, "next"))).await.expect("kept");
        assert_eq!(kept(&pool).await, ["next"]);
    }
}
