//! The service over HTTP, with a fake upstream whose every byte the test decides.

mod helpers;
mod process;
mod upstream;

mod answers;
mod auth;
mod canaries;
mod completions;
mod conversations;
mod documents;
mod drain;
mod faults;
mod home;
mod hostile;
mod layering;
mod limits;
mod metrics;
mod operations;
mod readme;
mod session;
mod talks;
mod tools;
mod upstreams;
