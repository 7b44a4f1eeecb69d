//! The service over HTTP, with a fake upstream whose every byte the test decides.

mod helpers;
mod process;
mod request_ids;
mod running;
mod upstream;

mod anthropic;
mod answers;
mod auth;
mod canaries;
mod catalog;
mod certificate;
mod completions;
mod conversations;
mod doctor;
mod dialects;
mod documents;
mod drain;
mod faults;
mod home;
mod hostile;
mod import_curl;
mod layering;
mod limits;
mod mcp;
mod metrics;
mod open;
mod operations;
mod platforms;
mod readme;
mod session;
mod settings;
mod talks;
mod tools;
mod tunnel;
mod upstreams;
