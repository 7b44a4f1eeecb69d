//! A shell's text into the words of its commands: bash, as browsers write it, and Windows' cmd.
//!
//! Sources: the Bash manual, section 3.1.2 (Quoting), and for cmd what Chrome and Firefox make of an
//! argument: a caret takes a character's meaning away, and within quotes `\"` or `""` is a quote.
//! Nothing is expanded or run.

use super::Mistake;

/// The commands in a text, each in words.
///
/// # Errors
/// When a quote is not closed, or the shell would run something.
pub fn commands(text: &str) -> Result<Vec<Vec<String>>, Mistake> {
    let text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n");
    let is_cmd = is_cmd(&text);
    let words = if is_cmd { cmd(&text) } else { Bash::new(&text).words() }?;
    let commands = words.split(|word| *word == Word::End).map(|command| {
        let texts = command.iter().map(|word| match word {
            Word::Text(text) => text.clone(),
            Word::End => String::new(),
        });
        texts.collect::<Vec<_>>()
    });
    let is_curl = |words: &Vec<String>| {
        let name = words.first().map(|name| name.to_ascii_lowercase()).unwrap_or_default();
        matches!(name.rsplit(['/', '\\']).next(), Some("curl" | "curl.exe"))
    };
    Ok(commands.filter(is_curl).collect())
}

/// Whether a text is written for Windows' cmd.
pub fn is_cmd(text: &str) -> bool {
    text.contains("^\"") || text.lines().any(|line| line.trim_end().ends_with('^'))
}

/// A word, or the end of a command.
#[derive(Debug, PartialEq, Eq)]
enum Word {
    Text(String),
    End,
}

/// Reads bash's quoting.
struct Bash<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    words: Vec<Word>,
    word: Option<String>,
}

impl<'a> Bash<'a> {
    fn new(text: &'a str) -> Self {
        Bash { rest: text.chars().peekable(), words: Vec::new(), word: None }
    }

    fn push(&mut self, c: char) {
        self.word.get_or_insert_default().push(c);
    }

    fn end_word(&mut self) {
        self.words.extend(self.word.take().map(Word::Text));
    }

    fn words(mut self) -> Result<Vec<Word>, Mistake> {
        while let Some(c) = self.rest.next() {
            match c {
                ' ' | '\t' => self.end_word(),
                '\n' | ';' | '&' | '|' => {
                    self.end_word();
                    self.words.push(Word::End);
                }
                '\\' => match self.rest.next() {
                    Some('\n') | None => {}
                    Some(c) => self.push(c),
                },
                '\'' => self.single()?,
                '"' => self.double()?,
                '$' if self.rest.peek() == Some(&'\'') => {
                    self.rest.next();
                    self.escaped()?;
                }
                '`' => return Err(Mistake::SUBSTITUTION),
                '$' if self.rest.peek() == Some(&'(') => return Err(Mistake::SUBSTITUTION),
                c => self.push(c),
            }
        }
        self.end_word();
        Ok(self.words)
    }

    fn single(&mut self) -> Result<(), Mistake> {
        let word = self.word.get_or_insert_default();
        for c in self.rest.by_ref() {
            if c == '\'' {
                return Ok(());
            }
            word.push(c);
        }
        Err(Mistake::UNCLOSED)
    }

    fn double(&mut self) -> Result<(), Mistake> {
        self.word.get_or_insert_default();
        while let Some(c) = self.rest.next() {
            match c {
                '"' => return Ok(()),
                '`' => return Err(Mistake::SUBSTITUTION),
                '$' if self.rest.peek() == Some(&'(') => return Err(Mistake::SUBSTITUTION),
                '\\' => match self.rest.next() {
                    Some('\n') => {}
                    Some(c @ ('"' | '\\' | '$' | '`')) => self.push(c),
                    Some(c) => {
                        self.push('\\');
                        self.push(c);
                    }
                    None => return Err(Mistake::UNCLOSED),
                },
                c => self.push(c),
            }
        }
        Err(Mistake::UNCLOSED)
    }

