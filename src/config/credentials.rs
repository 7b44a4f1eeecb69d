//! Credentials as people paste them: keys and Cookie lines, and what a header can hold.

use secrecy::SecretString;

/// What is wrong with a value, and what to do.
pub type Mistake = (&'static str, &'static str);

/// A bearer key as people paste it.
///
/// # Errors
/// What is wrong, and what to do.
pub fn parse_api_key(text: &str) -> Result<SecretString, Mistake> {
    let key = strip_word(text.trim(), "bearer ");
    if is_header_value(key) && !key.is_empty() {
        Ok(SecretString::from(key))
    } else {
        Err((
            "holds a line break or a control character, or nothing",
            "paste the key again, alone on one line",
        ))
    }
}

/// A Cookie header line as people copy it from the browser.
///
/// # Errors
/// What is wrong, and what to do.
pub fn parse_cookie_line(text: &str) -> Result<SecretString, Mistake> {
    let advice = "copy the value of the Cookie request header from the browser's developer tools (Network), such as `sso=abc; cf=def`, on one line";
    let line = strip_word(text.trim(), "cookie:");
    if !is_header_value(line) {
        return Err(("holds a line break or a control character", advice));
    }
    let is_pair = |pair: &str| pair.trim().split_once('=').is_some_and(|(name, _)| !name.is_empty());
    if line.split(';').any(is_pair) {
        Ok(SecretString::from(line))
    } else {
        Err(("holds no `name=value`", advice))
    }
}

/// The text after a word that people paste along, such as `Bearer `.
fn strip_word<'a>(text: &'a str, word: &str) -> &'a str {
    match text.get(..word.len()) {
        Some(start) if start.eq_ignore_ascii_case(word) => text[word.len()..].trim(),
        _ => text,
    }
}

/// Whether a text can be a header's value: RFC 9110, section 5.5, visible characters and blanks.
pub fn is_header_value(text: &str) -> bool {
    !text.chars().any(|c| c.is_control() && c != '\t')
}

/// Whether a text can be a header's name: RFC 9110, section 5.6.2.
pub fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}
