//! The service over HTTP, with a fake upstream whose every byte the test decides.

mod helpers;
mod upstream;

mod auth;
mod conversations;
mod documents;
mod faults;
mod home;
mod layering;
mod operations;
mod readme;
mod session;
mod tools;
