//! Writing to SQLite, where one connection writes at a time: what waits while the disk is busy is
//! committed together, so that many turns share one wait for the disk.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use rusqlite::{Connection, ErrorCode};
use tokio::sync::mpsc::UnboundedReceiver;

use super::connection::{FileId, MEMORY, Place, create, execute, failed, file_at, migrate, open};
use super::{Ask, BEGUN, Open, Opened, Order, Work, Write, room, space};
use crate::domain::error::Error;
use crate::request;
use crate::store::statement::{Done, Row, Statement, Unwritten, ends_batch};
use crate::store::unavailable;

/// The most writes in one transaction: the first of them waits for the last.
const MOST_TOGETHER: usize = 256;

type Outcome = Result<Vec<Done>, Unwritten>;

/// The one who writes, and who looks after the file.
pub struct Writer {
    place: Place,
    opened: Arc<Opened>,
    connection: Option<(FileId, Connection)>,
    /// Whether there may be space to be given back.
    has_deleted: bool,
}

impl Writer {
    pub fn new(place: Place, opened: Arc<Opened>) -> Self {
        Writer { place, opened, connection: None, has_deleted: false }
    }

    /// Does what is asked for until there is nobody to ask.
    pub fn run(mut self, mut waiting: UnboundedReceiver<Order<Work>>) {
        let mut orders = Vec::new();
        while waiting.blocking_recv_many(&mut orders, MOST_TOGETHER) > 0 {
            let (mut group, mut asked) = (Vec::new(), Vec::new());
            let mut first = None;
            for Order { what, request } in orders.drain(..) {
                match what {
                    Work::Write(write) => {
                        group.push(write);
                        first = first.or(request);
                    }
                    Work::Ask(what) => asked.push((what, request)),
                }
            }
            request::sync_scope(first, || self.write(group));
            for (what, request) in asked {
                if let Ask::Close(caller) = what {
                    drop(self.connection);
                    let _ = caller.send(());
                    return;
                }
                request::sync_scope(request, || self.answer(what));
            }
            while self.has_deleted && waiting.is_empty() {
                self.give_back();
            }
        }
    }

    fn answer(&mut self, what: Ask) {
        match what {
            Ask::Read(statement, caller) => drop(caller.send(self.read(&statement))),
            Ask::Probe(caller) => drop(caller.send(self.probe())),
            Ask::Close(caller) => drop(caller),
        }
    }

    fn read(&mut self, statement: &Statement) -> Result<Vec<Row>, Error> {
        let connection = self.connection()?;
        execute(connection, statement).map(|done| done.rows).map_err(failed)
    }

    /// Writes together what nobody has given up yet. Whoever was told already that it failed must not
    /// find it done.
    fn write(&mut self, mut group: Vec<Write>) {
        group.retain(|write| write.claim.settle(BEGUN));
        if group.is_empty() {
            return;
        }
        let deletes = |statement: &Statement| statement.text.sqlite.starts_with("DELETE");
        self.has_deleted |= group.iter().any(|write| write.batch.iter().any(deletes));
        let committed = self.connection().map_err(Unwritten::from).and_then(|connection| {
            let committed = commit(connection, &group);
            if committed.is_err() && !connection.is_autocommit() {
                // A statement that fails may have ended the transaction itself, as on a full disk.
                let _ = connection.execute_batch("ROLLBACK");
            }
            committed
        });
        if let Some((file, connection)) = &self.connection {
            self.opened(*file, connection, committed.is_ok());
        }
        let outcomes = match committed {
            Ok(outcomes) => outcomes,
            Err(Unwritten { error, undecided }) => {
                group.iter().map(|_| Err(Unwritten { error: error.clone(), undecided })).collect()
            }
        };
        for (write, outcome) in group.into_iter().zip(outcomes) {
            let _ = write.caller.send(outcome);
        }
    }

    /// Tells the others that this file is open, and whether it was written now.
    fn opened(&self, file: FileId, connection: &Connection, is_written: bool) {
        let size = space::size(connection);
        let wrote = (is_written && size.is_ok()).then(Instant::now);
        let open = Open { file, wrote, size: size.unwrap_or_default() };
        *self.opened.lock().unwrap_or_else(PoisonError::into_inner) = Some(open);
    }

