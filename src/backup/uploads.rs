//! Uploading the store after its changes, beside the requests.
//!
//! Whether it has changed is asked of its file, which also others write, such as `mirrorgate key`. That costs
//! a look at memory that processes share, so it goes on while nobody asks the service; what has not changed
//! is not uploaded.

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_blocking, spawn_local};
use tokio::time::{Instant, sleep, timeout};

use super::Backup;
use super::generations::{self, Generation};
use super::objects::Created;
use crate::domain::error::Error;
use crate::store::snapshot::{Draft, Snapshots};

/// What a bucket, and the line to it, are spared: the fewest seconds for so many bytes.
const BYTES_A_SECOND: u64 = 1_000_000;

/// How often it is looked for changes, at least and at most.
const LOOK: Duration = Duration::from_secs(1);
const SHORTEST_LOOK: Duration = Duration::from_millis(10);

/// How long the last upload may take when the service stops.
const LAST_TIME: Duration = Duration::from_secs(20);

/// What others may know of the uploads: what is wrong, if something is.
#[derive(Clone, Default)]
pub struct Standing(Arc<Mutex<Option<String>>>);

impl Standing {
    /// Why the latest changes are not in the bucket, if that has failed.
    pub fn trouble(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, trouble: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}

/// The uploads of a running service.
pub struct Uploads {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Uploads {
    /// Uploads what has changed since, and ends.
    pub async fn finish(self) {
        let _ = self.stop.send(());
        let abort = self.task.abort_handle();
        if timeout(LAST_TIME, self.task).await.is_err() {
            abort.abort();
            log::error!("the latest changes are not in the bucket: the last upload takes too long");
        }
    }
}

impl Backup {
    /// Looks at the store as the start has opened it: from now on it may become another one.
    pub async fn watch(self) -> Uploader {
        let standing = Standing::default();
        let mut uploader = Uploader { backup: self, watched: None, digest: None, size: 0, standing };
        // What the start itself has made of a restored store comes again with each start.
        if !uploader.backup.is_ahead && uploader.has_changed() {
            uploader.digest = uploader.snapshot().await.ok().map(|(_, digest)| digest);
        }
        uploader
    }
}

/// The shortest time from one upload to the next, after one of this size.
fn pause(interval: Duration, size: u64) -> Duration {
    interval.max(Duration::from_secs(size / BYTES_A_SECOND))
}

/// Why something was not uploaded.
enum Failure {
    /// Another process has the backup now, which began with this generation.
    Lost(u64),
    Other(String),
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        Failure::Other(why)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Other(error.to_string())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Other(error.message)
    }
}

/// Uploads what changes.
pub struct Uploader {
    /// How the uploads go.
    pub standing: Standing,
    backup: Backup,
    /// The store's file, and the version of it that was seen last.
    watched: Option<(Snapshots, i64)>,
    /// That of the snapshot that was uploaded last, or restored.
    digest: Option<[u8; 32]>,
    /// The size of the snapshot that was uploaded last.
    size: u64,
}

impl Uploader {
    /// The generation that the store was restored from, if it was.
    pub fn restored(&self) -> Option<u64> {
        self.backup.restored
    }

    /// Claims the backup, and uploads from now on.
    ///
    /// # Errors
    /// Why it cannot be claimed, in words.
    pub async fn start(mut self) -> Result<Uploads, String> {
        self.backup.claim().await?;
        let (stop, stopped) = oneshot::channel();
        Ok(Uploads { stop, task: spawn_local(self.run(stopped)) })
    }

    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        let interval = self.backup.interval;
        let mut changed = self.backup.is_ahead.then(Instant::now);
        let mut last: Option<Instant> = None;
        loop {
            tokio::select! {
                _ = &mut stopped => break,
                () = sleep((interval / 10).clamp(SHORTEST_LOOK, LOOK)) => {}
            }
            if self.has_changed() {
                changed.get_or_insert_with(Instant::now);
            }
            // What comes right after a change goes along with it.
            let Some(settled) = changed.map(|since| since + interval / 3) else { continue };
            let due = last.map_or(settled, |last| settled.max(last + pause(interval, self.size)));
            if Instant::now() < due {
                continue;
            }
            last = Some(Instant::now());
            match self.attempt().await {
                Ok(()) => changed = None,
                Err(Failure::Other(_)) => {}
                Err(Failure::Lost(_)) => return,
            }
        }
        if (self.has_changed() || changed.is_some()) && self.attempt().await.is_err() {
            log::error!("the service ends, and its latest changes are on this disk alone");
        }
    }

