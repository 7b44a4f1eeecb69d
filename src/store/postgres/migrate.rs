//! Bringing the schema of a PostgreSQL database up to date.
//!
//! Each step is a transaction that begins with the row of its own version. Of several processes that
//! start together the others wait at that row, find it taken, and look again: so no lock is needed
//! that outlives a transaction, or that a database of this kind may not have.

use futures_util::TryFutureExt;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use super::failure::failed;
use crate::domain::error::Error;
use crate::store::migrations::{Migration, Taken, missing};
use crate::store::unavailable;

/// How often one looks again after another process was faster. There are fewer steps than that.
const LOOKS: usize = 50;

const CREATE: &str = "CREATE TABLE IF NOT EXISTS _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT NOT NULL, \
     installed_on TIMESTAMPTZ NOT NULL DEFAULT now(), success BOOLEAN NOT NULL, checksum BYTEA NOT NULL, \
     execution_time BIGINT NOT NULL)";

pub async fn run(client: &Client) -> Result<(), Error> {
    for _ in 0..LOOKS {
        let outcome = match taken(client).await {
            Ok(taken) => match missing(&taken)?.first() {
                None => return Ok(()),
                Some(next) => take(client, next).await,
            },
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => {
                client.batch_execute(CREATE).await
            }
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => {}
            Err(error) if is_race(&error) => {}
            Err(error) => return Err(failed(&error)),
        }
    }
    Err(unavailable("its schema cannot be brought up to date (other processes are at it)"))
}

async fn taken(client: &Client) -> Result<Vec<Taken>, tokio_postgres::Error> {
    let rows = client.query_typed("SELECT version, success, checksum FROM _sqlx_migrations", &[]).await?;
    rows.iter()
        .map(|row| Ok(Taken { version: row.try_get(0)?, success: row.try_get(1)?, digest: row.try_get(2)? }))
        .collect()
}

/// Takes one step, or nothing of it.
async fn take(client: &Client, step: &Migration) -> Result<(), tokio_postgres::Error> {
    let text = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                VALUES ($1, $2, TRUE, $3, 0)";
    let digest = step.digest();
    let work = async {
        client.batch_execute("BEGIN").await?;
        client
            .execute_typed(
                text,
                &[(&step.version, Type::INT8), (&step.description, Type::TEXT), (&digest, Type::BYTEA)],
            )
            .await?;
        client.batch_execute(step.text).await?;
        client.batch_execute("COMMIT").await
    };
    work.or_else(|error| async {
        client.batch_execute("ROLLBACK").await?;
        Err(error)
    })
    .await
}

/// Whether another process did the same at the same time.
fn is_race(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| {
        [
            SqlState::UNIQUE_VIOLATION,
            SqlState::DUPLICATE_TABLE,
            // So says one who makes the table itself at the same moment.
            SqlState::DUPLICATE_OBJECT,
            SqlState::T_R_SERIALIZATION_FAILURE,
            SqlState::T_R_DEADLOCK_DETECTED,
        ]
        .contains(code)
    })
}
