//! The SQLite store in a bucket as well, for platforms that wipe the disk: at a start without a file the
//! newest snapshot is taken from there, and a changed store is uploaded as the next generation.
//!
//! One process alone has a backup: whoever starts claims the next generation, and the one before notices
//! that at its next upload, which fails, and ends its part. Nothing is uploaded before the newest snapshot
//! could be read, and nothing over what is there.

mod generations;
mod objects;
mod uploads;

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio::task::spawn_blocking;

use crate::config;
use crate::store::snapshot::{self, Draft};
use crate::vault::Vault;
use generations::Generation;
use objects::{Created, Objects};
pub use uploads::{Standing, Uploader, Uploads};

/// How often a claim is tried where others claim at the same time.
const ATTEMPTS: usize = 5;

/// The number of the newest snapshot in a bucket, if there is one.
///
/// # Errors
/// Why the bucket cannot be read, in words.
pub async fn newest(settings: &config::Backup) -> Result<Option<u64>, String> {
    let all = list(&Objects::new(settings)?, &settings.prefix).await?;
    Ok(generations::newest(&all).map(|newest| newest.number))
}

async fn list(objects: &Objects, prefix: &str) -> Result<Vec<Generation>, String> {
    let found = objects.list(prefix).await?;
    Ok(found.iter().filter_map(|(key, size)| Generation::of(key, *size, prefix)).collect())
}

/// The backup of a store, which is restored from it where there was none.
pub struct Backup {
    objects: Objects,
    prefix: String,
    interval: Duration,
    store: PathBuf,
    vault: Arc<Vault>,
    /// What is in the bucket.
    all: Vec<Generation>,
    /// The generation that the store was restored from at this start, if it was.
    restored: Option<u64>,
    /// Whether the store may hold what is not in the bucket.
    is_ahead: bool,
}

impl Backup {
    /// Reads what the backup holds, and restores the store from it where there is none, or one without anything
    /// in it, such as a command leaves that came before. Nothing in the bucket is changed yet.
    ///
    /// # Errors
    /// Why that cannot be done, in words.
    pub async fn open(
        settings: &config::Backup,
        store: &Path,
        secret: Option<&SecretString>,
    ) -> Result<Self, String> {
        let mut backup = Backup {
            objects: Objects::new(settings)?,
            prefix: settings.prefix.clone(),
            interval: settings.interval,
            store: store.to_path_buf(),
            vault: Arc::new(Vault::new(secret)),
            all: Vec::new(),
            restored: None,
            is_ahead: !snapshot::is_blank(store),
        };
        backup.all = list(&backup.objects, &backup.prefix).await?;
        match generations::newest(&backup.all) {
            Some(Generation { number, .. }) if backup.is_ahead => {
                log::info!(generation = number; "the store is on this disk, so it is not taken from the bucket");
            }
            Some(newest) => {
                let number = newest.number;
                log::info!(generation = number, bytes = newest.size; "the store is restored from the bucket");
                backup.restore(newest).await.map_err(|why| format!("generation {number}: {why}"))?;
                backup.restored = Some(number);
            }
            None => {}
        }
        Ok(backup)
    }

    /// Puts a snapshot in the store's place.
    async fn restore(&self, generation: Generation) -> Result<(), String> {
        let failed = |error: std::io::Error| error.to_string();
        fs::create_dir_all(self.store.parent().unwrap_or(Path::new(""))).map_err(failed)?;
        let fetched = Draft::beside(&self.store, ".fetched").map_err(failed)?;
        let mut file = OpenOptions::new().write(true).open(fetched.path()).map_err(failed)?;
        self.objects.fetch(&generation.key(&self.prefix), &mut file).await?;
        let (vault, store) = (Arc::clone(&self.vault), self.store.clone());
        let put = move || {
            let opened = Draft::beside(&store, ".restored").map_err(failed)?;
            let mut file = OpenOptions::new().write(true).open(opened.path()).map_err(failed)?;
            vault.open_file(&mut File::open(fetched.path()).map_err(failed)?, &mut file).map_err(failed)?;
            let done = snapshot::check(&opened).and_then(|()| snapshot::put(opened, &store));
            done.map_err(|error| error.message)
        };
        spawn_blocking(put).await.map_err(|_| "restoring has failed")?
    }

    /// Takes the next generation, and so the backup.
    ///
    /// # Errors
    /// Why not, in words; also where another process has uploaded since the store was restored.
    async fn claim(&mut self) -> Result<(), String> {
        for _ in 0..ATTEMPTS {
            let newest = generations::newest(&self.all);
            let number = generations::next(&self.all);
            let key = generations::key(number, &self.prefix);
            if self.objects.create_first(&key, generations::CLAIM).await? != Created::ByAnother {
                self.all.push(Generation { number, size: generations::CLAIM.len() as u64 });
                self.prune().await;
                return Ok(());
            }
            self.all = list(&self.objects, &self.prefix).await?;
            if !self.is_ahead && generations::newest(&self.all) != newest {
                return Err("another process has uploaded a snapshot just now: start again".into());
            }
        }
        Err("other processes claim it again and again".into())
    }

    /// Deletes what nobody needs any more. What cannot be deleted now goes another time.
    async fn prune(&mut self) {
        for generation in generations::outdated(&self.all) {
            match self.objects.delete(&generation.key(&self.prefix)).await {
                Ok(()) => self.all.retain(|kept| *kept != generation),
                Err(why) => {
                    log::warn!(generation = generation.number; "an old generation of the backup stays: {why}");
                    return;
                }
            }
        }
    }
}
