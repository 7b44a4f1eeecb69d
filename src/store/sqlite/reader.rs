//! Reading from a SQLite file, beside the one who writes.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use tokio::sync::mpsc::{UnboundedReceiver, WeakUnboundedSender};

use super::connection::{FileId, Place, execute, failed, file_at, open};
use super::{Ask, Opened, Order, Work};
use crate::domain::error::Error;
use crate::store::statement::{Row, Statement};

/// One who reads. What it cannot read, since the file is not the one that was opened, it hands on to
/// the writer, who looks after the file.
pub struct Reader {
    place: Place,
    path: PathBuf,
    opened: Arc<Opened>,
    writer: WeakUnboundedSender<Order<Work>>,
    connection: Option<(FileId, Connection)>,
}

impl Reader {
    pub fn new(path: PathBuf, opened: Arc<Opened>, writer: WeakUnboundedSender<Order<Work>>) -> Self {
        Reader { place: Place::File(path.clone()), path, opened, writer, connection: None }
    }

    /// Reads what is asked for, taking turns with others at one queue, until there is nobody to ask.
    pub fn run(mut self, waiting: &Mutex<UnboundedReceiver<Order<Ask>>>) {
        loop {
            let asked = waiting.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
            let Some(Order { what, request }) = asked else { return };
            match (what, self.current_file()) {
                (Ask::Read(statement, caller), Some(file)) => {
                    let _ = caller.send(self.read(file, &statement));
                }
                (Ask::Close(caller), _) => {
                    drop(self.connection);
                    let _ = caller.send(());
                    return;
                }
                (what, _) => self.hand_on(Order { what: Work::Ask(what), request }),
            }
        }
    }

    /// Whoever asked is told that nobody is there, where that is so, by the end of his channel.
    fn hand_on(&self, order: Order<Work>) {
        if let Some(writer) = self.writer.upgrade() {
            let _ = writer.send(order);
        }
    }

    /// The file at the path, if it is the one that the writer has opened.
    fn current_file(&self) -> Option<FileId> {
        let opened = *self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.map(|open| open.file).filter(|file| file_at(&self.path).is_ok_and(|found| found == *file))
    }

    fn read(&mut self, file: FileId, statement: &Statement) -> Result<Vec<Row>, Error> {
        let connection = match self.connection.take().filter(|(opened, _)| *opened == file) {
            Some((_, connection)) => connection,
            None => open(&self.place)?,
        };
        let (_, connection) = self.connection.insert((file, connection));
        execute(connection, statement).map(|done| done.rows).map_err(failed)
    }
}
