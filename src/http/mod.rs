//! What all faces share on the way in and out: request ids, keys, body limits, late answers.

pub mod access_log;
pub mod auth;
pub mod base_url;
pub mod body;
pub mod budget;
mod depth;
pub mod failure;
pub mod keep_alive;
pub mod log_fields;
pub mod origin;
mod python_json;
pub mod reply;
