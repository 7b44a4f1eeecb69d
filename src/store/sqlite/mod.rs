//! SQLite, in a file or in memory, called on threads of its own: one that writes and two that read.
//!
//! What is asked of them waits in queues. Whoever asked may leave: what has begun runs to its end.

mod connection;
mod draft;
mod lock;
mod reader;
mod room;
pub mod snapshot;
mod space;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::statement::{Done, Row, Statement, Unwritten};
use super::{OPERATION_TIME, unavailable};
use crate::domain::error::{Error, Kind};
use crate::request;
use connection::{FileId, Place, file_at};
pub use lock::{NoLock, ServiceLock};
use reader::Reader;
use writer::Writer;

/// Threads that read from a file.
const READERS: usize = 2;

/// How long that something was written tells that something can be.
const FRESH: Duration = Duration::from_secs(1);

/// How long one waits for a commit that has begun: the disk decides, and what it decides is told.
const COMMIT_TIME: Duration = Duration::from_secs(20);

/// The queues to a SQLite database.
pub struct Sqlite {
    place: Place,
    writes: mpsc::UnboundedSender<Order<Work>>,
    /// `None` in memory, which is its one connection's.
    reads: Option<mpsc::UnboundedSender<Order<Ask>>>,
    opened: Arc<Opened>,
}

/// What the writer has opened, and brought up to date, if it has.
type Opened = Mutex<Option<Open>>;

#[derive(Clone, Copy)]
struct Open {
    /// The file, which a path alone does not tell.
    file: FileId,
    /// When something was last written, unless that has failed since.
    wrote: Option<Instant>,
    /// How large the file is then, once the log is written back.
    size: u64,
}

/// What a thread is asked to do.
struct Order<T> {
    what: T,
    /// The request that it is for, if it is for one.
    request: Option<request::Context>,
}

impl<T> Order<T> {
    fn of(what: T) -> Self {
        Order { what, request: request::current() }
    }
}

/// What the one who writes is asked to do.
enum Work {
    /// Statements of which all are kept or none.
    Write(Write),
    Ask(Ask),
}

/// What writes nothing.
enum Ask {
    Read(Statement, oneshot::Sender<Result<Vec<Row>, Error>>),
    /// To open the database, and see that it can be written.
    Probe(oneshot::Sender<Result<(), Error>>),
    /// To end.
    Close(oneshot::Sender<()>),
}

struct Write {
    batch: Arc<[Statement]>,
    claim: Arc<Claim>,
    caller: oneshot::Sender<Result<Vec<Done>, Unwritten>>,
}

/// Settles between the one who writes and the one who waits whether a write has begun.
#[derive(Default)]
struct Claim(AtomicU8);

const BEGUN: u8 = 1;
const GIVEN_UP: u8 = 2;

