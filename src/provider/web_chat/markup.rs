//! Markup in a web chat's words that is not the answer: cards of the model's tools (`<xai:…>`) and those
//! that its own page renders (`<grok:render …>`). They are left out, wherever the words are cut; a citation
//! becomes its link where its address is known.

use std::collections::HashMap;

use serde_json::Value;

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
    /// How many cards were left out.
    pub left_out: usize,
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
        if self.held.is_empty() && !words.contains('<') {
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
        // A card that breaks off is none of the answer's words either.
        if is_card(&held) { String::new() } else { held }
    }

    /// The words of a whole answer, in which each citation becomes what it became before.
    pub fn whole(&mut self, text: &str) -> String {
        let (answer, rest) = self.strip(text);
        if is_card(rest) { answer } else { answer + rest }
    }

    /// The answer's words of a text, and what of its end may be the beginning of a card.
    fn strip<'a>(&mut self, text: &'a str) -> (String, &'a str) {
        let (mut answer, mut rest) = (String::new(), text);
        while let Some(at) = rest.find('<') {
            answer.push_str(&rest[..at]);
            rest = &rest[at..];
            match look(rest) {
                Seen::Open if rest.len() <= MAX_CARD_BYTES => return (answer, rest),
                Seen::Words | Seen::Open => {
                    answer.push('<');
                    rest = &rest[1..];
                }
                Seen::Card(length) => {
                    answer.push_str(&self.rendered(&rest[..length]));
                    rest = &rest[length..];
                }
            }
        }
        answer.push_str(rest);
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
    let Some(end) = text.find('>') else { return Seen::Open };
    if text[..end].ends_with('/') {
        return Seen::Card(end + 1);
    }
    let name = text[1..end].split(char::is_whitespace).next().unwrap_or_default();
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
        <grok:render card_id=\"c2\"/>, 你好 <gro";
    const ANSWER: &str = "1 < 2 <b>x</b> Hello [a.example](https://a.example/x) world, 你好 <gro";

    fn learned() -> Markup {
        let mut markup = Markup::default();
        markup.learn(r#"{"id":"c1","url":"https://a.example/x"}"#);
        markup.learn(r#"{"id":"c2","url":"javascript:1"}"#);
        markup
    }

    #[test]
    fn cards_are_left_out_and_a_citation_becomes_its_link() {
        assert_eq!(learned().whole(TEXT), ANSWER);
        let mut open = Markup::default();
        assert_eq!(open.take("a <xai:x> never ends") + &open.rest(), "a ");
        let long = format!("<xai:{}", "x".repeat(MAX_CARD_BYTES));
        assert_eq!(open.take(&long) + &open.rest(), long);
    }

    #[test]
    fn an_address_that_is_learned_too_late_changes_no_words_that_went_out() {
        let mut markup = Markup::default();
        let streamed = markup.take(TEXT) + &markup.rest();
        markup.learn(r#"{"id":"c1","url":"https://a.example/x"}"#);
        assert_eq!(markup.whole(TEXT), streamed);
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
