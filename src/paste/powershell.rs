//! A browser's "Copy as PowerShell".
//!
//! Source: `about_Quoting_Rules` and `about_Special_Characters` of PowerShell, and what Chrome and Firefox write: the
//! cookies are objects of a session, all else parameters of `Invoke-WebRequest`. Nothing is run.

use std::iter::Peekable;
use std::str::Chars;

use super::Mistake;
use super::request::Request;

/// What Chrome writes among the headers and is none.
const PSEUDO_HEADERS: [&str; 4] = ["authority", "method", "path", "scheme"];

/// Whether a text is of this form.
pub fn is_powershell(text: &str) -> bool {
    text.contains("Invoke-WebRequest") || text.contains("Invoke-RestMethod")
}

/// The requests in a text.
///
/// # Errors
/// When a string is not closed, or would run something.
pub fn requests(text: &str) -> Result<Vec<Result<Request, Mistake>>, Mistake> {
    let tokens = tokens(text)?;
    let is_call = |token: &Token| matches!(token, Token::Word(word) if word == "Invoke-WebRequest" || word == "Invoke-RestMethod");
    let mut requests = Vec::new();
    let mut session = Session::default();
    let mut rest = tokens.as_slice();
    while let Some(at) = rest.iter().position(is_call) {
        session.read(&rest[..at]);
        let after = &rest[at + 1..];
        let end = after.iter().position(|token| *token == Token::End).unwrap_or(after.len());
        requests.push(session.call(&after[..end]));
        rest = &after[end..];
    }
    Ok(requests)
}

#[derive(Debug, PartialEq, Eq)]
enum Token {
    /// A string.
    Text(String),
    /// Anything else that is written together.
    Word(String),
    /// A bracket, `=` or a comma.
    Sign(char),
    /// The end of a statement.
    End,
}

