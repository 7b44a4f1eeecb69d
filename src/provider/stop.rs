//! Answers that end at a text of the caller's (`stop`), before upstreams that know no such texts: the
//! words are cut there, and the question is given up, which closes its connection.
//!
//! Held back is only what may be the beginning of such a text. Where an answer is cut does not depend on
//! how its words came in pieces.

use std::ops::ControlFlow;

use memchr::memmem;

use super::decoding::Deltas;
use super::rewriting::{Queue, Rewriter, rewritten};
use crate::domain::answer::Delta;
use crate::domain::error::Error;

/// The most texts at which an answer may end, as OpenAI has it.
pub const MOST: usize = 4;

/// The answer up to the first of these texts.
pub fn at(deltas: Deltas, stops: &[String]) -> Deltas {
    let stops: Vec<String> = stops.iter().filter(|stop| !stop.is_empty()).cloned().collect();
    if stops.is_empty() {
        return deltas;
    }
    rewritten(deltas, Cutter::new(stops))
}

impl Rewriter for Cutter {
    fn take(&mut self, mut delta: Delta, queue: &mut Queue) -> ControlFlow<()> {
        if delta.settled {
            // It stands for all words before it.
            self.rest();
        }
        let cut = self.cut(&delta.text);
        delta.text = cut.words;
        let flow = match cut.rest {
            Some(_) => {
                let metadata = delta.metadata.get_or_insert_default();
                metadata.finish = Some("stop".into());
                metadata.cut = true;
                ControlFlow::Break(())
            }
            None => ControlFlow::Continue(()),
        };
        if delta != Delta::default() {
            queue.push_back(Ok(delta));
        }
        flow
    }

    fn end(&mut self, failure: Option<Error>, queue: &mut Queue) {
        let rest = self.rest();
        if !rest.is_empty() {
            queue.push_back(Ok(Delta { text: rest, ..Delta::default() }));
        }
        queue.extend(failure.map(Err));
    }
}

/// Looks for texts in words that come in pieces.
pub struct Cutter {
    /// None of them is empty.
    stops: Vec<String>,
    /// What may be the beginning of one.
    held: String,
}

/// Words up to one of the texts that are looked for.
pub struct Cut {
    /// What may go on.
    pub words: String,
    /// The text that was looked for, and what came with it.
    pub rest: Option<String>,
}

impl Cutter {
    /// One that looks for these texts, of which none is empty.
    pub fn new(stops: Vec<String>) -> Self {
        Cutter { stops, held: String::new() }
    }

    /// What was held back.
    pub fn rest(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// What may go on of the words so far, and whether they are cut there.
    pub fn cut(&mut self, words: &str) -> Cut {
        self.held.push_str(words);
        let places = self.stops.iter().filter_map(|stop| {
            let start = memmem::find(self.held.as_bytes(), stop.as_bytes())?;
            Some((start + stop.len(), start))
        });
        // The one that is complete first, as if the words came letter by letter.
        if let Some((_, start)) = places.min() {
            let rest = self.held.split_off(start);
            return Cut { words: self.rest(), rest: Some(rest) };
        }
        let begins = |from: &usize| self.stops.iter().any(|stop| stop.starts_with(&self.held[*from..]));
        let longest = self.stops.iter().map(String::len).max().unwrap_or_default();
        let from = self.held.len().saturating_sub(longest);
        let mut places = (from..self.held.len()).filter(|place| self.held.is_char_boundary(*place));
        let keep = places.find(begins).unwrap_or(self.held.len());
        let rest = self.held.split_off(keep);
        Cut { words: std::mem::replace(&mut self.held, rest), rest: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::decoding::pieces;
    use proptest::prelude::*;

    fn cut(pieces: &[&str], stops: &[&str]) -> (String, bool) {
        let stops = stops.iter().map(ToString::to_string).collect();
        let mut cutter = Cutter::new(stops);
        let mut said = String::new();
        for piece in pieces {
            let cut = cutter.cut(piece);
            said += &cut.words;
            if cut.rest.is_some() {
                return (said, true);
            }
        }
        said += &cutter.held;
        (said, false)
    }

    #[test]
    fn words_end_at_the_text_that_is_complete_first() {
        for (pieces, stops, said, is_cut) in [
            (&["Thought\nObserv", "ation: x"][..], &["Observation"][..], "Thought\n", true),
            (&["a", "b", "c"], &["bc"], "a", true),
            (&["ab", "ab", "x"], &["abx"], "ab", true),
            (&["abab"], &["abx"], "abab", false),
            (&["xabcd"], &["abcd", "c"], "xab", true),
            (&["你", "好\u{1f642}"], &["好\u{1f643}", "\u{1f642}"], "你好", true),
            (&["stop"], &["stop"], "", true),
            (&["x"], &["xyz"], "x", false),
        ] {
            assert_eq!(cut(pieces, stops), (said.to_string(), is_cut), "{pieces:?} {stops:?}");
        }
    }

    #[test]
    fn only_what_may_be_a_beginning_is_held_back() {
        let mut cutter = Cutter::new(vec!["\nObservation".into()]);
        assert_eq!(cutter.cut("Hello\nOb").words, "Hello");
        assert_eq!(cutter.cut("ject").words, "\nObject");
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(
            text in "[abé]{0,30}",
            stops in prop::collection::vec("[abé]{1,4}", 1..4),
            cuts in prop::collection::vec(0usize..30, 0..8),
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let cuts = cuts.into_iter().filter(|cut| text.is_char_boundary(*cut)).collect();
            let pieces: Vec<&str> = pieces(text.as_bytes(), cuts)
                .into_iter()
                .map(|piece| std::str::from_utf8(piece).expect("cut between letters"))
                .collect();
            prop_assert_eq!(cut(&pieces, &stops), cut(&[&text], &stops));
            let (said, is_cut) = cut(&[&text], &stops);
            prop_assert!(text.starts_with(&said) && is_cut == stops.iter().any(|stop| text.contains(stop)));
        }
    }
}
