//! HTTP/1.1 messages, as far as both ends of a benchmark need them (RFC 9112).

/// The head of a message.
pub struct Head<'a> {
    /// Request line or status line.
    pub first: &'a str,
    /// How the body is framed.
    pub body: Body,
    /// Whether the sender closes the connection after it.
    pub close: bool,
    /// Bytes of the head, the blank line included.
    pub size: usize,
}

/// Where a body ends, and how much of it is still to come.
#[derive(Debug, PartialEq, Eq)]
pub enum Body {
    Length(usize),
    Chunked(Chunked),
    UntilClose,
}

/// Where in the chunked coding the reader stands.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Chunked {
    /// Of the chunk under way.
    left: usize,
    /// Else a line that comes: a chunk's size or the end of one, or after the last chunk the trailer.
    line: Vec<u8>,
    last: bool,
}

/// The head at the beginning of these bytes, once it is complete.
pub fn head(bytes: &[u8], is_response: bool) -> Option<Head<'_>> {
    let end = memchr::memmem::find(bytes, b"\r\n\r\n")?;
    let text = std::str::from_utf8(&bytes[..end]).ok()?;
    let mut lines = text.split("\r\n");
    let first = lines.next()?;
    let mut body = if is_response { Body::UntilClose } else { Body::Length(0) };
    let mut close = false;
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            body = Body::Length(value.parse().ok()?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") && value.eq_ignore_ascii_case("chunked") {
            body = Body::Chunked(Chunked::default());
        } else if name.eq_ignore_ascii_case("connection") && value.eq_ignore_ascii_case("close") {
            close = true;
        }
    }
    Some(Head { first, body, close, size: end + 4 })
}

impl Body {
    /// Takes bytes in and hands the body's own to `each`. Says how many were taken, and whether the
    /// body is complete; `None` when the framing is wrong.
    pub fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(&[u8])) -> Option<(usize, bool)> {
        let Chunked { left, line, last } = match self {
            Body::UntilClose => {
                each(bytes);
                return Some((bytes.len(), false));
            }
            Body::Length(left) => {
                let count = bytes.len().min(*left);
                each(&bytes[..count]);
                *left -= count;
                return Some((count, *left == 0));
            }
            Body::Chunked(state) => state,
        };
        let mut at = 0;
        while at < bytes.len() {
            if *left > 0 {
                let count = (bytes.len() - at).min(*left);
                each(&bytes[at..at + count]);
                at += count;
                *left -= count;
                continue;
            }
            let Some(end) = memchr::memchr(b'\n', &bytes[at..]) else {
                line.extend_from_slice(&bytes[at..]);
                return Some((bytes.len(), false));
            };
            line.extend_from_slice(&bytes[at..at + end]);
            at += end + 1;
            let text = std::str::from_utf8(line).ok()?.trim_ascii();
            if text.is_empty() && *last {
                return Some((at, true));
            }
            if !text.is_empty() && !*last {
                *left = usize::from_str_radix(text.split(';').next()?.trim(), 16).ok()?;
                *last = *left == 0;
            }
            line.clear();
        }
        Some((at, false))
    }
}