    fn give_back(&mut self) {
        let given = self.connection.as_ref().map(|(_, connection)| space::give_back(connection));
        self.has_deleted = matches!(given, Some(Ok(true)));
    }

    /// Opens the database, and sees that it could be written: that takes the lock and writes nothing.
    fn probe(&mut self) -> Result<(), Error> {
        let place = &self.place.clone();
        let connection = self.connection()?;
        connection.execute_batch("BEGIN IMMEDIATE; ROLLBACK").map_err(failed)?;
        match place {
            Place::Memory => Ok(()),
            Place::File(path) => {
                let (reusable, size) = (space::reusable(connection), space::size(connection));
                room::check(path, reusable.map_err(failed)?, size.map_err(failed)?)
            }
        }
    }

    /// The connection to the file that is at the path now, with today's schema.
    fn connection(&mut self) -> Result<&mut Connection, Error> {
        let file = self.file()?;
        let connection = match self.connection.take() {
            Some((opened, connection)) if opened == file => connection,
            before => {
                if before.is_some() {
                    log::warn!("the store's file was replaced by another, which is opened now");
                }
                drop(before);
                let mut connection = open(&self.place)?;
                migrate(&mut connection)?;
                if let Place::File(path) = &self.place {
                    space::rewrite_if_small(&connection, path);
                }
                log::debug!("the store is open");
                self.opened(file, &connection, true);
                connection
            }
        };
        Ok(&mut self.connection.insert((file, connection)).1)
    }

    /// Creates the file for its owner alone, and refuses one that was taken away under an open
    /// connection, which would swallow what is written. Another file in its place, such as a backup,
    /// is opened anew.
    fn file(&self) -> Result<FileId, Error> {
        let Place::File(path) = &self.place else { return Ok(MEMORY) };
        match file_at(path) {
            Ok(file) => Ok(file),
            Err(_) if self.connection.is_some() => {
                Err(unavailable(format_args!("its file {} is gone", path.display())).hinted(
                    "put the file of the store back; or restart the service to begin with an empty one",
                ))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                create(path).map_err(|error| cannot_create(path, &error))
            }
            Err(error) => Err(cannot_create(path, &error)),
        }
    }
}

fn cannot_create(path: &Path, error: &io::Error) -> Error {
    unavailable(format_args!("cannot create {}: {error}", path.display()))
}

/// Does the writes in one transaction and commits it. One that fails is undone alone.
///
/// # Errors
/// When the transaction failed as a whole: then nothing of it is kept.
fn commit(connection: &Connection, group: &[Write]) -> Result<Vec<Outcome>, Unwritten> {
    let run = |text: &str| {
        connection.prepare_cached(text).and_then(|mut statement| statement.execute(()).map(drop))
    };
    let failure = |error| Unwritten::from(failed(error));
    run("BEGIN IMMEDIATE").map_err(failure)?;
    let mut outcomes = Vec::with_capacity(group.len());
    for Write { batch, .. } in group {
        // One statement alone is undone by itself when it fails.
        let is_marked = batch.len() > 1 && group.len() > 1;
        if is_marked {
            run("SAVEPOINT write").map_err(failure)?;
        }
        let outcome = match attempt(connection, batch) {
            Err(error) if connection.is_autocommit() || group.len() == 1 => return Err(failure(error)),
            outcome => outcome,
        };
        if is_marked {
            let settled = if outcome.is_ok() { "RELEASE write" } else { "ROLLBACK TO write" };
            run(settled).map_err(failure)?;
        }
        outcomes.push(outcome.map_err(failure));
    }
    run("COMMIT").map_err(|error| {
        // What a failed disk has of it may be found again after a restart.
        let undecided = error.sqlite_error_code() == Some(ErrorCode::SystemIoFailure);
        Unwritten { error: failed(error), undecided }
    })?;
    Ok(outcomes)
}

fn attempt(connection: &Connection, batch: &[Statement]) -> rusqlite::Result<Vec<Done>> {
    let mut all = Vec::with_capacity(batch.len());
    for statement in batch {
        let done = execute(connection, statement)?;
        let ends = ends_batch(statement, &done);
        all.push(done);
        if ends {
            break;
        }
    }
    Ok(all)
}
