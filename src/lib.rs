//! mirrorgate: one service that publishes a chat model's mirror as an OpenAPI tool for Dify.
//!
//! Read it in this order: [`cli`] starts [`app`], which serves the faces under [`api`]. A face
//! translates between its wire format and [`service`], the use cases, which ask an [`upstream`]
//! and keep turns in a [`store`]. [`chat`], [`error`] and [`config`] are the words all of them
//! share. Nothing imports against that direction; a test holds it.

pub mod cli;
pub mod app;
pub mod upkeep;
pub mod shutdown;
pub mod descriptors;
pub mod api;
pub mod doctor;
pub mod curl;
pub mod tunnel;
pub mod service;
pub mod upstream;
pub mod store;
pub mod demo;
pub mod telemetry;
pub mod metrics;
pub mod chat;
pub mod error;
pub mod config;
pub mod keys;
pub mod vault;
pub mod random;
pub mod timer;
pub mod reach;
