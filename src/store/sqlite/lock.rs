//! One service for each SQLite file: a lock of the operating system says who, and goes with the
//! process. The number in the lock's file is for people alone.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::Path;

use super::connection::{create, for_owner};
use super::draft::with_end;

/// A file that this process serves from, until this is dropped.
pub struct ServiceLock {
    _held: File,
}

/// Why a file cannot be served from.
#[derive(Debug)]
pub enum NoLock {
    /// Another process serves from it, with this number where it is known.
    Held(Option<u32>),
    /// It or its folder cannot be written.
    Unwritable(io::Error),
}

impl ServiceLock {
    /// Takes the lock of a file, which is created where it is not there.
    ///
    /// # Errors
    /// Who has it, or why the file cannot be written. A full disk is no reason: it may heal.
    pub fn take(file: &Path) -> Result<Option<Self>, NoLock> {
        match attempt(file) {
            Err(NoLock::Unwritable(error))
                if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) =>
            {
                Ok(None)
            }
            outcome => outcome,
        }
    }
}

fn attempt(file: &Path) -> Result<Option<ServiceLock>, NoLock> {
    create(file).map_err(NoLock::Unwritable)?;
    let mut lock =
        for_owner(OpenOptions::new().read(true)).open(with_end(file, ".lock")).map_err(NoLock::Unwritable)?;
    match lock.try_lock() {
        Ok(()) => {
            let told = lock.set_len(0).and_then(|()| write!(lock, "{}", std::process::id()));
            told.map_err(NoLock::Unwritable)?;
            Ok(Some(ServiceLock { _held: lock }))
        }
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let _ = lock.read_to_string(&mut text);
            Err(NoLock::Held(text.trim().parse().ok()))
        }
        // Some file systems have no locks.
        Err(TryLockError::Error(error)) => {
            log::warn!("it cannot be told whether another service uses {}: {error}", file.display());
            Ok(None)
        }
    }
}
