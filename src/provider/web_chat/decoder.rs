//! A web chat's answer: one JSON object a line, or a server-sent event.
//!
//! A message with a text (`modelResponse`) settles the answer, and more may come all the same: another
//! message, or tokens after an early one. Its words count, so the answer lasts until its body ends, or falls
//! silent. Only the usual end is taken for one at once, since mirrors go on after it with other things and
//! some leave the connection open: a soft stop and a message, without a token since the first of them. By
//! two signs of its own the upstream has nothing left to say then.

use std::collections::VecDeque;

use memchr::memmem;
use serde_json::{Map, Value, json};

use super::frames::{Framed, Frames};
use super::line::{Line, Part, Said};
use super::markup::{Markup, Message};
use super::text::Text;
use crate::domain::answer::{Delta, Metadata, Names};
use crate::provider::content::speaks;
use crate::provider::decoding::{Decoder, Fault, Progress, first_byte};
use crate::provider::framing::{Lines, holds_json};
use crate::provider::reason::says_all_is_well;
use crate::provider::template::Template;
use crate::provider::tolerant::{self, Halves, Lost};
use crate::telemetry::mending::{Mending, Mendings};

/// How much is kept of what is not understood, in bytes.
const MAX_FOREIGN_BYTES: usize = 4 << 10;

/// Decodes the lines of an answer.
pub struct Answer {
    lines: Option<Lines>,
    frames: Frames,
    /// The form of the latest line, where the next can be known by it, and what its token is.
    template: Option<(Template, Said)>,
    started: bool,
    /// The beginning of a web page, where one came instead.
    page: Option<Vec<u8>>,
    understood: bool,
    /// How many lines came that are not blank.
    count: usize,
    skipped: usize,
    /// In how many words may be missing.
    unreadable: usize,
    soft_stopped: bool,
    /// Whether the latest words came after a sign of the end, and without another.
    overtaken: bool,
    /// Whether a message that is not partial was the last that came of the answer.
    settled: bool,
    /// Whether more words came after the answer had said that it may be complete.
    goes_on: bool,
    done: bool,
    text: Text,
    markup: Markup,
    /// Half of a character, whose other half is to come.
    halves: Halves,
    response_id: Option<String>,
    /// What came before anything was understood.
    foreign: Vec<u8>,
    /// The addresses of images, which are the answer where there are no words.
    images: Vec<String>,
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
        if self.done {
            Progress::Done
        } else if self.may_be_complete() && !self.overtaken {
            Progress::Settled
        } else {
            Progress::Open
        }
    }

    fn heard(&self) -> usize {
        self.count
    }

    fn mended(&mut self) -> Mendings {
        let mut mendings = Mendings::default();
        mendings.add(Mending::Unreadable, self.unreadable);
        mendings.add(Mending::MarkupLeftOut, self.markup.left_out);
        mendings.add(Mending::MarkupUnclosed, self.markup.unclosed);
        mendings.add(Mending::SettledOtherwise, self.text.otherwise);
        mendings.add(Mending::Skipped, self.skipped);
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
        self.say(held, deltas);
        if self.text.is_empty() && !self.images.is_empty() {
            let images = std::mem::take(&mut self.images).join("\n");
            self.say(images, deltas);
        }
        // A last line that breaks off may have held words, unless it only says again what came before.
        let may_say_more = || {
            let is_token = memmem::find(&last, b"\"token\"").is_some();
            self.goes_on || is_token || !self.text.holds_begun(&last)
        };
        if self.may_be_complete() && self.skipped > skipped && may_say_more() {
            return Err(Fault::unfinished(true, 0, b""));
        }
        if self.may_be_complete() && !self.halves.are_waiting() {
            Ok(())
        } else if !self.started {
            Err(Fault::empty())
        } else {
            self.check_foreign()?;
            Err(Fault::unfinished(self.understood, self.skipped + self.unreadable, &last))
        }
    }
}

impl Answer {
    pub fn new(line_bytes: usize) -> Self {
        Answer {
            lines: Some(Lines::new(line_bytes)),
            frames: Frames::default(),
            template: None,
            started: false,
            page: None,
            understood: false,
            count: 0,
            skipped: 0,
            unreadable: 0,
            soft_stopped: false,
            overtaken: false,
            images: Vec::new(),
            foreign: Vec::new(),
            settled: false,
            goes_on: false,
            done: false,
            text: Text::default(),
            markup: Markup::default(),
            halves: Halves::default(),
            response_id: None,
        }
    }

