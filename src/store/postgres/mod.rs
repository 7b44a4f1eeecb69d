//! PostgreSQL, and what speaks as it does, also behind a pooler.
//!
//! Each statement goes in one round trip with the types of its values, unnamed, and nothing is left
//! behind in the session: no prepared statement, no setting, no lock, no listening. So it does not
//! matter which of a pooler's connections serves the next one. What the databases of its kind do not
//! all have, such as advisory locks, is not used.

mod failure;
mod migrate;
mod pool;
mod url;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::{TryStreamExt, pin_mut};
use secrecy::SecretString;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use super::statement::{Done, Row, Statement, Text, Unwritten, Value, ends_batch, text};
use super::{OPERATION_TIME, unavailable};
use crate::domain::error::{Error, Kind};
use crate::request;
use failure::Failure;
use pool::Pool;

/// How often statements are tried that the database put off for others' sake.
const TRIES: u32 = 5;
const TRY_AGAIN: Duration = Duration::from_millis(20);

/// What a database refuses that is read-only, and what changes no row and waits for no disk.
const WRITE_NOTHING: &Text = text!["UPDATE conversations SET used_at = used_at WHERE owner = '' AND id = ''"];

/// The connections to a PostgreSQL server.
pub struct Postgres {
    inner: Arc<Inner>,
    /// `None` once it is being dropped, which may not happen within another runtime.
    runtime: Option<Runtime>,
}

struct Inner {
    pool: Pool,
    /// Whether the schema is known to be up to date.
    migrated: AtomicBool,
    migrating: Mutex<()>,
}

impl Postgres {
    /// A server by its URL, to which up to so many connections are made. None is made yet.
    ///
    /// # Errors
    /// When its thread cannot start, or the URL is not understood.
    pub fn new(url: &SecretString, connections: usize) -> Result<Self, Error> {
        let runtime =
            Builder::new_multi_thread().worker_threads(1).thread_name("store").enable_all().build().map_err(
                |error| Error::new(Kind::Internal, format!("the store's thread does not start: {error}")),
            )?;
        let pool = Pool::new(url::parse(url)?, connections);
        let inner = Inner { pool, migrated: AtomicBool::new(false), migrating: Mutex::new(()) };
        Ok(Postgres { inner: Arc::new(inner), runtime: Some(runtime) })
    }

