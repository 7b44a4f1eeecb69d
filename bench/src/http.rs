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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    Length(usize),
    Chunked(Chunk),
    UntilClose,
}

/// Where in the chunked coding the reader stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunk {
    Size(usize),
    Extension(usize),
    Data(usize),
    DataEnd,
    /// In the trailer; whether its line has any byte yet.
    Trailer(bool),
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
            body = Body::Chunked(Chunk::Size(0));
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
        let state = match self {
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
            let byte = bytes[at];
            match *state {
                Chunk::Size(size) => {
                    at += 1;
                    *state = match byte {
                        b'\n' if size == 0 => Chunk::Trailer(false),
                        b'\n' => Chunk::Data(size),
                        b'\r' => Chunk::Size(size),
                        b';' | b' ' => Chunk::Extension(size),
                        _ => Chunk::Size(size * 16 + char::from(byte).to_digit(16)? as usize),
                    };
                }
                Chunk::Extension(size) => {
                    at += 1;
                    if byte == b'\n' {
                        *state = if size == 0 { Chunk::Trailer(false) } else { Chunk::Data(size) };
                    }
                }
                Chunk::Data(left) => {
                    let count = (bytes.len() - at).min(left);
                    each(&bytes[at..at + count]);
                    at += count;
                    *state = if count == left { Chunk::DataEnd } else { Chunk::Data(left - count) };
                }
                Chunk::DataEnd => {
                    at += 1;
                    if byte == b'\n' {
                        *state = Chunk::Size(0);
                    }
                }
                Chunk::Trailer(any) => {
                    at += 1;
                    match byte {
                        b'\n' if !any => return Some((at, true)),
                        b'\n' => *state = Chunk::Trailer(false),
                        b'\r' => {}
                        _ => *state = Chunk::Trailer(true),
                    }
                }
            }
        }
        Some((at, false))
    }
}
