//! A web chat's answer: one JSON object a line.

use std::collections::VecDeque;

use memchr::memmem;
use serde_json::{Value, json};

use super::line::{Line, Part, Said};
use super::markup::Markup;
use crate::domain::answer::{Delta, Metadata, Names};
use crate::provider::decoding::{Decoder, Fault, Progress, first_byte};
use crate::provider::framing::Lines;
use crate::provider::template::Template;
use crate::provider::tolerant::Halves;
use crate::telemetry::mending::{Mending, Mendings};

/// Decodes the lines of an answer.
pub struct Answer {
    lines: Option<Lines>,
    /// The form of the latest line, where the next can be known by it, and what its token is.
    template: Option<(Template, Said)>,
    started: bool,
    /// The beginning of a web page, where one came instead.
    page: Option<Vec<u8>>,
    understood: bool,
    /// How many lines came that are not blank.
    count: usize,
    skipped: usize,
    /// How many of those skipped were no JSON.
    unreadable: usize,
    soft_stopped: bool,
    /// Whether more words came after the soft stop.
    goes_on: bool,
    whole: bool,
    markup: Markup,
    /// Half of a character, whose other half is to come.
    halves: Halves,
    response_id: Option<String>,
}

impl Decoder for Answer {
    fn feed(&mut self, bytes: &[u8], deltas: &mut VecDeque<Delta>) -> Result<(), Fault> {
        // The closure cannot borrow the framing and the rest of the decoder at once.
        let Some(mut lines) = self.lines.take() else { return Ok(()) };
        let result = lines.feed(bytes, |line| self.line(line, false, deltas));
        self.lines = Some(lines);
        result
    }

    fn progress(&self) -> Progress {
        if self.whole {
            Progress::Done
        } else if self.soft_stopped {
            Progress::Settled
        } else {
            Progress::Open
        }
    }

    fn mended(&mut self) -> Mendings {
        let mut mendings = Mendings::default();
        mendings.add(Mending::Unreadable, self.unreadable);
        mendings.add(Mending::MarkupLeftOut, self.markup.left_out);
        mendings.add(Mending::Skipped, self.skipped - self.unreadable);
        mendings
    }

    fn finish(&mut self, deltas: &mut VecDeque<Delta>) -> Result<(), Fault> {
        let last = self.lines.as_mut().and_then(Lines::rest).unwrap_or_default();
        let skipped = self.skipped;
        self.line(&last, true, deltas)?;
        if let Some(begun) = self.page.take() {
            return Err(Fault::Html(begun));
        }
        let held = self.markup.rest();
        if !held.is_empty() && !self.whole {
            deltas.push_back(Delta { text: held, ..Delta::default() });
        }
        // A last line that breaks off may have held words, unless it only says again what came before.
        let may_say_more = || self.goes_on || memmem::find(&last, b"\"token\"").is_some();
        if self.soft_stopped && !self.whole && self.skipped > skipped && may_say_more() {
            return Err(Fault::unfinished(true, 0, b""));
        }
        if self.whole || self.soft_stopped && !self.halves.are_waiting() {
            Ok(())
        } else if !self.started {
            Err(Fault::empty())
        } else {
            Err(Fault::unfinished(self.understood, self.skipped, &last))
        }
    }
}

impl Answer {
    pub fn new(line_bytes: usize) -> Self {
        Answer {
            lines: Some(Lines::new(line_bytes)),
            template: None,
            started: false,
            page: None,
            understood: false,
            count: 0,
            skipped: 0,
            unreadable: 0,
            soft_stopped: false,
            goes_on: false,
            whole: false,
            markup: Markup::default(),
            halves: Halves::default(),
            response_id: None,
        }
    }