    /// Fails in the words of an answer of which nothing was understood: text, or a failure over several lines.
    fn check_foreign(&mut self) -> Result<(), Fault> {
        let foreign = std::mem::take(&mut self.foreign);
        match foreign.trim_ascii().first() {
            None => Ok(()),
            Some(b'{' | b'[') => fail_if_failure(&foreign),
            Some(_) => Err(Fault::Foreign(foreign)),
        }
    }

    /// Takes in a line. The `last` one, which nothing ends, may break off.
    fn line(&mut self, line: &[u8], last: bool, deltas: &mut VecDeque<Delta>) -> Result<(), Fault> {
        let line = line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line);
        let framed = match self.frames.line(line) {
            Framed::Line(line) if !self.done => line,
            Framed::End if self.understood && !self.done => {
                return self.part(Part { is_soft_stop: Some(true), ..Part::default() }, deltas);
            }
            _ => return Ok(()),
        };
        let line = &*framed;
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
            deltas.extend(said(words, *kind, &mut self.markup, &mut self.text));
            return Ok(());
        }
        self.template = None;
        let joined = self.halves.join(line).unwrap_or_else(|Lost| {
            self.miss(deltas);
            line.into()
        });
        let mended;
        let mut line = &*joined;
        let mut read = parse(line);
        if read.is_none()
            && let Some(fields) = object(line)
        {
            mended = Value::Object(fields).to_string();
            line = mended.as_bytes();
            read = parse(line);
        }
        let Some(Line { result: Some(result), error }) = read else {
            let is_other = read.is_some();
            return self.odd_line(line, is_other, last, deltas);
        };
        error.map_or(Ok(()), fail_if_reported)?;
        fail_if_told_beside(line)?;
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
        let (kind, is_partial) = (part.kind(), part.is_partial());
        part.error.map_or(Ok(()), fail_if_reported)?;
        self.respond(part.response_id, deltas);
        if let Some(token) = part.token
            && let Some(said) = said(&token.text, kind, &mut self.markup, &mut self.text)
        {
            self.goes_on |= self.may_be_complete();
            self.overtaken = self.may_be_complete();
            // What a message settled was not all.
            self.settled = false;
            deltas.push_back(said);
        }
        if let Some(card) = part.card_attachment.and_then(|card| card.json_data) {
            self.markup.learn(&card);
        }
        let had_ended = self.may_be_complete();
        // That the model stops thinking is no end.
        if part.is_soft_stop.unwrap_or_default() && !matches!(kind, Said::Reasoning) {
            self.soft_stopped = true;
            self.overtaken = false;
            // Both signs are there: mirrors go on with other things, and some leave the connection open.
            self.done |= self.settled && !self.text.is_empty();
        }
        if let Some(response) = part.model_response {
            // A mirror tells of a usage limit or an overload here, in an answer that is else complete.
            response.failures().try_for_each(fail_if_reported)?;
            response.card_attachments_json.iter().flatten().for_each(|card| self.markup.learn(card));
            self.respond(response.response_id, deltas);
            if response.model.is_some() {
                deltas.push_back(Names { model: response.model, ..Names::default() }.into());
            }
            self.images.extend(response.generated_image_urls.into_iter().flatten());
            // An empty one settles nothing: the words came before, or come yet.
            if let Some(text) = response.message.filter(|text| !text.is_empty()) {
                self.message(&text, is_partial, deltas);
            }
            self.settled |= !is_partial;
        }
        if !had_ended && self.may_be_complete() {
            deltas.push_back(Metadata { finish: Some("stop".into()), ..Metadata::default() }.into());
        }
        Ok(())
    }

    /// Takes in the text of a message.
    fn message(&mut self, text: &str, is_partial: bool, deltas: &mut VecDeque<Delta>) {
        let Message { before, text } = self.markup.message(text);
        self.say(before, deltas);
        let (settled, overtaken) = (self.text.settle(&text, is_partial), self.overtaken);
        deltas.extend(settled.map(|text| Delta { text, settled: true, ..Delta::default() }));
        self.overtaken &= is_partial;
        if self.soft_stopped && !overtaken && !is_partial {
            self.done = true;
            let held = self.markup.rest();
            self.say(held, deltas);
        }
    }

    /// Takes in a line that is an object of another form, or cannot be read. The `last` one may break off.
    fn odd_line(
        &mut self,
        line: &[u8],
        is_other: bool,
        last: bool,
        deltas: &mut VecDeque<Delta>,
    ) -> Result<(), Fault> {
        fail_if_failure(line)?;
        if !self.understood && self.foreign.len() < MAX_FOREIGN_BYTES {
            self.foreign.extend_from_slice(&line[..line.len().min(MAX_FOREIGN_BYTES)]);
            self.foreign.push(b'\n');
        }
        let may_speak = if is_other {
            object(line).is_some_and(|fields| speaks(&fields) || fields.contains_key("token"))
        } else {
            // After a sign of the end, what is no JSON has no words.
            !last && (!self.may_be_complete() || holds_json(line))
        };
        if may_speak {
            self.miss(deltas);
        } else {
            self.skipped += 1;
        }
        Ok(())
    }

    /// Whether the upstream has said that the answer may be complete, and has not gone on.
    fn may_be_complete(&self) -> bool {
        self.soft_stopped || self.settled
    }

    /// Says words that were held back, if there are any.
    fn say(&mut self, text: String, deltas: &mut VecDeque<Delta>) {
        if !text.is_empty() {
            self.text.say(&text);
            deltas.push_back(Delta { text, ..Delta::default() });
        }
    }

    /// Tells that words of this line may be missing.
    fn miss(&mut self, deltas: &mut VecDeque<Delta>) {
        self.unreadable += 1;
        self.text.miss();
        deltas.push_back(Delta { gap: Some(self.count), ..Delta::default() });
    }

    fn respond(&mut self, id: Option<String>, deltas: &mut VecDeque<Delta>) {
        if let Some(id) = id.filter(|id| !id.is_empty() && self.response_id.as_ref() != Some(id)) {
            self.response_id = Some(id.clone());
            deltas.push_back(Names { response: Some(id), ..Names::default() }.into());
        }
    }
}

