//! What a command writes for a person. Standard output may be closed, or a pipe whose reader has seen
//! enough, such as `head`: neither is a defect of the program.

use std::fmt::Display;
use std::io::{self, Write};

/// Writes text to standard output at once.
///
/// # Errors
/// When nobody takes it.
pub fn say(text: impl Display) -> io::Result<()> {
    let mut output = io::stdout().lock();
    write!(output, "{text}")?;
    output.flush()
}

/// Writes text that is shown only now where a person sees it: to standard output, else to standard error.
///
/// # Errors
/// When it is seen in neither.
pub fn show(text: impl Display) -> io::Result<()> {
    if is_seen("/dev/stdout") && say(&text).is_ok() {
        return Ok(());
    }
    if !is_seen("/dev/stderr") {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    let mut output = io::stderr().lock();
    write!(output, "{text}")?;
    output.flush()
}

/// Whether what is written there is not thrown away. What was closed at the start of a process is the
/// null device to it.
fn is_seen(path: &str) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let device = |path| std::fs::metadata(path).map(|metadata| metadata.rdev());
        match (device(path), device("/dev/null")) {
            (Ok(output), Ok(null)) => output != null,
            _ => true,
        }
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        true
    }
}
