//! The service over HTTP, with a fake upstream whose every byte the test decides.

mod certificate;
mod helpers;
mod process;
mod upstream;

mod answers;
mod auth;
mod completions;
mod conversations;
mod doctor;
mod documents;
mod faults;
mod home;
mod import_curl;
mod layering;
mod operations;
mod platforms;
mod readme;
mod session;
mod talks;
mod tools;
mod tunnel;
mod upstreams;
