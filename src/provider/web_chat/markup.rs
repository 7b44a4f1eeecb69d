//! Markup in a web chat's words that is not the answer: cards of the model's tools (`<xai:…>`) and those
//! that its own page renders (`<grok:render …>`). They are left out, wherever the words are cut; a citation
//! becomes its link where its address is known. In code, between backquotes, they are words: there somebody
//! speaks of them. So is one that does not end.

use std::collections::HashMap;

use serde_json::Value;

use super::code::Code;

/// How the cards begin.
const CARDS: [&str; 2] = ["<xai:", "<grok:render"];

/// The most of one card that is kept while its end is awaited; what is longer is none.
const MAX_CARD_BYTES: usize = 64 << 10;

/// Takes cards out of words that come piece by piece.
#[derive(Default)]
pub struct Markup {
    /// What may be, or is, the beginning of a card.
    held: String,
    /// The addresses of citations, by the ids of their cards.
    addresses: HashMap<String, String>,
    /// What citations became, by the ids of their cards: what the words settle to is to agree.
    became: HashMap<String, String>,
    code: Code,
    /// How many cards were left out.
    pub left_out: usize,
    /// How many did not end, and so stayed words.
    pub unclosed: usize,
}

/// What a message is without its cards.
pub struct Message {
    /// Words that were held and come before it.
    pub before: String,
    pub text: String,
}

/// What words that begin with `<` are.
enum Seen {
    /// No card.
    Words,
    /// Perhaps a card: more must come.
    Open,
    /// A card of so many bytes.
    Card(usize),
}

impl Markup {
    /// Learns of a card from its JSON, in which a citation has its address.
    pub fn learn(&mut self, card: &str) {
        let card: Value = serde_json::from_str(card).unwrap_or_default();
        if let (Some(id), Some(url)) = (card["id"].as_str(), card["url"].as_str())
            && (url.starts_with("https://") || url.starts_with("http://"))
        {
            self.addresses.insert(id.into(), url.into());
        }
    }

    /// The words that are the answer's, of those that come next.
    pub fn take(&mut self, words: &str) -> String {
        // Most words are too short for a quicker search to pay.
        let is_plain = !words.bytes().any(|byte| matches!(byte, b'<' | b'`' | b'\n'));
        if is_plain && self.held.is_empty() && self.code.pass_plain(words) {
            return words.into();
        }
        let all = std::mem::take(&mut self.held) + words;
        let (answer, rest) = self.strip(&all);
        self.held = rest.into();
        answer
    }

    /// What was held and turns out to be words, now that no more come.
    pub fn rest(&mut self) -> String {
        let held = std::mem::take(&mut self.held);
        self.unclosed += usize::from(is_card(&held));
        held
    }

    /// A message, in which each citation becomes what it became before. Where it ends as the words so far do,
    /// that end stays held, since more may come.
    pub fn message(&mut self, text: &str) -> Message {
        self.code = Code::default();
        let (text, rest) = self.strip(text);
        if rest == self.held {
            return Message { before: String::new(), text };
        }
        self.unclosed += usize::from(is_card(rest));
        self.code.pass(rest);
        Message { before: self.rest(), text: text + rest }
    }

    /// The answer's words of a text, and what of its end may be the beginning of a card.
    fn strip<'a>(&mut self, text: &'a str) -> (String, &'a str) {
        let (mut answer, mut rest) = (String::new(), text);
        while let Some(at) = rest.find('<') {
            answer.push_str(&rest[..at]);
            self.code.pass(&rest[..at]);
            rest = &rest[at..];
            let seen = if self.code.goes_on() { Seen::Words } else { look(rest) };
            match seen {
                Seen::Open if rest.len() <= MAX_CARD_BYTES => return (answer, rest),
                Seen::Card(length) if length <= MAX_CARD_BYTES => {
                    answer.push_str(&self.rendered(&rest[..length]));
                    rest = &rest[length..];
                    continue;
                }
                Seen::Open | Seen::Card(_) => self.unclosed += 1,
                Seen::Words => {}
            }
            answer.push('<');
            self.code.pass("<");
            rest = &rest[1..];
        }
        answer.push_str(rest);
        self.code.pass(rest);
        (answer, "")
    }

    /// What a card is in the answer.
    fn rendered(&mut self, card: &str) -> String {
        self.left_out += 1;
        let id = card.split_once("card_id=\"").and_then(|(_, rest)| Some(rest.split_once('"')?.0));
        let Some(id) = id else { return String::new() };
        if let Some(before) = self.became.get(id) {
            return before.clone();
        }
        let link = |url: &String| {
            let host = url.split('/').nth(2).unwrap_or(url);
            format!(" [{host}]({url})")
        };
        let link = self.addresses.get(id).map(link).unwrap_or_default();
        self.became.insert(id.into(), link.clone());
        link
    }
}

fn is_card(text: &str) -> bool {
    CARDS.iter().any(|begin| text.starts_with(begin))
}