    /// Takes in a line. The `last` one, which nothing ends, may break off.
    fn line(&mut self, line: &[u8], last: bool, deltas: &mut VecDeque<Delta>) -> Result<(), Fault> {
        let line = line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line).trim_ascii();
        if line.is_empty() || self.whole {
            return Ok(());
        }
        self.count += 1;
        if !std::mem::replace(&mut self.started, true) && first_byte(line) == Some(b'<') {
            self.page = Some(Vec::new());
        }
        if let Some(begun) = &mut self.page {
            return Fault::page(begun, line);
        }
        if let Some((template, kind)) = self.template.as_ref().filter(|_| !self.halves.are_waiting())
            && let Some(words) = template.words(line)
        {
            let said = said(words, *kind, &mut self.markup);
            self.goes_on |= self.soft_stopped && said.is_some();
            deltas.extend(said);
            return Ok(());
        }
        self.template = None;
        let joined = self.halves.join(line);
        // serde would take a list for an object, by position.
        let read = joined.as_deref().ok().filter(|line| line.starts_with(b"{")).map(serde_json::from_slice);
        let Some(Ok(Line { result, error })) = read else {
            fail_if_failure(line)?;
            self.skipped += 1;
            if !last {
                self.unreadable += 1;
                deltas.push_back(Delta { gap: Some(self.count), ..Delta::default() });
            }
            return Ok(());
        };
        let line = joined.as_deref().unwrap_or(line);
        error.map_or(Ok(()), fail_if_reported)?;
        let Some(result) = result else {
            fail_if_failure(line)?;
            self.skipped += 1;
            return Ok(());
        };
        self.understood = true;
        let (conversation, own, response) = result.split();
        if let Some(conversation) = conversation.and_then(|conversation| conversation.conversation_id) {
            deltas.push_back(Names { conversation: Some(conversation), ..Names::default() }.into());
        }
        self.template = match (&own, response.as_ref()) {
            (part @ Part { token: Some(token), .. }, None)
            | (Part { token: None, .. }, Some(part @ Part { token: Some(token), .. }))
                if !own.ends() && !part.ends() && part.error.is_none() =>
            {
                Template::of(line, token.raw).map(|template| (template, part.kind()))
            }
            _ => None,
        };
        self.part(own, deltas)?;
        response.map_or(Ok(()), |part| self.part(part, deltas))
    }

    fn part(&mut self, part: Part<'_>, deltas: &mut VecDeque<Delta>) -> Result<(), Fault> {
        let (kind, ends, is_partial) = (part.kind(), part.ends(), part.is_partial());
        part.error.map_or(Ok(()), fail_if_reported)?;
        self.respond(part.response_id, deltas);
        if let Some(token) = part.token {
            let said = said(&token.text, kind, &mut self.markup);
            self.goes_on |= self.soft_stopped && said.is_some();
            deltas.extend(said);
        }
        if let Some(card) = part.card_attachment.and_then(|card| card.json_data) {
            self.markup.learn(&card);
        }
        if let Some(response) = part.model_response {
            // A mirror tells of a usage limit or an overload here, in an answer that is else complete.
            response.failures().try_for_each(fail_if_reported)?;
            response.card_attachments_json.iter().flatten().for_each(|card| self.markup.learn(card));
            self.respond(response.response_id, deltas);
            if response.model.is_some() {
                deltas.push_back(Names { model: response.model, ..Names::default() }.into());
            }
            // An empty one settles nothing, and a partial one not all: the words came before, or come yet.
            if let Some(text) = response.message.filter(|text| !text.is_empty()) {
                self.whole = !is_partial;
                let text = self.markup.whole(&text);
                deltas.push_back(Delta { text, settled: true, ..Delta::default() });
            }
        }
        if ends && !std::mem::replace(&mut self.soft_stopped, true) {
            deltas.push_back(Metadata { finish: Some("stop".into()), ..Metadata::default() }.into());
        }
        Ok(())
    }

    fn respond(&mut self, id: Option<String>, deltas: &mut VecDeque<Delta>) {
        if let Some(id) = id.filter(|id| !id.is_empty() && self.response_id.as_ref() != Some(id)) {
            self.response_id = Some(id.clone());
            deltas.push_back(Names { response: Some(id), ..Names::default() }.into());
        }
    }
}

/// Fails with the failure that a line of another form reports, if it does.
fn fail_if_failure(line: &[u8]) -> Result<(), Fault> {
    serde_json::from_slice(line).map_or(Ok(()), |value| Fault::check(&value))
}

/// Fails with the value of an error, unless it is none.
fn fail_if_reported(error: Value) -> Result<(), Fault> {
    Fault::check(&json!({ "error": error }))
}

