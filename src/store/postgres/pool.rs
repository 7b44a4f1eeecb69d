//! The connections to PostgreSQL: a bounded number, made when they are needed, closed when they have
//! been idle. None is asked anything but what a caller asks.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_postgres::Client;

use super::failure::failed;
use super::url::Server;
use crate::domain::error::Error;
use crate::store::unavailable;

/// How long a free connection, or a new one, is waited for.
const ACQUIRE_TIME: Duration = Duration::from_secs(3);

/// How long a connection may be idle, which ones between may then have dropped in silence, and how
/// old it may become.
const IDLE_TIME: Duration = Duration::from_secs(60);
const LIFETIME: Duration = Duration::from_secs(1800);

#[derive(Clone)]
pub struct Pool(Arc<Shared>);

struct Shared {
    server: Server,
    permits: Arc<Semaphore>,
    /// The last that was used is used first, so that the others become idle.
    idle: Mutex<Vec<Idle>>,
    /// Whether a task looks after the idle ones.
    is_watched: AtomicBool,
}

struct Idle {
    client: Client,
    made: Instant,
    since: Instant,
}

impl Idle {
    fn is_good(&self) -> bool {
        !self.client.is_closed() && self.since.elapsed() < IDLE_TIME && self.made.elapsed() < LIFETIME
    }
}

/// A connection that one has for oneself; closed unless it is given back.
pub struct Connection {
    client: Client,
    made: Instant,
    pool: Arc<Shared>,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    pub fn client(&self) -> &Client {
        &self.client
    }
}

impl Pool {
    pub fn new(server: Server, connections: usize) -> Self {
        Pool(Arc::new(Shared {
            server,
            permits: Arc::new(Semaphore::new(connections)),
            idle: Mutex::default(),
            is_watched: AtomicBool::new(false),
        }))
    }

    /// Waits for a connection.
    ///
    /// # Errors
    /// When none is free in time, or none can be made.
    pub async fn acquire(&self) -> Result<Connection, Error> {
        let shared = &self.0;
        let permit = timeout(ACQUIRE_TIME, Arc::clone(&shared.permits).acquire_owned()).await;
        let permit =
            permit.map_err(|_| unavailable("no connection to it is free"))?.expect("it is never closed");
        let idle = {
            let mut idle = shared.idle();
            idle.retain(Idle::is_good);
            idle.pop()
        };
        let (client, made) = match idle {
            Some(Idle { client, made, .. }) => (client, made),
            None => {
                let connected = timeout(ACQUIRE_TIME, shared.server.connect()).await;
                let connected =
                    connected.map_err(|_| unavailable("no connection to it can be made in time"))?;
                (connected.map_err(|error| failed(&error))?, Instant::now())
            }
        };
        Ok(Connection { client, made, pool: Arc::clone(shared), _permit: permit })
    }

    /// Gives a connection back on which nothing is open.
    pub fn release(connection: Connection) {
        let Connection { client, made, pool, _permit } = connection;
        pool.idle().push(Idle { client, made, since: Instant::now() });
        if !pool.is_watched.swap(true, Ordering::AcqRel) {
            tokio::spawn(close_idle(pool));
        }
    }

    /// Closes those that nobody uses.
    pub fn clear(&self) {
        self.0.idle().clear();
    }
}

impl Shared {
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes connections that have become idle, until there is none.
async fn close_idle(pool: Arc<Shared>) {
    loop {
        sleep(IDLE_TIME).await;
        let mut idle = pool.idle();
        idle.retain(Idle::is_good);
        if idle.is_empty() {
            pool.is_watched.store(false, Ordering::Release);
            return;
        }
    }
}
