//! Giving memory back to the system. By itself glibc keeps most of what was freed: after a large block was
//! freed once, others of its size come from heaps, whose holes stay. Elsewhere nothing is done.

use std::time::Duration;

use crate::budget::Budget;

/// How often it is looked whether a peak is over.
const LOOK: Duration = Duration::from_secs(4);

/// Has large blocks mapped on their own, so that they are the system's again as soon as they are freed. To
/// be called before there are threads.
pub fn configure() {
    glibc::configure();
}

/// Gives back what a peak left behind, for as long as the service runs.
pub async fn give_back(budget: Budget) {
    loop {
        tokio::time::sleep(LOOK).await;
        let (peak, taken) = (budget.peak(), budget.taken());
        if taken < peak.div_ceil(2) {
            budget.forget_peak();
            // It visits all of the heap, and no worker is to wait for that.
            let _ = tokio::task::spawn_blocking(glibc::trim).await;
        }
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "the C library's settings of its own allocator have no safe form")]
mod glibc {
    use std::ffi::c_int;

    /// Bytes; glibc's default, which it raises by itself unless it is set: mallopt(3).
    const MMAP_THRESHOLD: c_int = 128 << 10;

    /// Bytes free at a heap's end that are worth a call of the system.
    const TRIM_THRESHOLD: c_int = 1 << 20;

    /// Each has holes of its own, and few threads allocate at the same time.
    const ARENAS: c_int = 2;

    pub fn configure() {
        let settings = [
            (libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD),
            (libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD),
            (libc::M_ARENA_MAX, ARENAS),
        ];
        for (name, value) in settings {
            // SAFETY: it takes two numbers and changes how later allocations are made.
            unsafe { libc::mallopt(name, value) };
        }
    }

    pub fn trim() {
        // SAFETY: it takes a number and gives unused pages back; it may be called at any time, malloc_trim(3).
        unsafe { libc::malloc_trim(0) };
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
mod glibc {
    pub fn configure() {}

    pub fn trim() {}
}
