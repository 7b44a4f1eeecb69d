//! The text of a web chat's answer: what its tokens say, and what its messages settle it to.
//!
//! What tokens said stands: some callers have it already, and all of them are to have the same. So a message
//! adds what the tokens left out, and nothing is taken back for one that is shorter or in other words.

use serde_json::Value;

/// The text so far.
#[derive(Default)]
pub struct Text {
    // Its memory is that of the answer's second writing, which begins after the decoder is gone.
    said: String,
    /// Where what the latest message settled ends: a message may be one of several.
    settled: usize,
    /// The latest message.
    latest: String,
    /// Whether words of it are missing.
    has_gap: bool,
    /// How many messages were in other words than those that were said.
    pub otherwise: usize,
}

impl Text {
    /// Takes words in.
    pub fn say(&mut self, words: &str) {
        self.said.push_str(words);
    }

    /// Whether nothing was said.
    pub fn is_empty(&self) -> bool {
        self.said.trim().is_empty()
    }

    /// Whether a line that breaks off in a message has begun to say no more than was said.
    pub fn holds_begun(&self, line: &[u8]) -> bool {
        let line = String::from_utf8_lossy(line);
        let Some((_, begun)) = line.rsplit_once("\"message\"") else { return true };
        let begun = begun.trim_start_matches([':', ' ', '"']);
        let mut escaped = false;
        let end = begun.find(|c: char| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let said = Value::from(self.said.trim()).to_string();
        let said = &said[1..said.len() - 1];
        match end {
            Some(end) => begun[..end].trim() == said,
            // The cut may divide a character, or what stands for one.
            None => said.starts_with(begun.trim_end_matches(['\u{fffd}', '\\'])),
        }
    }

    /// Takes in that words may have been lost.
    pub fn miss(&mut self) {
        self.has_gap = true;
    }

    /// Takes a message in, or the part of one that there is so far; gives all of the text, where the message has
    /// to do with it.
    pub fn settle(&mut self, message: &str, is_partial: bool) -> Option<String> {
        // Blanks around the words are told in one place and not in another.
        let (said, latest) = (self.said.trim_start(), self.latest.trim());
        let told = message.trim_start();
        let goes_on = !latest.is_empty() && told.starts_with(latest);
        let is_whole = told.starts_with(said) || said.starts_with(told) || goes_on;
        let is_repeated = goes_on && told.trim_end().len() == latest.len();
        let (before, said) = self.said.split_at(if is_whole { 0 } else { self.settled });
        let is_known = is_repeated || message.trim() == said.trim();
        let news = told.strip_prefix(self.said.trim_start()).filter(|_| is_whole);
        let text = match news {
            _ if is_known => self.said.clone(),
            Some(news) => [&self.said, news].concat(),
            None => [before, message].concat(),
        };
        let adds = text.starts_with(&self.said);
        let is_cut = self.said.starts_with(&text);
        self.otherwise += usize::from(!(adds || is_partial && is_cut));
        // What goes in between can still be told to those who have none of it yet, and where words are
        // missing nothing else has them.
        let counts = adds || holds(&text, &self.said) || self.has_gap && !is_cut;
        if counts {
            self.said.clone_from(&text);
            self.has_gap = false;
        }
        if !is_partial {
            self.settled = self.said.len();
            self.latest = message.into();
        }
        counts.then_some(text)
    }
}

/// Whether a text has all characters of another in their order, so that nothing of it is lost.
fn holds(text: &str, other: &str) -> bool {
    let mut characters = text.chars();
    other.chars().all(|character| characters.any(|next| next == character))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_adds_to_what_was_said_and_takes_nothing_back() {
        let after = |said: &str, message: &str| {
            let mut text = Text::default();
            text.say(said);
            let settled = text.settle(message, false);
            (settled, text.otherwise)
        };
        let all = |text: &str| Some(text.to_string());
        for (said, message, expected) in [
            ("", "Hello", (all("Hello"), 0)),
            ("Hello", "Hello", (all("Hello"), 0)),
            ("Hel", "Hello", (all("Hello"), 0)),
            ("\nHello ", "Hello", (all("\nHello "), 0)),
            ("Hello world", "Hello", (None, 1)),
            ("Hello wurld", "Hello world", (None, 1)),
            ("Hello[1] world", "Hello world", (None, 1)),
            ("world", "Hello world", (all("Hello world"), 1)),
        ] {
            assert_eq!(after(said, message), expected, "{said:?} {message:?}");
        }
    }

    #[test]
    fn where_words_are_missing_a_message_has_them_unless_it_is_cut() {
        for (message, expected) in [("Hullo, world", Some("Hullo, world")), ("Hello", None)] {
            let mut text = Text::default();
            text.say("Hello wor");
            text.miss();
            assert_eq!(text.settle(message, false).as_deref(), expected, "{message}");
        }
    }

    #[test]
    fn one_message_may_follow_another() {
        let mut text = Text::default();
        let mut settled = |said: &str, message: &str| {
            text.say(said);
            text.settle(message, false).unwrap_or_default()
        };
        assert_eq!(settled("one", "one"), "one");
        assert_eq!(settled("", "one"), "one");
        assert_eq!(settled(" two", " two"), "one two");
        assert_eq!(settled("", "one two three"), "one two three");
        assert_eq!(settled("", " four"), "one two three four");
        assert_eq!(settled("fi", "five"), "one two three fourfive");
    }
}