impl Claim {
    /// Whether it is the caller's to say that this happens now.
    fn settle(&self, how: u8) -> bool {
        self.0.compare_exchange(0, how, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// Gives a write up that has not begun when its caller leaves.
struct GivesUp(Arc<Claim>);

impl Drop for GivesUp {
    fn drop(&mut self) {
        self.0.settle(GIVEN_UP);
    }
}

impl Sqlite {
    /// A database in a file, or in memory. Nothing is opened yet.
    ///
    /// # Errors
    /// When its threads cannot start.
    pub fn new(file: Option<PathBuf>) -> Result<Self, Error> {
        let place = file.map_or(Place::Memory, Place::File);
        let opened: Arc<Opened> = Arc::default();
        let (writes, waiting) = mpsc::unbounded_channel();
        let writer = Writer::new(place.clone(), Arc::clone(&opened));
        spawn("store-writer", move || writer.run(waiting))?;
        let reads = match &place {
            Place::Memory => None,
            Place::File(path) => {
                let (reads, waiting) = mpsc::unbounded_channel();
                let waiting = Arc::new(Mutex::new(waiting));
                for _ in 0..READERS {
                    let reader = Reader::new(path.clone(), Arc::clone(&opened), writes.downgrade());
                    let waiting = Arc::clone(&waiting);
                    spawn("store-reader", move || reader.run(&waiting))?;
                }
                Some(reads)
            }
        };
        Ok(Sqlite { place, writes, reads, opened })
    }

    /// Does what changes nothing.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn read(&self, statement: Statement) -> Result<Vec<Row>, Error> {
        let (caller, outcome) = oneshot::channel();
        self.ask(self.reads.as_ref(), Ask::Read(statement, caller))?;
        answered(outcome).await?
    }

    /// Does statements of which all are kept or none; what they changed is durable when this returns.
    /// Dropped before they have begun, they never begin.
    ///
    /// # Errors
    /// When they are not kept, or may not be.
    pub async fn write(&self, batch: Arc<[Statement]>) -> Result<Vec<Done>, Unwritten> {
        let (caller, mut outcome) = oneshot::channel();
        let claim = Arc::<Claim>::default();
        let _gives_up = GivesUp(Arc::clone(&claim));
        let write = Write { batch, claim: Arc::clone(&claim), caller };
        self.writes.send(Order::of(Work::Write(write))).map_err(|_| stopped())?;
        let outcome = match timeout(OPERATION_TIME, &mut outcome).await {
            Err(_) if claim.settle(GIVEN_UP) => return Err(late().into()),
            Err(_) => timeout(COMMIT_TIME, outcome).await,
            Ok(outcome) => Ok(outcome),
        };
        match outcome {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(Unwritten { error: stopped(), undecided: true }),
            Err(_) => Err(Unwritten { error: late(), undecided: true }),
        }
    }

    /// Opens the database, brings its schema up to date, and sees that it can be written.
    ///
    /// # Errors
    /// Why not.
    pub async fn probe(&self) -> Result<(), Error> {
        let (caller, outcome) = oneshot::channel();
        self.ask(None, Ask::Probe(caller))?;
        answered(outcome).await?
    }

    /// Sees that a turn could be kept now, where that can be told without a wait; `None` where the one
    /// who writes must be asked.
    pub fn glance(&self) -> Option<()> {
        let open = (*self.opened.lock().unwrap_or_else(PoisonError::into_inner))?;
        match &self.place {
            Place::Memory => Some(()),
            Place::File(path) => {
                let is_fresh = open.wrote.is_some_and(|wrote| wrote.elapsed() < FRESH);
                let is_there = || file_at(path).is_ok_and(|file| file == open.file);
                // What is too full for a turn may have room within the file.
                (is_fresh && is_there() && room::check(path, 0, open.size).is_ok()).then_some(())
            }
        }
    }

    /// Closes all connections; the file then holds everything in itself.
    pub async fn close(&self) {
        // The last connection that ends writes the log back, and that one may write.
        let readers = self.reads.iter().flat_map(|reads| std::iter::repeat_n(Some(reads), READERS));
        for reader in readers.chain([None]) {
            let (caller, closed) = oneshot::channel();
            if self.ask(reader, Ask::Close(caller)).is_ok() {
                let _ = answered(closed).await;
            }
        }
    }

    /// Asks one who reads, else the one who writes.
    fn ask(&self, readers: Option<&mpsc::UnboundedSender<Order<Ask>>>, what: Ask) -> Result<(), Error> {
        let sent = match readers {
            Some(readers) => readers.send(Order::of(what)).is_ok(),
            None => self.writes.send(Order::of(Work::Ask(what))).is_ok(),
        };
        if sent { Ok(()) } else { Err(stopped()) }
    }
}

async fn answered<T>(outcome: oneshot::Receiver<T>) -> Result<T, Error> {
    timeout(OPERATION_TIME, outcome).await.map_err(|_| late())?.map_err(|_| stopped())
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    let started = thread::Builder::new().name(name.into()).spawn(work);
    started
        .map(drop)
        .map_err(|error| Error::new(Kind::Internal, format!("the store's thread does not start: {error}")))
}

fn stopped() -> Error {
    unavailable("its thread has stopped")
}

fn late() -> Error {
    unavailable("it does not answer in time")
}

/// The folder that a file is in.
fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests;
