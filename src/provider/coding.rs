//! The coding of an answer's body (RFC 9110, section 8.4.1), which nobody asked for: some proxies and
//! servers compress whatever they are asked. gzip and deflate are decoded all the same, any other is
//! named in the error.

use std::io::{self, Write};

use awc::http::header::{self, HeaderMap};
use flate2::write::{MultiGzDecoder, ZlibDecoder};

use super::report::clean;
use crate::domain::error::{Error, Kind};

/// How much is decoded at a time. It grows to no more than about a thousand times as much, so that the
/// bound is passed by no more than that.
const STEP_BYTES: usize = 256;

/// A body's coding, with what has come of the body.
pub enum Coding {
    /// `gzip`
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
    /// `deflate`
    Deflate(Box<ZlibDecoder<Vec<u8>>>),
}

impl Coding {
    /// The coding that a head names, unless that is none.
    ///
    /// # Errors
    /// When it cannot be decoded here.
    pub fn of(headers: &HeaderMap) -> Result<Option<Self>, Error> {
        let values = headers.get_all(header::CONTENT_ENCODING);
        let text = values.map(|value| value.to_str().unwrap_or("?")).collect::<Vec<_>>().join(", ");
        let mut names = text.split(',').map(|name| name.trim().to_ascii_lowercase());
        let mut names = names.by_ref().filter(|name| !matches!(name.as_str(), "" | "identity"));
        let Some(name) = names.next() else { return Ok(None) };
        let coding = match name.as_str() {
            "gzip" | "x-gzip" => Coding::Gzip(Box::new(MultiGzDecoder::new(Vec::new()))),
            "deflate" => Coding::Deflate(Box::new(ZlibDecoder::new(Vec::new()))),
            _ => return Err(not_decoded(&text)),
        };
        if names.next().is_some() {
            return Err(not_decoded(&text));
        }
        Ok(Some(coding))
    }

    /// Decodes more of the body, onto the end of `text`, until that is longer than `most`.
    ///
    /// # Errors
    /// When the bytes are none of this coding; what could be decoded is there.
    pub fn decode(&mut self, bytes: &[u8], most: u64, text: &mut Vec<u8>) -> Result<(), Error> {
        let outcome = match self {
            Coding::Gzip(decoder) => inflate(&mut **decoder, MultiGzDecoder::get_mut, bytes, most, text),
            Coding::Deflate(decoder) => inflate(&mut **decoder, ZlibDecoder::get_mut, bytes, most, text),
        };
        outcome.map_err(|_| self.wrong())
    }

    /// The error for bytes that are none of this coding.
    pub fn wrong(&self) -> Error {
        let name = match self {
            Coding::Gzip(_) => "gzip",
            Coding::Deflate(_) => "deflate",
        };
        let message = format!("the upstream's answer is declared as `{name}` and cannot be decoded");
        Error::new(Kind::UpstreamEncoding, message)
    }

    /// Whether the body has come to the end that its coding has of its own.
    pub fn is_complete(&mut self) -> bool {
        match self {
            Coding::Gzip(decoder) => decoder.try_finish().is_ok(),
            Coding::Deflate(decoder) => decoder.try_finish().is_ok(),
        }
    }
}

fn inflate<D: Write>(
    decoder: &mut D,
    inner: fn(&mut D) -> &mut Vec<u8>,
    bytes: &[u8],
    most: u64,
    text: &mut Vec<u8>,
) -> io::Result<()> {
    for step in bytes.chunks(STEP_BYTES) {
        if text.len() as u64 > most {
            break;
        }
        let outcome = decoder.write_all(step).and_then(|()| decoder.flush());
        text.append(inner(decoder));
        outcome?;
    }
    Ok(())
}

/// The error for a body in a coding that is not understood here.
fn not_decoded(name: &str) -> Error {
    Error::new(Kind::UpstreamEncoding, "the upstream's answer is compressed, which was not asked for")
        .detail(clean(name, &[]))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use awc::http::header::HeaderValue;
    use flate2::Compression;
    use flate2::read::{GzEncoder, ZlibEncoder};
    use proptest::prelude::*;

    use super::*;

    fn named(name: &str) -> Result<Option<Coding>, Error> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_str(name).expect("a value"));
        Coding::of(&headers)
    }

    fn encoded(name: &str, text: &[u8]) -> Vec<u8> {
        let (mut bytes, level) = (Vec::new(), Compression::default());
        let read = match name {
            "gzip" => GzEncoder::new(text, level).read_to_end(&mut bytes),
            _ => ZlibEncoder::new(text, level).read_to_end(&mut bytes),
        };
        read.expect("encoding in memory");
        bytes
    }

    #[test]
    fn other_codings_are_refused_by_name() {
        for name in ["", "identity", "Identity, "] {
            assert!(matches!(named(name), Ok(None)), "{name}");
        }
        for name in ["br", "zstd", "gzip, gzip", "gzip, br", "compress"] {
            let error = named(name).err().expect("an error");
            assert_eq!((error.kind, error.detail.as_deref()), (Kind::UpstreamEncoding, Some(name)));
        }
        for name in ["GZIP", "x-gzip", "identity, gzip", "deflate"] {
            assert!(matches!(named(name), Ok(Some(_))), "{name}");
        }
    }

    #[test]
    fn what_grows_without_end_is_stopped_at_the_bound() {
        let zeros = vec![0; 64 << 20];
        for name in ["gzip", "deflate"] {
            let (mut coding, mut text) = (named(name).expect("known").expect("one"), Vec::new());
            assert!(coding.decode(&encoded(name, &zeros), 1 << 20, &mut text).is_ok());
            assert!((1 << 20..2 << 20).contains(&text.len()), "{name}: {} bytes", text.len());
        }
    }

    #[test]
    fn bytes_of_no_coding_are_an_error_after_what_was_decoded() {
        for name in ["gzip", "deflate"] {
            let mut bytes = encoded(name, b"hello");
            let (mut coding, mut text) = (named(name).expect("known").expect("one"), Vec::new());
            assert!(coding.decode(b"{\"choices\":[]}", 100, &mut text).is_err(), "{name}");
            bytes.truncate(bytes.len() - 2);
            let mut coding = named(name).expect("known").expect("one");
            assert!(coding.decode(&bytes, 100, &mut text).is_ok() && !coding.is_complete(), "{name}");
            assert_eq!(text, b"hello", "{name}");
        }
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..3),
            size in 1usize..50,
            gzip in any::<bool>(),
        ) {
            let name = if gzip { "gzip" } else { "deflate" };
            // gzip may come in several members, one after the other.
            let parts = if gzip { parts } else { vec![parts.concat()] };
            let bytes = parts.iter().flat_map(|part| encoded(name, part)).collect::<Vec<_>>();
            let mut coding = named(name).expect("known").expect("one");
            let mut text = Vec::new();
            for piece in bytes.chunks(size) {
                prop_assert!(coding.decode(piece, 10_000, &mut text).is_ok());
            }
            prop_assert!(coding.is_complete());
            prop_assert_eq!(text, parts.concat());
        }
    }
}
