//! forebay: a pull-through caching mirror for container registries.
//!
//! Read the modules in the order a request passes through them:
//!
//! - [`app`] composes everything out of a [`config`] and owns every task;
//! - [`server`] accepts connections and runs the pipeline: route, access, serve, respond;
//! - [`route`] says which upstream, repository and operation a request means;
//! - [`access`] says who asks, and whether they may;
//! - [`push`] passes what changes something on to the upstream;
//! - [`cache`] has what was asked for, or is getting it, once, for everyone who asks;
//! - [`upstream`] asks the registry behind us;
//! - [`oci`] is the vocabulary all of them share.
//!
//! Beside the path: [`error`] (why a request failed, and what the client is told), [`metrics`]
//! (what is counted), [`admin`] (the operator's own listener), [`peer`] (clients by their
//! addresses, and their shares of what is bounded), [`state`] (keys, which are no cache), [`mod@file`]
//! (small files that the operator names), [`documents`] (turns to read large ones).
//!
//! `ARCHITECTURE.md` has the promises these modules keep, and how data flows through them.

#![deny(unsafe_code)]

pub mod admin;
pub mod app;
pub mod auth;
pub mod cache;
pub mod config;
pub mod error;
pub mod error_chain;
pub mod metrics;
pub mod oci;
pub mod offload;
pub mod peer;
pub mod push;
pub mod registry;
pub mod repeated_error;
pub mod route;
pub mod single_flight;
pub mod small_file;
pub mod state_dir;
pub mod transport;
pub mod upstream;
