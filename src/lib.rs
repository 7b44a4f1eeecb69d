//! mirrorgate: one service that publishes a chat model's mirror as an OpenAPI tool for Dify.
//!
//! Read it in this order: [`cli`] starts [`app`], which serves the faces under [`api`]. A face
//! translates between its wire format and [`gateway`], the use cases, which ask a [`provider`]
//! and keep turns in a [`store`]. [`domain`] and [`config`] are the words all of them
//! share. Nothing imports against that direction; a test holds it.

pub mod cli;
pub mod app;
pub mod api;
pub mod http;
pub mod doctor;
pub mod gateway;
pub mod provider;
pub mod paste;
pub mod outbound;
pub mod store;
pub mod backup;
pub mod demo;
pub mod telemetry;
pub mod metrics;
pub mod activity;
pub mod allocator;
pub mod traffic;
pub mod budget;
pub mod request;
pub mod domain;
pub mod config;
pub mod vault;
pub mod random;
pub mod reachability;
pub mod version;
