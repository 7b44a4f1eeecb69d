//! Where words of an answer stand in code by the rules of Markdown, followed as they come: between runs of
//! backquotes within a line, or in a fenced block (<https://spec.commonmark.org/0.31.2/#fenced-code-blocks>).

/// From how many backquotes on, at the beginning of a line, a block is fenced.
const FENCE: usize = 3;

/// How far the words are.
pub struct Code {
    place: Place,
    /// How many backquotes began the code.
    begun: usize,
    /// How many backquotes came last, and whether their line began with them.
    run: usize,
    run_begins_line: bool,
    /// Whether the line has no words yet, but marks of a quotation or a list.
    at_begin: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Words,
    Span,
    /// The first line of a fenced block, which is a span if its backquotes come again.
    Opening,
    Block,
}

impl Default for Code {
    fn default() -> Self {
        Code { place: Place::Words, begun: 0, run: 0, run_begins_line: false, at_begin: true }
    }
}

impl Code {
    /// Goes on over words without a backquote and a line's end; says whether that was possible.
    pub fn pass_plain(&mut self, words: &str) -> bool {
        if self.run > 0 {
            return false;
        }
        if self.at_begin {
            self.at_begin = words.bytes().all(is_mark);
        }
        true
    }

    /// Goes on over words.
    pub fn pass(&mut self, words: &str) {
        for byte in words.bytes() {
            if byte == b'`' {
                if self.run == 0 {
                    self.run_begins_line = self.at_begin;
                }
                self.run += 1;
                continue;
            }
            self.end_run();
            if byte == b'\n' {
                self.at_begin = true;
                self.place = match self.place {
                    // A span rarely goes over lines, and a backquote alone is none.
                    Place::Words | Place::Span => Place::Words,
                    Place::Opening | Place::Block => Place::Block,
                };
            } else {
                self.at_begin &= is_mark(byte);
            }
        }
    }

    /// Whether what comes next, which is no backquote, is code.
    pub fn goes_on(&mut self) -> bool {
        self.end_run();
        self.place != Place::Words
    }

    fn end_run(&mut self) {
        let run = std::mem::take(&mut self.run);
        if run == 0 {
            return;
        }
        self.at_begin = false;
        let ends = match self.place {
            Place::Words => {
                let is_fence = run >= FENCE && self.run_begins_line;
                self.place = if is_fence { Place::Opening } else { Place::Span };
                self.begun = run;
                return;
            }
            Place::Span | Place::Opening => run == self.begun,
            Place::Block => run >= self.begun && self.run_begins_line,
        };
        if ends {
            self.place = Place::Words;
        }
    }
}

/// Whether a line may have this before a fence: blanks, and what makes a quotation or a list.
fn is_mark(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'>' | b'-' | b'*' | b'+' | b'.' | b')' | b'0'..=b'9')
}