    /// Does what changes nothing.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn read(&self, statement: Statement) -> Result<Vec<Row>, Error> {
        let done = self.write([statement].into()).await?;
        Ok(done.into_iter().next().map(|done| done.rows).unwrap_or_default())
    }

    /// Does statements of which all are kept or none, to their end, also when the caller leaves. What
    /// they changed is durable when this returns.
    ///
    /// # Errors
    /// When they are not kept, or may not be.
    pub async fn write(&self, batch: Arc<[Statement]>) -> Result<Vec<Done>, Unwritten> {
        self.run(|inner| async move { inner.write(&batch).await }).await
    }

    /// Brings the schema up to date, and sees that the database can be written.
    ///
    /// # Errors
    /// Why not.
    pub async fn probe(&self) -> Result<(), Error> {
        self.write([Statement::new(WRITE_NOTHING, [])].into()).await.map(drop).map_err(Error::from)
    }

    /// Ends the connections that nobody uses.
    pub fn close(&self) {
        self.inner.pool.clear();
    }

    /// The thread on which work goes on that no caller waits for.
    pub fn handle(&self) -> Handle {
        self.runtime.as_ref().expect("the runtime is there until the store is dropped").handle().clone()
    }

    async fn run<T, F>(&self, work: impl FnOnce(Arc<Inner>) -> F) -> Result<T, Unwritten>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Unwritten>> + Send + 'static,
    {
        let task = self.handle().spawn(request::carried(work(Arc::clone(&self.inner))));
        task.await.unwrap_or_else(|_| {
            Err(Unwritten { error: unavailable("its thread has stopped"), undecided: true })
        })
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Inner {
    async fn ensure(&self) -> Result<(), Error> {
        if self.migrated.load(Ordering::Acquire) {
            return Ok(());
        }
        let _one_at_a_time = self.migrating.lock().await;
        if !self.migrated.load(Ordering::Acquire) {
            let connection = self.pool.acquire().await?;
            timeout(OPERATION_TIME, migrate::run(connection.client())).await.map_err(|_| late())??;
            self.migrated.store(true, Ordering::Release);
            Pool::release(connection);
        }
        Ok(())
    }

    async fn write(&self, batch: &[Statement]) -> Result<Vec<Done>, Unwritten> {
        self.ensure().await?;
        let mut tries = TRIES;
        loop {
            let connection = self.pool.acquire().await?;
            // A connection that is not given back is closed: nothing is known of its transaction.
            let outcome = timeout(OPERATION_TIME, execute(connection.client(), batch)).await;
            let Ok(outcome) = outcome else { return Err(Unwritten { error: late(), undecided: true }) };
            if !matches!(&outcome, Err(failure) if failure.ends_connection) {
                Pool::release(connection);
            }
            tries -= 1;
            match outcome {
                Ok(done) => return Ok(done),
                Err(failure) if failure.is_put_off && tries > 0 => sleep(TRY_AGAIN).await,
                Err(Failure { error, undecided, .. }) => return Err(Unwritten { error, undecided }),
            }
        }
    }
}

fn late() -> Error {
    unavailable("it does not answer in time")
}

/// One statement is a transaction by itself; several are put into one.
async fn execute(client: &Client, batch: &[Statement]) -> Result<Vec<Done>, Failure> {
    if let [statement] = batch {
        return Ok(vec![query(client, statement).await.map_err(Failure::of_commit)?]);
    }
    client.batch_execute("BEGIN").await.map_err(Failure::before_commit)?;
    match attempt(client, batch).await {
        Ok(all) => {
            client.batch_execute("COMMIT").await.map_err(Failure::of_commit)?;
            Ok(all)
        }
        Err(error) => {
            let ended = client.batch_execute("ROLLBACK").await;
            let failure = Failure::before_commit(error);
            Err(Failure { ends_connection: failure.ends_connection || ended.is_err(), ..failure })
        }
    }
}

async fn attempt(client: &Client, batch: &[Statement]) -> Result<Vec<Done>, tokio_postgres::Error> {
    let mut all = Vec::with_capacity(batch.len());
    for statement in batch {
        let done = query(client, statement).await?;
        let ends = ends_batch(statement, &done);
        all.push(done);
        if ends {
            break;
        }
    }
    Ok(all)
}

/// Does one statement, in one round trip.
async fn query(client: &Client, statement: &Statement) -> Result<Done, tokio_postgres::Error> {
    let values = statement.values.iter().map(|value| -> (&(dyn ToSql + Sync), Type) {
        match value {
            Value::Null => (&None::<&str>, Type::TEXT),
            Value::Integer(number) => (number, Type::INT8),
            Value::Text(text) => (text, Type::TEXT),
        }
    });
    let stream = client.query_typed_raw(statement.text.postgres, values).await?;
    pin_mut!(stream);
    let mut done = Done::default();
    while let Some(row) = stream.try_next().await? {
        done.rows.push(decoded(&row)?);
    }
    done.changed = stream.rows_affected().unwrap_or_default();
    Ok(done)
}

fn decoded(row: &tokio_postgres::Row) -> Result<Row, tokio_postgres::Error> {
    let value = |(index, column): (usize, &tokio_postgres::Column)| {
        Ok(match *column.type_() {
            Type::INT8 => row.try_get::<_, Option<i64>>(index)?.into(),
            Type::TEXT => row.try_get::<_, Option<String>>(index)?.map_or(Value::Null, Value::Text),
            _ => Value::Null,
        })
    };
    Ok(Row(row.columns().iter().enumerate().map(value).collect::<Result<_, tokio_postgres::Error>>()?))
}
