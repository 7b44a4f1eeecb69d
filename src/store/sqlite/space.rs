//! Giving space back: what was deleted leaves free pages in the file, and the disk gets them step by
//! step while nobody waits.

use std::fs;
use std::path::Path;

use rusqlite::Connection;

use super::room;

/// The free pages that stay in the file, to be used again.
const KEPT_PAGES: i64 = 64;

/// The pages of one step, for which turns may have to wait.
const STEP: i64 = 256;

/// The largest file that is written anew so that it can give space back.
const MAX_REWRITTEN: u64 = 64 << 20;

/// The bytes within the file that can be used again.
pub fn reusable(connection: &Connection) -> rusqlite::Result<u64> {
    pages(connection, "PRAGMA freelist_count")
}

/// The bytes of the file once the log is written back.
pub fn size(connection: &Connection) -> rusqlite::Result<u64> {
    pages(connection, "PRAGMA page_count")
}

fn pages(connection: &Connection, which: &str) -> rusqlite::Result<u64> {
    let number = |pragma| connection.prepare_cached(pragma)?.query_row((), |row| row.get::<_, i64>(0));
    Ok((number(which)? * number("PRAGMA page_size")?) as u64)
}

/// Gives some free pages back to the disk; says whether there are more.
pub fn give_back(connection: &Connection) -> rusqlite::Result<bool> {
    let free: i64 = connection.pragma_query_value(None, "freelist_count", |row| row.get(0))?;
    let mode: i64 = connection.pragma_query_value(None, "auto_vacuum", |row| row.get(0))?;
    if free <= KEPT_PAGES || mode == 0 {
        return Ok(false);
    }
    let step = STEP.min(free - KEPT_PAGES);
    // It gives one page back each time that it is stepped.
    let mut vacuum = connection.prepare(&format!("PRAGMA incremental_vacuum({step})"))?;
    let mut pages = vacuum.raw_query();
    while pages.next()?.is_some() {}
    if free - step > KEPT_PAGES {
        return Ok(true);
    }
    // The file itself becomes smaller when the log is written back.
    connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")?;
    Ok(false)
}

/// Writes a small file of an earlier version anew, so that it can give space back. One that is large or
/// in use stays as it is: what is free in it is used again.
pub fn rewrite_if_small(connection: &Connection, path: &Path) {
    let is_old = connection.pragma_query_value(None, "auto_vacuum", |row| row.get::<_, i64>(0));
    let size = fs::metadata(path).map_or(u64::MAX, |metadata| metadata.len());
    if is_old.is_ok_and(|mode| mode == 0) && size < MAX_REWRITTEN && room::has(path, 3 * size) {
        let rewritten = connection.execute_batch("PRAGMA auto_vacuum = INCREMENTAL; VACUUM");
        log::debug!("the store's file was written anew: {}", rewritten.is_ok());
    }
}