fn tokens(text: &str) -> Result<Vec<Token>, Mistake> {
    let text = text.replace("\r\n", "\n");
    let mut rest = text.chars().peekable();
    let mut tokens = Vec::new();
    let mut depth = 0_usize;
    while let Some(c) = rest.next() {
        match c {
            '"' => tokens.push(Token::Text(double(&mut rest)?)),
            '\'' => tokens.push(Token::Text(single(&mut rest)?)),
            // At a line's end it goes on with the next line.
            '`' => drop(rest.next()),
            '(' | '{' | ')' | '}' | '=' | ',' => {
                match c {
                    '(' | '{' => depth += 1,
                    ')' | '}' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                tokens.push(Token::Sign(c));
            }
            '\n' | ';' if depth == 0 => tokens.push(Token::End),
            c if c.is_whitespace() || c == ';' => {}
            c => {
                let mut word = c.to_string();
                while let Some(c) = rest.next_if(|c| !c.is_whitespace() && !"(){}=,;\"'`".contains(*c)) {
                    word.push(c);
                }
                tokens.push(Token::Word(word));
            }
        }
    }
    Ok(tokens)
}

fn single(rest: &mut Peekable<Chars<'_>>) -> Result<String, Mistake> {
    let mut text = String::new();
    while let Some(c) = rest.next() {
        match c {
            '\'' if rest.next_if_eq(&'\'').is_none() => return Ok(text),
            c => text.push(c),
        }
    }
    Err(Mistake::UNCLOSED)
}

fn double(rest: &mut Peekable<Chars<'_>>) -> Result<String, Mistake> {
    // In the units in which `[char]` counts, of which two may make one character.
    let mut units: Vec<u16> = Vec::new();
    let push = |units: &mut Vec<u16>, c: char| units.extend(c.encode_utf16(&mut [0; 2]).iter());
    while let Some(c) = rest.next() {
        match c {
            '"' if rest.next_if_eq(&'"').is_none() => {
                return String::from_utf16(&units).map_err(|_| Mistake::BAD_ESCAPE);
            }
            '`' => {
                let c = rest.next().ok_or(Mistake::UNCLOSED)?;
                let control = [('n', '\n'), ('r', '\r'), ('t', '\t'), ('0', '\0')];
                let meant = control.iter().find(|(letter, _)| *letter == c).map_or(c, |(_, meant)| *meant);
                push(&mut units, meant);
            }
            '$' if rest.peek() == Some(&'(') => units.push(number(rest)?),
            c => push(&mut units, c),
        }
    }
    Err(Mistake::UNCLOSED)
}

/// `([char]8217)`, in which browsers write what is not ASCII.
fn number(rest: &mut Peekable<Chars<'_>>) -> Result<u16, Mistake> {
    let inner: String = rest.by_ref().take_while(|c| *c != ')').collect();
    let digits = inner.trim_start_matches('(').trim().strip_prefix("[char]");
    digits.and_then(|digits| digits.trim().parse().ok()).ok_or(Mistake::SUBSTITUTION)
}

/// What the statements before a call say of its session.
#[derive(Default)]
struct Session {
    user_agent: Option<String>,
    cookies: Vec<String>,
}

impl Session {
    fn read(&mut self, tokens: &[Token]) {
        for (at, token) in tokens.iter().enumerate() {
            let Token::Word(word) = token else { continue };
            match &tokens[at + 1..] {
                [Token::Sign('='), Token::Text(text), ..] if word.ends_with(".UserAgent") => {
                    self.user_agent = Some(text.clone());
                }
                [Token::Sign('('), Token::Text(name), Token::Sign(','), Token::Text(value), ..]
                    if word.ends_with("Net.Cookie") =>
                {
                    self.cookies.push(format!("{name}={value}"));
                }
                _ => {}
            }
        }
    }

    fn call(&self, tokens: &[Token]) -> Result<Request, Mistake> {
        let (mut address, mut method, mut body, mut headers) = (None, None, None, Vec::new());
        headers.extend(self.user_agent.clone().map(|text| ("user-agent".to_string(), text)));
        for (at, token) in tokens.iter().enumerate() {
            let Token::Word(parameter) = token else { continue };
            let after = &tokens[at + 1..];
            let value = match after.first() {
                Some(Token::Text(text) | Token::Word(text)) => Some(text.clone()),
                _ => None,
            };
            match parameter.to_ascii_lowercase().as_str() {
                "-uri" => address = value,
                "-method" => method = value.map(|method| method.to_ascii_uppercase()),
                "-useragent" => headers.extend(value.map(|text| ("user-agent".to_string(), text))),
                "-headers" => headers.extend(table(after)),
                // The text itself, or the bytes of one.
                "-body" => {
                    body = after.iter().find_map(|token| match token {
                        Token::Text(text) => Some(text.clone()),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        if !self.cookies.is_empty() {
            headers.push(("cookie".into(), self.cookies.join("; ")));
        }
        Request::new(address, method, headers, body)
    }
}

/// The pairs of a table `@{ "name"="value" ... }`.
fn table(tokens: &[Token]) -> Vec<(String, String)> {
    let end = tokens.iter().position(|token| *token == Token::Sign('}')).unwrap_or(tokens.len());
    let pair = |window: &[Token]| match window {
        [Token::Text(name), Token::Sign('='), Token::Text(value)] => {
            Some((name.trim_start_matches(':').to_ascii_lowercase(), value.clone()))
        }
        _ => None,
    };
    let pairs = tokens[..end].windows(3).filter_map(pair);
    pairs.filter(|(name, _)| !PSEUDO_HEADERS.contains(&name.as_str())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_read_as_powershell_reads_them() {
        let text = "$s.UserAgent = \"a `\"b`\" ``c `$d \"\"e\"\" $([char]20320)$([char]55357)$([char]56898)`n\"\n\
                    Invoke-WebRequest -Uri 'https://m.example.com/it''s'";
        let request = requests(text).expect("good").remove(0).expect("a request");
        assert_eq!(request.header("user-agent"), Some("a \"b\" `c $d \"e\" 你🙂\n"));
        assert_eq!(request.url.as_str(), "https://m.example.com/it's");
        for (text, code) in [
            ("Invoke-WebRequest -Uri \"https://m", "unclosed"),
            ("Invoke-WebRequest -Uri \"https://m/$(Get-Date)\"", "substitution"),
        ] {
            assert_eq!(requests(text).expect_err("a mistake").code, code);
        }
    }
}
