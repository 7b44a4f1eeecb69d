//! The file descriptors of the process: a stream takes two, one to its caller and one upstream.

/// What is open beside streams: the store, the listener, the logs, idle connections.
const OTHERS: u64 = 64;

/// Raises the limit to what so many streams need, as far as the system lets it.
pub fn provide(streams: usize) {
    let needed = 2 * streams as u64 + OTHERS;
    let limit = match rlimit::increase_nofile_limit(needed) {
        Ok(limit) => limit,
        Err(error) => return log::warn!("the limit of open files is not known: {error}"),
    };
    if limit < needed {
        log::warn!(
            limit, needed;
            "too few files may be open for MAX_STREAMS: raise the hard limit (`ulimit -Hn`, `LimitNOFILE`, `--ulimit nofile`), or lower MAX_STREAMS"
        );
    }
}