    /// `$'...'`: the escapes of C.
    fn escaped(&mut self) -> Result<(), Mistake> {
        self.word.get_or_insert_default();
        while let Some(c) = self.rest.next() {
            let c = match c {
                '\'' => return Ok(()),
                '\\' => match self.rest.next().ok_or(Mistake::UNCLOSED)? {
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    'a' => '\u{7}',
                    'b' => '\u{8}',
                    'e' | 'E' => '\u{1b}',
                    'f' => '\u{c}',
                    'v' => '\u{b}',
                    'x' => self.code(2, 16, 0)?,
                    'u' => self.code(4, 16, 0)?,
                    'U' => self.code(8, 16, 0)?,
                    digit @ '0'..='7' => self.code(2, 8, digit.to_digit(8).unwrap_or_default())?,
                    c @ ('\\' | '\'' | '"' | '?') => c,
                    c => {
                        self.push('\\');
                        c
                    }
                },
                c => c,
            };
            self.push(c);
        }
        Err(Mistake::UNCLOSED)
    }

    /// A character by its number, of so many digits at most. A pair of surrogates is one character.
    fn code(&mut self, most: usize, base: u32, start: u32) -> Result<char, Mistake> {
        let number = self.digits(most, base, start);
        if (0xd800..0xdc00).contains(&number) {
            let low = match (self.rest.next(), self.rest.next()) {
                (Some('\\'), Some('u')) => self.digits(4, 16, 0),
                _ => 0,
            };
            let joined = 0x10000 + ((number - 0xd800) << 10) + low.wrapping_sub(0xdc00);
            return char::from_u32(joined).ok_or(Mistake::BAD_ESCAPE);
        }
        char::from_u32(number).ok_or(Mistake::BAD_ESCAPE)
    }

    fn digits(&mut self, most: usize, base: u32, start: u32) -> u32 {
        let mut number = start;
        for _ in 0..most {
            let Some(digit) = self.rest.peek().and_then(|c| c.to_digit(base)) else { break };
            number = number.wrapping_mul(base).wrapping_add(digit);
            self.rest.next();
        }
        number
    }
}

/// Reads cmd's quoting: first the carets, then the quotes of the program's own arguments.
fn cmd(text: &str) -> Result<Vec<Word>, Mistake> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    // In Chrome's form the quotes themselves carry a caret, so cmd never sees one; in Firefox's a
    // caret within quotes is itself.
    let all_carets = text.contains("^\"");
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        let (c, escaped) = match c {
            '^' if all_carets || !quoted => match rest.next() {
                // A caret takes the line's end away; a second one after it is meant.
                Some('\n') if rest.peek() == Some(&'\n') => {
                    rest.next();
                    word.get_or_insert_default().push('\n');
                    continue;
                }
                Some('\n') | None => continue,
                Some(c) => (c, true),
            },
            c => (c, false),
        };
        match c {
            '"' if quoted && rest.peek() == Some(&'"') && !all_carets => {
                rest.next();
                word.get_or_insert_default().push('"');
            }
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            // Both browsers double a backslash, and write one before a quote.
            '\\' => {
                let mut ahead = rest.clone();
                let caret = all_carets && ahead.peek() == Some(&'^') && ahead.next().is_some();
                let next = ahead.next().filter(|next| matches!(next, '"' | '\\'));
                if next.is_some() {
                    rest.next();
                    if caret {
                        rest.next();
                    }
                }
                word.get_or_insert_default().push(next.unwrap_or('\\'));
            }
            ' ' | '\t' if !quoted && !escaped => words.extend(word.take().map(Word::Text)),
            '\n' | '&' | '|' if !quoted && !escaped => {
                words.extend(word.take().map(Word::Text));
                words.push(Word::End);
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    if quoted {
        return Err(Mistake::UNCLOSED);
    }
    words.extend(word.take().map(Word::Text));
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        commands(text).expect("good quoting").remove(0)
    }

    #[test]
    fn bashs_quoting_is_undone() {
        let text = "curl a'b c'\"d \\\"e\\\" \\n \\$f\" g\\ h \\\n  $'i\\'j\\n\\u4f60\\x21\\ud83d\\ude42\\041' '' k$l";
        assert_eq!(words(text), ["curl", "ab cd \"e\" \\n $f", "g h", "i'j\n你!🙂!", "", "k$l"]);
    }

    #[test]
    fn cmds_quoting_is_undone() {
        let chrome = "curl ^\"a^\\^\"b^\\^\\c ^%^PATH^% ^^ ^\n\n^\" ^\n  d";
        assert_eq!(words(chrome), ["curl", "a\"b\\c %PATH% ^ \n", "d"]);
        let firefox = "curl.exe \"a\"\"b\\\\c ^ \"%\"x\" ^\n d\"\"";
        assert_eq!(words(firefox), ["curl.exe", "a\"b\\c ^ %x", "d"]);
    }
}
