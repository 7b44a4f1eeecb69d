//! Sealing a whole file, piece by piece, so that none of it need be in memory at once and a piece that is
//! missing, changed or moved is noticed: the form that age gives its payload, which is STREAM (Hoang,
//! Reyhanitabar, Rogaway, Vizár: Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance).
//!
//! A mark, a salt, and pieces of 64 KiB under ChaCha20-Poly1305. Their key comes by HKDF-SHA-256 from the
//! vault's key and the salt, so no two files have one; a nonce is the number of the piece, and whether it is
//! the last.

use std::fs::File;
use std::io::{self, Read, Write};

use bytes::Bytes;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::Prk;

use super::Vault;

/// How a sealed file begins. No database begins so.
const MARK: &[u8; 16] = b"mirrorgate seal\n";
const SALT: usize = 16;
const PIECE: usize = 64 << 10;
const TAG: usize = 16;

/// The pieces of a file as it leaves this machine: sealed, or as they are.
pub struct Pieces {
    file: File,
    left: u64,
    length: u64,
    sealing: Option<Sealing>,
    head: Option<Bytes>,
}

struct Sealing {
    key: LessSafeKey,
    count: u64,
}

impl Sealing {
    fn new(key: &Prk, salt: &[u8]) -> Self {
        let info = [salt];
        let key = key.expand(&info, &CHACHA20_POLY1305).expect("one key is not too long");
        Sealing { key: LessSafeKey::new(UnboundKey::from(key)), count: 0 }
    }

    fn nonce(&mut self, is_last: bool) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[3..11].copy_from_slice(&self.count.to_be_bytes());
        nonce[11] = is_last.into();
        self.count += 1;
        Nonce::assume_unique_for_key(nonce)
    }

    fn seal(&mut self, piece: &mut Vec<u8>, is_last: bool) -> io::Result<()> {
        let nonce = self.nonce(is_last);
        let sealed = self.key.seal_in_place_append_tag(nonce, Aad::empty(), piece);
        sealed.map_err(|_| io::Error::other("it cannot be sealed"))
    }

    fn open<'a>(&mut self, piece: &'a mut [u8], is_last: bool) -> io::Result<&'a [u8]> {
        let nonce = self.nonce(is_last);
        let opened = self.key.open_in_place(nonce, Aad::empty(), piece);
        opened
            .map(|piece| &*piece)
            .map_err(|_| broken("it is not whole, or was sealed under another SECRET_KEY"))
    }
}

impl Vault {
    /// A file's pieces, sealed where this vault has a key.
    ///
    /// # Errors
    /// When the file or the system's random numbers cannot be read.
    pub fn pieces(&self, file: File) -> io::Result<Pieces> {
        let size = file.metadata()?.len();
        let Some(keys) = &self.0 else {
            return Ok(Pieces { file, left: size, length: size, sealing: None, head: None });
        };
        let salt: [u8; SALT] = crate::random::bytes().map_err(|error| io::Error::other(error.message))?;
        let head = Bytes::from([&MARK[..], &salt].concat());
        // An empty file has a last piece, too.
        let pieces = size.div_ceil(PIECE as u64).max(1);
        let length = head.len() as u64 + size + pieces * TAG as u64;
        let sealing = Some(Sealing::new(&keys.files, &salt));
        Ok(Pieces { file, left: size, length, sealing, head: Some(head) })
    }

    /// Writes what was in a file before it was sealed. One that was not is written as it is.
    ///
    /// # Errors
    /// When it does not open, or cannot be read or written.
    pub fn open_file(&self, from: &mut impl Read, into: &mut impl Write) -> io::Result<()> {
        let mut head = vec![0; MARK.len()];
        let count = fill(from, &mut head)?;
        if head != MARK {
            into.write_all(&head[..count])?;
            return io::copy(from, into).map(drop);
        }
        let mut salt = [0; SALT];
        from.read_exact(&mut salt)?;
        let Some(keys) = &self.0 else { return Err(broken("it is sealed, and there is no SECRET_KEY")) };
        let mut sealing = Sealing::new(&keys.files, &salt);
        let (mut piece, mut next) = (vec![0; PIECE + TAG], vec![0; PIECE + TAG]);
        let mut size = fill(from, &mut piece)?;
        loop {
            let more = fill(from, &mut next)?;
            into.write_all(sealing.open(&mut piece[..size], more == 0)?)?;
            if more == 0 {
                return Ok(());
            }
            (piece, next, size) = (next, piece, more);
        }
    }
}