/// Reads a line of the protocol in its usual form.
fn parse(line: &[u8]) -> Option<Line<'_>> {
    // serde would take a list for an object, by position.
    Some(line).filter(|line| line.starts_with(b"{")).and_then(|line| serde_json::from_slice(line).ok())
}

/// The object that a line is in JSON, or in what mirrors take for JSON.
fn object(line: &[u8]) -> Option<Map<String, Value>> {
    match line.starts_with(b"{").then(|| tolerant::value(line)) {
        Some(Ok(Value::Object(fields))) => Some(fields),
        _ => None,
    }
}

/// Fails with the failure that a line of another form reports, if it does.
fn fail_if_failure(line: &[u8]) -> Result<(), Fault> {
    let may_report = line.starts_with(b"{") || line.starts_with(b"[");
    let value = may_report.then(|| tolerant::value(line)).and_then(Result::ok);
    value.map_or(Ok(()), |value| Fault::check(&value))
}

/// Fails with the failure that a line reports beside its result, or in it.
fn fail_if_told_beside(line: &[u8]) -> Result<(), Fault> {
    let Ok(mut line) = tolerant::value(line) else { return Ok(()) };
    for place in ["", "/result", "/result/response"] {
        let Some(part) = line.pointer_mut(place) else { continue };
        // What is called an error is looked at where it is read.
        part.as_object_mut().map(|fields| fields.shift_remove("error"));
        Fault::check(part)?;
        for error in part["streamErrors"].as_array().into_iter().flatten() {
            fail_if_reported(error.clone())?;
        }
    }
    Ok(())
}

/// Fails with the value of an error, unless it is none.
fn fail_if_reported(error: Value) -> Result<(), Fault> {
    if says_all_is_well(&error) { Ok(()) } else { Fault::check(&json!({ "error": error })) }
}

fn said(words: &str, kind: Said, markup: &mut Markup, text: &mut Text) -> Option<Delta> {
    let delta = match kind {
        Said::Reasoning => Delta { reasoning: words.into(), ..Delta::default() },
        Said::Answer => {
            let words = markup.take(words);
            text.say(&words);
            Delta { text: words, ..Delta::default() }
        }
        Said::Nothing => {
            markup.left_out += 1;
            return None;
        }
    };
    (!delta.text.is_empty() || !delta.reasoning.is_empty()).then_some(delta)
}

#[cfg(test)]
mod tests;
