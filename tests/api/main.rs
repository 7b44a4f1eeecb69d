//! The service over HTTP, with a fake upstream whose every byte the test decides.

mod helpers;
mod upstream;

mod answers;
mod auth;
mod completions;
mod conversations;
mod documents;
mod faults;
mod home;
mod layering;
mod operations;
mod readme;
mod session;
mod talks;
mod tools;
mod upstreams;
