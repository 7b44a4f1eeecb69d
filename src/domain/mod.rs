//! The words that all rooms share: what is asked and answered, how it fails, and whose it is.

pub mod answer;
pub mod chat;
pub mod conversations;
pub mod error;
pub mod keys;
pub mod limits;
