//! The bytes of request bodies that a process holds at once.

use std::sync::Arc;
use std::time::Duration;

use actix_web::web::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::domain::error::{Error, Kind};

/// When to come back to a process that holds as much as it may.
const RETRY: Duration = Duration::from_secs(1);

/// What all bodies together may take.
pub struct Budget {
    free: Arc<Semaphore>,
    most: usize,
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(most: usize) -> Self {
        let most = most.min(Semaphore::MAX_PERMITS);
        Budget { free: Arc::new(Semaphore::new(most)), most }
    }

    /// A share of it that holds nothing yet.
    pub fn share(&self) -> Share {
        Share { free: Arc::clone(&self.free), most: self.most, held: None }
    }
}

/// What one body takes of the budget, until this is dropped.
pub struct Share {
    free: Arc<Semaphore>,
    most: usize,
    held: Option<OwnedSemaphorePermit>,
}

impl Share {
    /// Takes more bytes.
    ///
    /// # Errors
    /// When so many are not left.
    pub fn take(&mut self, bytes: usize) -> Result<(), Error> {
        let count = u32::try_from(bytes).unwrap_or(u32::MAX);
        let more = Arc::clone(&self.free).try_acquire_many_owned(count).map_err(|_| {
            Error::new(
                Kind::Overloaded,
                format!("request bodies of {} bytes are being worked on already", self.most),
            )
            .retry_after(Some(RETRY))
            .hinted(
                "try again after the time in `Retry-After`, send less at once, or raise `MAX_BODIES_BYTES`",
            )
        })?;
        match &mut self.held {
            Some(held) => held.merge(more),
            None => self.held = Some(more),
        }
        Ok(())
    }

    /// The bytes, which hold their share as long as any copy of them is there.
    pub fn bind(self, bytes: Bytes) -> Bytes {
        struct Bound(Bytes, #[expect(dead_code, reason = "it is there to be dropped")] Share);
        impl AsRef<[u8]> for Bound {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        Bytes::from_owner(Bound(bytes, self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_body_takes_is_free_again_with_its_last_copy() {
        let budget = Budget::new(10);
        let mut share = budget.share();
        share.take(4).expect("room");
        share.take(4).expect("room");
        let mut other = budget.share();
        assert_eq!(other.take(4).expect_err("full").kind, Kind::Overloaded);
        let bytes = share.bind(Bytes::from_static(b"12345678"));
        let copy = bytes.slice(2..3);
        drop(bytes);
        assert!(other.take(4).is_err());
        drop(copy);
        assert!(other.take(10).is_ok());
    }
}
