//! What all APIs share on the way in and out, and what knows none of them: request ids, keys, body
//! limits, late answers, documents and pages, and the failures in the shape that an API registers.

pub mod access_log;
pub mod auth;
pub mod base_url;
pub mod body;
pub mod codes;
pub mod depth;
pub mod documents;
pub mod draining;
pub mod failure;
mod guesses;
pub mod keep_alive;
pub mod log_fields;
pub mod page;
pub mod origin;
pub mod python_json;
pub mod reply;
pub mod token;