    /// Uploads, and tells how that went.
    async fn attempt(&mut self) -> Result<(), Failure> {
        let outcome = self.upload().await;
        let trouble = match &outcome {
            Ok(()) => None,
            Err(Failure::Other(why)) => {
                let trouble = format!("the latest changes are not in the bucket: {why}");
                log::warn!("{trouble}");
                Some(trouble)
            }
            Err(Failure::Lost(number)) => {
                let trouble = "another process has taken the backup over: this one uploads nothing any more, and what it keeps from now on is on this disk alone";
                log::error!(generation = number; "{trouble}; only one process may run with the same BACKUP_URL");
                Some(trouble.into())
            }
        };
        self.standing.set(trouble);
        outcome
    }

    /// Whether the store is another one than at the last look. One that cannot be looked at is looked at
    /// again.
    fn has_changed(&mut self) -> bool {
        if self.watched.as_ref().is_none_or(|(snapshots, _)| !snapshots.is_current()) {
            let opened = Snapshots::of(&self.backup.store);
            let watched =
                opened.and_then(|snapshots| snapshots.version().map(|version| (snapshots, version)));
            self.watched = watched.ok();
            return self.watched.is_some();
        }
        self.watched.as_mut().is_some_and(|(snapshots, seen)| match snapshots.version() {
            Ok(version) => std::mem::replace(seen, version) != version,
            Err(_) => false,
        })
    }

    /// Uploads the store as it is now, if it is not there already.
    async fn upload(&mut self) -> Result<(), Failure> {
        let (draft, digest) = self.snapshot().await?;
        if self.digest == Some(digest) {
            return Ok(());
        }
        loop {
            let number = generations::next(&self.backup.all);
            let pieces = self.backup.vault.pieces(File::open(draft.path())?)?;
            let size = pieces.length();
            let key = generations::key(number, &self.backup.prefix);
            let created = self.backup.objects.create(&key, size, pieces).await?;
            if created == Created::ByAnother {
                return Err(Failure::Lost(number));
            }
            // Of one that was created before, all is known but whether it holds the latest changes.
            self.backup.all.push(Generation { number, size });
            if created == Created::Now {
                log::info!(generation = number, bytes = size; "a snapshot of the store is in the bucket");
                (self.digest, self.size) = (Some(digest), size);
                self.backup.prune().await;
                return Ok(());
            }
        }
    }

    /// Takes a snapshot, on a thread of its own.
    async fn snapshot(&self) -> Result<(Draft, [u8; 32]), Failure> {
        let store = self.backup.store.clone();
        let take = move || {
            let draft = Draft::beside(&store, ".snapshot")?;
            Snapshots::of(&store)?.take(&draft)?;
            let mut hash = Sha256::new();
            io::copy(&mut File::open(draft.path())?, &mut hash)?;
            Ok((draft, hash.finalize().into()))
        };
        spawn_blocking(take).await.map_err(|_| String::from("taking a snapshot has failed"))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_store_is_uploaded_less_often() {
        let interval = Duration::from_secs(30);
        for (size, seconds) in [(0, 30), (30_000_000, 30), (31_000_000, 31), (2_000_000_000, 2000)] {
            assert_eq!(pause(interval, size), Duration::from_secs(seconds), "{size}");
        }
    }
}
