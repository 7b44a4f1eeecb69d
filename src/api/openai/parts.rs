//! The parts of a form with files (`multipart/form-data`, RFC 7578), read more generously than any upstream reads
//! them: what one might take for a part is one.

use memchr::{memchr2_iter, memmem};

/// The header that names a part.
const DISPOSITION: &[u8] = b"content-disposition";

/// The longest head of a part that is looked at.
const LONGEST_HEAD: usize = 8 << 10;

/// A part.
pub struct Part<'a> {
    /// Its name.
    pub name: String,
    /// What is in it, with what follows as long as no line begins as the first one of the form does.
    pub value: &'a [u8],
}

/// The parts of a form, which begins with the line between them.
pub fn of(body: &[u8]) -> impl Iterator<Item = Part<'_>> {
    let line = body.trim_ascii_start().split(|byte| *byte == b'\n').next().unwrap_or_default();
    let between = [b"\n", line.trim_ascii()].concat();
    let begins = |place: &usize| {
        let word = body.get(*place..place + DISPOSITION.len());
        word.is_some_and(|word| word.eq_ignore_ascii_case(DISPOSITION))
    };
    let places = memchr2_iter(b'c', b'C', body).filter(begins);
    places.flat_map(move |place| part(&body[place + DISPOSITION.len()..], &between))
}

/// The part with this head; more than one where it has more than one name.
fn part<'a>(rest: &'a [u8], between: &[u8]) -> Vec<Part<'a>> {
    let (head, value) = [&b"\r\n\r\n"[..], b"\n\n"]
        .iter()
        .filter_map(|blank| Some((memmem::find(rest, blank)?, blank.len())))
        .min()
        .map_or((rest, &b""[..]), |(end, blank)| (&rest[..end], &rest[end + blank..]));
    let head = String::from_utf8_lossy(&head[..head.len().min(LONGEST_HEAD)]);
    let value = &value[..memmem::find(value, between).unwrap_or(value.len())];
    head.split([';', '\n'])
        .filter_map(|parameter| {
            let (key, name) = parameter.split_once('=')?;
            let key = key.trim().to_ascii_lowercase();
            // RFC 2231 adds to the name of a parameter how its value is written.
            (key.split('*').next() == Some("name")).then(|| plain(name))
        })
        .map(|name| Part { name, value })
        .collect()
}

/// The value of a parameter without what is around it and in it for the sake of its form.
fn plain(value: &str) -> String {
    let value = value.trim().rsplit('\'').next().unwrap_or_default().replace(['"', '\\'], "");
    let decoded = url::form_urlencoded::parse(value.as_bytes()).next().map(|(text, _)| text.into_owned());
    decoded.unwrap_or(value)
}