fn said(words: &str, kind: Said, markup: &mut Markup) -> Option<Delta> {
    let delta = match kind {
        Said::Reasoning => Delta { reasoning: words.into(), ..Delta::default() },
        Said::Answer => Delta { text: markup.take(words), ..Delta::default() },
        Said::Nothing => {
            markup.left_out += 1;
            return None;
        }
    };
    (!delta.text.is_empty() || !delta.reasoning.is_empty()).then_some(delta)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::answer;
    use crate::domain::error::Kind;
    use crate::provider::decoding::{self, pieces};
    use proptest::prelude::*;

    fn read(chunks: &[&[u8]]) -> Result<answer::Answer, Kind> {
        let (deltas, end) = decoding::read(&mut Answer::new(1 << 20), chunks);
        let mut answer = answer::Answer::default();
        deltas.iter().for_each(|delta| answer.apply(delta));
        match end {
            Ok(()) => Ok(answer),
            Err(fault) => Err(fault.kind()),
        }
    }

    const NEW: &str = concat!(
        "{\"result\":{\"conversation\":{\"conversationId\":\"c1\"}}}\r\n",
        "{\"result\":{\"response\":{\"token\":\"hm\",\"isThinking\":true,\"responseId\":\"r1\"}}}\n",
        "broken {\n\n",
        "{\"unknown\":1}\n",
        "{\"result\":{\"response\":{\"token\":\"你好\",\"isThinking\":false,\"responseId\":\"r1\"}}}\n",
        "{\"result\":{\"response\":{\"token\":\" 🙂\",\"responseId\":\"r1\"}}}\n",
        "{\"result\":{\"response\":{\"token\":\"\",\"isSoftStop\":true,\"responseId\":\"r1\"}}}\n",
    );
    const WHOLE: &str = "{\"result\":{\"modelResponse\":{\"message\":\"你好 🙂!\",\"responseId\":\"r2\"}}}";

    #[test]
    fn both_shapes_are_understood_and_the_whole_message_wins() {
        let answer = read(&[NEW.as_bytes()]).expect("an answer");
        assert_eq!(answer.text, "你好 🙂");
        assert_eq!(
            (answer.names.conversation.as_deref(), answer.names.response.as_deref()),
            (Some("c1"), Some("r1"))
        );
        assert_eq!(answer.finish_reason.as_deref(), Some("stop"));
        let answer = read(&[NEW.as_bytes(), WHOLE.as_bytes()]).expect("an answer");
        assert_eq!((answer.text.as_str(), answer.names.response.as_deref()), ("你好 🙂!", Some("r2")));
        let direct = NEW.replace("{\"response\":{", "{").replace("}}}", "}}");
        assert_eq!(read(&[direct.as_bytes()]).expect("an answer").text, "你好 🙂");
    }

    #[test]
    fn every_cut_before_the_stop_is_truncation() {
        let stop = NEW.find("\"isSoftStop\"").expect("a stop");
        let first = NEW.find('\n').expect("a line");
        for end in first..stop {
            assert_eq!(
                read(&[&NEW.as_bytes()[..end]]).expect_err("cut"),
                Kind::UpstreamTruncated,
                "at {end}"
            );
        }
    }

    #[test]
    fn bad_answers_are_named() {
        for (text, kind) in [
            ("\n \n", Kind::UpstreamEmpty),
            ("<!doctype html>\n<html>", Kind::UpstreamHtml),
            ("garbage\nmore", Kind::UpstreamInvalid),
            ("{\"hello\":1}\n", Kind::UpstreamInvalid),
            ("{\"error\":{\"message\":\"x\",\"code\":8}}\n", Kind::UpstreamError),
        ] {
            assert_eq!(read(&[text.as_bytes()]).expect_err(text), kind, "{text}");
        }
    }

    /// Lines that a template of another could be taken for, or not.
    const LINES: [&str; 12] = [
        r#"{"result":{"token":"a","responseId":"r1"}}"#,
        r#"{"result":{"token":"é b","responseId":"r1"}}"#,
        r#"{"result":{"token":"\u00e9\"","responseId":"r1"}}"#,
        r#"{"result":{"token":"\ud800","responseId":"r1"}}"#,
        r#"{"result":{"token":"","responseId":"r1"}}"#,
        r#"{"result":{"token":null,"responseId":"r1"}}"#,
        r#"{"result":{"token":7,"responseId":"r1"}}"#,
        r#"{"result":{"token":"c","responseId":"r2"}}"#,
        r#"{"result":{"token":"d","isThinking":true,"responseId":"r2"}}"#,
        r#"{"result":{"response":{"token":"e","isThinking":false}}}"#,
        r#"{"result":{"response":{"token":"f"},"token":"g"}}"#,
        r#"{"result":{"response":{"token":"h","isSoftStop":true}}}"#,
    ];

    proptest! {
        #[test]
        fn a_line_means_the_same_after_any_other(lines in prop::collection::vec(0..LINES.len(), 1..20)) {
            let text = |blanks: fn(usize) -> usize| -> String {
                let line = |(number, line): (usize, &usize)| format!("{{{}{}\n", " ".repeat(blanks(number)), &LINES[*line][1..]);
                lines.iter().enumerate().map(line).collect()
            };
            // No line has the template of another where each has its own number of blanks.
            prop_assert_eq!(read(&[text(|_| 0).as_bytes()]), read(&[text(|number| number).as_bytes()]));
        }

        #[test]
        fn cuts_do_not_matter(cuts in prop::collection::vec(0usize..NEW.len(), 0..12)) {
            let bytes = NEW.as_bytes();
            prop_assert_eq!(read(&pieces(bytes, cuts)), read(&[bytes]));
        }
    }
}
