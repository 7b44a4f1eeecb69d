//! Looking at an answer's head as its bytes come: where it ends, what it is, and how its body is framed.
//!
//! Nothing is judged here. awc reads the same bytes afterwards, and refuses what is no HTTP.

use memchr::memchr;

/// How every head begins whose answer is read here.
const HTTP: &[u8] = b"HTTP/1.";

/// The last digit of a version whose answers without framing awc reads to the end of the connection.
pub const OLDER: u8 = b'0';

/// What has been seen of one head.
#[derive(Debug, Default)]
pub struct Scan {
    /// Where the line that is being looked at begins.
    line: usize,
    /// How far its end was searched for, so that a byte is searched once however the head is cut.
    searched: usize,
    /// The status line, once it is there.
    start: Option<Start>,
    has_length: bool,
    has_coding: bool,
    is_coded: bool,
}

/// What bytes are that should begin with a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// The beginning of one.
    Part,
    /// A whole one, which more may follow.
    Whole(Head),
    /// No head of HTTP/1.
    Foreign,
}

#[derive(Debug, Clone, Copy)]
struct Start {
    /// Where the version's last digit stands, if it is that of HTTP/1.1.
    minor: Option<usize>,
    status: [u8; 3],
}

/// A whole head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// How many bytes it takes, with what stood before it.
    pub size: usize,
    /// Where the last digit of its version stands, if that is HTTP/1.1.
    pub minor: Option<usize>,
    /// Whether another head follows, that of the answer itself.
    pub is_interim: bool,
    /// Whether its body comes in a transfer coding, which has an end of its own.
    pub is_coded: bool,
    /// Whether its body has no end but the connection's (RFC 9112, section 6.3).
    pub is_unframed: bool,
}

impl Scan {
    /// Looks at bytes from the beginning of a head on. Each call must be given the bytes of the one
    /// before, and may be given more.
    pub fn look(&mut self, bytes: &[u8]) -> Seen {
        while let Some(at) = memchr(b'\n', &bytes[self.searched..]) {
            let line = &bytes[self.line..self.searched + at];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let begin = std::mem::replace(&mut self.line, self.searched + at + 1);
            self.searched = self.line;
            match self.start {
                Some(start) if line.is_empty() => return Seen::Whole(self.head(start)),
                Some(_) => self.field(line),
                // awc passes over blank lines before a head.
                None if line.is_empty() => {}
                None if !line.starts_with(HTTP) => return Seen::Foreign,
                None => self.start = Some(Start::of(line, begin)),
            }
        }
        self.searched = bytes.len();
        let line = &bytes[self.line..];
        let may_begin = || line == b"\r" || line.starts_with(&HTTP[..HTTP.len().min(line.len())]);
        if self.start.is_some() || may_begin() { Seen::Part } else { Seen::Foreign }
    }

    fn field(&mut self, line: &[u8]) {
        if !matches!(line[0], b'c' | b'C' | b't' | b'T') {
            return;
        }
        let Some(colon) = memchr(b':', line) else { return };
        let name = line[..colon].trim_ascii_end();
        if name.eq_ignore_ascii_case(b"content-length") {
            self.has_length = true;
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            let is_identity = line[colon + 1..].trim_ascii().eq_ignore_ascii_case(b"identity");
            // awc refuses two of them, of HTTP/1.1 alone.
            self.is_coded |= !is_identity || std::mem::replace(&mut self.has_coding, true);
        }
    }

    fn head(&self, Start { minor, status }: Start) -> Head {
        let is_informational = status[0] == b'1';
        let has_body = !is_informational && !matches!(&status, b"204" | b"304");
        Head {
            size: self.line,
            minor,
            is_interim: is_informational && status != *b"101",
            is_coded: self.is_coded,
            is_unframed: has_body && !self.has_length && !self.is_coded,
        }
    }
}

impl Start {
    /// Reads a status line that begins at this place.
    fn of(line: &[u8], begin: usize) -> Self {
        let minor = HTTP.len();
        let status = line.get(minor + 2..minor + 5).filter(|_| line[minor + 1] == b' ');
        let status = status.and_then(|digits| digits.try_into().ok()).unwrap_or_default();
        Start { minor: (line.get(minor) == Some(&b'1')).then_some(begin + minor), status }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(head: &str) -> Head {
        match Scan::default().look(head.as_bytes()) {
            Seen::Whole(head) => head,
            other => panic!("{head:?}: {other:?}"),
        }
    }

    #[test]
    fn only_answers_without_any_framing_end_with_the_connection() {
        for (head, unframed) in [
            ("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n", true),
            ("HTTP/1.1 500\r\n\r\n", true),
            ("HTTP/1.1 200 OK\nServer: x\n\n", true),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: Identity\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\nX-Content-Length: 5\r\nContent-Lengths: 5\r\ncontent-length\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\nX: y\r\n content-length: 5\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\ncontent-LENGTH : 5\r\n\r\n", false),
            ("HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n", false),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding:\tchunked \r\n\r\n", false),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", false),
            ("HTTP/1.1 204 No Content\r\n\r\n", false),
            ("HTTP/1.1 304 Not Modified\r\n\r\n", false),
            ("HTTP/1.1 101 Switching Protocols\r\n\r\n", false),
        ] {
            let seen = look(head);
            assert_eq!(
                (seen.is_unframed, seen.is_interim, seen.size),
                (unframed, false, head.len()),
                "{head:?}"
            );
        }
    }

    #[test]
    fn interim_heads_and_versions_are_told() {
        for (head, interim, minor) in [
            ("HTTP/1.1 100 Continue\r\n\r\n", true, Some(7)),
            ("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", true, Some(7)),
            ("HTTP/1.0 102 Processing\r\n\r\n", true, None),
            ("\r\n\nHTTP/1.1 200 OK\r\n\r\n", false, Some(10)),
            ("HTTP/1.1 1\r\n\r\n", false, Some(7)),
            ("HTTP/1.10100 x\r\n\r\n", false, Some(7)),
        ] {
            let seen = look(head);
            assert_eq!((seen.is_interim, seen.minor), (interim, minor), "{head:?}");
        }
    }

    #[test]
    fn a_head_is_seen_with_its_last_byte_and_not_before() {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\n";
        let mut scan = Scan::default();
        for size in 0..head.len() {
            assert_eq!(scan.look(&head.as_bytes()[..size]), Seen::Part, "{size}");
        }
        assert_eq!(scan.look(format!("{head}hello").as_bytes()), Seen::Whole(look(head)));
    }

    #[test]
    fn what_is_no_head_is_known_with_its_first_wrong_byte() {
        for text in ["S", "SSH-2.0-OpenSSH_9.2\r\n", "\r\nHTTP/2", "HTTP/2 200", "\rH", "http/1.1 200", "{}"]
        {
            let mut scan = Scan::default();
            let seen: Vec<Seen> = (1..=text.len()).map(|size| scan.look(&text.as_bytes()[..size])).collect();
            assert!(seen.contains(&Seen::Foreign), "{text:?}: {seen:?}");
        }
        assert_eq!(Scan::default().look(b"\r\n\nHTTP/1."), Seen::Part);
    }
}
