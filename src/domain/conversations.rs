//! Which conversation a caller means: one by the gateway's own id, or by a name that the caller chose.
//!
//! A name is not looked up: its digest is the conversation's id. So two first uses at the same time, on
//! two replicas too, are of one row of the store, and a conversation is found by either.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::chat::ConversationId;
use super::error::{Error, Kind};

/// The most characters of a name.
const MAX_CHARACTERS: usize = 200;

/// A conversation as its caller calls it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConversationRef {
    /// By the gateway's own id.
    Known(ConversationId),
    /// By a name of the caller's, whose first use begins it.
    Named(ConversationName),
}

impl ConversationRef {
    /// The id under which it is kept.
    pub fn id(&self) -> ConversationId {
        match self {
            ConversationRef::Known(id) => *id,
            ConversationRef::Named(name) => name.id(),
        }
    }
}

impl From<ConversationId> for ConversationRef {
    fn from(id: ConversationId) -> Self {
        ConversationRef::Known(id)
    }
}

impl fmt::Display for ConversationRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConversationRef::Known(id) => id.fmt(f),
            ConversationRef::Named(name) => f.write_str(name.text()),
        }
    }
}

impl FromStr for ConversationRef {
    type Err = Error;

    /// Whatever begins as an id is meant as one: of an id that lost a letter no conversation may begin.
    fn from_str(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        if text.is_empty() || text.starts_with(ConversationId::PREFIX) {
            return text.parse().map(ConversationRef::Known).map_err(|()| not_found());
        }
        if text.chars().count() > MAX_CHARACTERS {
            let what = format!("the name of a conversation is longer than {MAX_CHARACTERS} characters");
            return Err(Error::new(Kind::InvalidRequest, what)
                .hinted("give the conversation a shorter name, or leave `conversation_id` empty"));
        }
        Ok(ConversationRef::Named(ConversationName(text.into())))
    }
}

/// A caller's own name for a conversation. It belongs to the owner: another's conversation may have the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConversationName(Arc<str>);

impl ConversationName {
    /// The name.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// The id of the conversation that has this name.
    pub fn id(&self) -> ConversationId {
        let digest: [u8; 32] = Sha256::digest(self.0.as_bytes()).into();
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        ConversationId(id)
    }
}

/// The error for a conversation that the owner does not have, whoever else may.
pub fn not_found() -> Error {
    Error::new(Kind::ConversationNotFound, "there is no such conversation, or it was forgotten")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant(text: &str) -> Result<ConversationRef, Kind> {
        text.parse().map_err(|error: Error| error.kind)
    }

    #[test]
    fn what_is_no_id_is_a_name_and_survives_its_text_form() {
        for text in ["a", "客戶 42/訂單", "0f8fad5bd9cb469fa16570867728950e", "CONV_1", &"é".repeat(200)]
        {
            let named = meant(text).expect("a name");
            assert!(matches!(&named, ConversationRef::Named(name) if name.text() == text), "{text}");
            assert_eq!(meant(&named.to_string()), Ok(named.clone()));
            // The id leads to the same conversation.
            assert_eq!(meant(&named.id().to_string()).map(|known| known.id()), Ok(named.id()));
        }
        assert_eq!(meant(" a\n"), meant("a"));
        assert_ne!(meant("a").map(|a| a.id()), meant("A").map(|a| a.id()));
    }

    #[test]
    fn a_broken_id_and_an_endless_name_are_refused() {
        for text in ["", " ", "conv_", "conv_1", "conv_0f8fad5bd9cb469fa16570867728950"] {
            assert_eq!(meant(text), Err(Kind::ConversationNotFound), "{text}");
        }
        assert_eq!(meant(&"x".repeat(201)), Err(Kind::InvalidRequest));
    }
}