/// Looks at words that begin with `<`.
fn look(text: &str) -> Seen {
    if !is_card(text) {
        let may_be = CARDS.iter().any(|begin| begin.starts_with(text));
        return if may_be { Seen::Open } else { Seen::Words };
    }
    let of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '_' | '-');
    let Some(after) = text[1..].find(|c| !of_name(c)) else { return Seen::Open };
    let (name, after) = text[1..].split_at(after);
    let is_name = if name.starts_with("xai:") { name.len() > 4 } else { name == "grok:render" };
    if !is_name || !after.starts_with([' ', '\t', '\r', '\n', '/', '>']) {
        return Seen::Words;
    }
    let Some(end) = text.find('>') else { return Seen::Open };
    if text[..end].ends_with('/') {
        return Seen::Card(end + 1);
    }
    let last = format!("</{name}>");
    text.find(&last).map_or(Seen::Open, |at| Seen::Card(at + last.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::decoding::pieces;
    use proptest::prelude::*;

    const TEXT: &str = "1 < 2 <b>x</b> <xai:tool_usage_card><xai:tool_name>web</xai:tool_name></xai:tool_usage_card>\
        Hello<grok:render card_id=\"c1\" type=\"x\"><argument name=\"citation_id\">3</argument></grok:render> world\
        <grok:render card_id=\"c2\"/>, 你好 ``<xai:x/>` ``\n```\n<xai:x/>\n```\n<gro";
    const ANSWER: &str = "1 < 2 <b>x</b> Hello [a.example](https://a.example/x) world, 你好 ``<xai:x/>` ``\n```\n<xai:x/>\n```\n<gro";

    fn learned() -> Markup {
        let mut markup = Markup::default();
        markup.learn(r#"{"id":"c1","url":"https://a.example/x"}"#);
        markup.learn(r#"{"id":"c2","url":"javascript:1"}"#);
        markup
    }

    fn whole(markup: &mut Markup, text: &str) -> String {
        let Message { before, text } = markup.message(text);
        before + &text + &markup.rest()
    }

    #[test]
    fn cards_are_left_out_and_a_citation_becomes_its_link() {
        assert_eq!(whole(&mut learned(), TEXT), ANSWER);
    }

    #[test]
    fn a_card_without_an_end_is_words_and_is_counted() {
        let long = format!("<xai:x>{}", "x".repeat(MAX_CARD_BYTES));
        let closed = long.clone() + "</xai:x>";
        for (text, unclosed) in
            [("a <xai:x> never ends", 1), (&*long, 1), (&*closed, 1), ("<xai: y <xai:> <grok:rendered>", 0)]
        {
            let mut markup = Markup::default();
            assert_eq!((markup.take(text) + &markup.rest(), markup.unclosed), (text.into(), unclosed));
            let mut markup = Markup::default();
            assert_eq!((whole(&mut markup, text), markup.unclosed), (text.into(), unclosed));
        }
    }

    #[test]
    fn markup_in_code_is_words() {
        let card = "<xai:x>y</xai:x>";
        for (text, is_words) in [
            ("Write `CARD`", true),
            ("Write ``a`CARD``", true),
            ("```xml\nCARD\n```", true),
            ("- ```\n`\nCARD", true),
            ("````\n```\nCARD\n````", true),
            ("```CARD```", true),
            ("`a` CARD", false),
            ("it`s\nCARD", false),
            ("```\na\n``` \nCARD", false),
            ("```a``` CARD", false),
            ("```\na ``` b\n```\nCARD", false),
        ] {
            let said = text.replace("CARD", card);
            let answer = if is_words { said.clone() } else { text.replace("CARD", "") };
            assert_eq!(whole(&mut Markup::default(), &said), answer, "{text}");
        }
    }

    #[test]
    fn what_a_message_ends_with_stays_held_where_the_words_end_so() {
        let mut markup = Markup::default();
        let said = markup.take("a <gro");
        let Message { before, text } = markup.message("a <gro");
        assert_eq!((&*said, &*before, &*text), ("a ", "", "a "));
        assert_eq!(markup.take("k:render/> b") + &markup.rest(), " b");
    }

    #[test]
    fn an_address_that_is_learned_too_late_changes_no_words_that_went_out() {
        let mut markup = Markup::default();
        let streamed = markup.take(TEXT) + &markup.rest();
        markup.learn(r#"{"id":"c1","url":"https://a.example/x"}"#);
        assert_eq!(whole(&mut markup, TEXT), streamed);
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(cuts in prop::collection::vec(0usize..TEXT.len(), 0..12)) {
            let cuts = cuts.into_iter().filter(|at| TEXT.is_char_boundary(*at)).collect();
            let mut markup = learned();
            let text = pieces(TEXT.as_bytes(), cuts).into_iter().map(|piece| {
                markup.take(std::str::from_utf8(piece).expect("whole characters"))
            });
            let text: String = text.collect();
            prop_assert_eq!(text + &markup.rest(), ANSWER);
        }
    }
}