impl Pieces {
    /// How many bytes they are in all.
    pub fn length(&self) -> u64 {
        self.length
    }

    fn piece(&mut self) -> io::Result<Bytes> {
        let mut piece = vec![0; PIECE.min(usize::try_from(self.left).unwrap_or(PIECE))];
        self.file.read_exact(&mut piece)?;
        self.left -= piece.len() as u64;
        if let Some(sealing) = &mut self.sealing {
            sealing.seal(&mut piece, self.left == 0)?;
        }
        Ok(piece.into())
    }
}

impl Iterator for Pieces {
    type Item = io::Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(head) = self.head.take() {
            return Some(Ok(head));
        }
        let is_begun = self.sealing.as_ref().is_none_or(|sealing| sealing.count > 0);
        (self.left > 0 || !is_begun).then(|| self.piece())
    }
}

/// Reads until a buffer is full or nothing more comes; gives how much there is.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut size = 0;
    while size < buffer.len() {
        match from.read(&mut buffer[size..]) {
            Ok(0) => break,
            Ok(count) => size += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(size)
}

fn broken(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom};

    use super::*;

    const SECRET: &str = "a long and random secret, as it should be";

    fn vault(secret: &str) -> Vault {
        Vault::new(Some(&secret.into()))
    }

    /// A file with this content, which has no name.
    fn file(content: &[u8]) -> File {
        let path = std::env::temp_dir().join(format!("mirrorgate-seal-{:x}", crate::random::number()));
        let options = File::options().read(true).write(true).create_new(true).open(&path);
        let mut file = options.expect("a file");
        std::fs::remove_file(path).expect("removed");
        file.write_all(content).expect("written");
        file.seek(SeekFrom::Start(0)).expect("sought");
        file
    }

    fn sealed(vault: &Vault, content: &[u8]) -> Vec<u8> {
        let pieces = vault.pieces(file(content)).expect("pieces");
        let length = pieces.length();
        let bytes = pieces.collect::<io::Result<Vec<_>>>().expect("sealed").concat();
        assert_eq!(bytes.len() as u64, length);
        bytes
    }

    fn opened(vault: &Vault, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        vault.open_file(&mut &bytes[..], &mut content).map(|()| content)
    }

    #[test]
    fn a_file_opens_whole_under_its_own_key_alone() {
        let vault = vault(SECRET);
        for size in [0, 1, 15, 16, 17, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 2 * PIECE + 7] {
            let content: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            let bytes = sealed(&vault, &content);
            assert_eq!(opened(&vault, &bytes).expect("opened"), content, "{size}");
            assert_ne!(bytes, sealed(&vault, &content));
            assert!(opened(&Vault::new(None), &bytes).is_err());
            assert!(opened(&super::tests::vault("another secret, as long as it"), &bytes).is_err());
            assert_eq!(opened(&vault, &sealed(&Vault::new(None), &content)).expect("as it is"), content);
        }
    }

    #[test]
    fn what_is_cut_changed_or_moved_does_not_open() {
        let vault = vault(SECRET);
        let bytes = sealed(&vault, &vec![7; 3 * PIECE]);
        let head = MARK.len() + SALT;
        let piece = PIECE + TAG;
        for end in [head - 1, head, head + 5, head + piece, head + 2 * piece, bytes.len() - 1] {
            assert!(opened(&vault, &bytes[..end]).is_err(), "cut at {end}");
        }
        for at in [MARK.len(), head, head + piece, bytes.len() - 1] {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(opened(&vault, &changed).is_err(), "changed at {at}");
        }
        let (first, second, rest) =
            (&bytes[head..][..piece], &bytes[head + piece..][..piece], head + 2 * piece);
        assert!(opened(&vault, &[&bytes[..head], second, first, &bytes[rest..]].concat()).is_err(), "moved");
        assert!(opened(&vault, &[&bytes[..], b"more"].concat()).is_err(), "longer");
    }
}
