//! forebay: a pull-through caching mirror for container registries.
//!
//! Read the modules in the order a request passes through them:
//!
//! - [`app`] composes everything out of a [`config`] and owns every task;
//! - [`transport`] is the HTTP server, which knows no registry: accept, detect, TLS, zero copy;
//! - [`registry`] is the service: route, authenticate, authorize, dispatch, respond, log;
//! - [`route`] says which upstream, repository and operation a request means;
//! - [`auth`] says who a client is, and what it may do;
//! - [`push`] passes changes on to the upstream;
//! - [`warm`] fetches images before clients pull them;
//! - [`history`] keeps the latest requests, and sums of them;
//! - [`cache`] serves contents from disk and memory, and downloads each once for all clients;
//! - [`upstream`] is the client of the registries behind forebay;
//! - [`rule`] says what the operator decides about tags and repositories;
//! - [`oci`] is the vocabulary all of them share.
//!
//! Besides: [`error`] (why a request failed, and what forebay tells the client), [`metrics`] (what forebay counts),
//! [`cluster`] (the forebays that are asked before registries), [`store`] (the object store behind forebays), [`admin`]
//! (the operator's own listener), [`peer`] (clients by their addresses, and their shares of bounded resources), [`rate`]
//! (bytes per second that transfers share), [`machine`] (the addresses of this machine), [`setup`] (what clients write
//! into their configuration), [`html`] (what pages for browsers have in common), [`units`] (numbers as people read them),
//! [`state_dir`] (keys, which are no cache), [`small_file`] (small files that the operator names), [`offload`] (turns to
//! parse large documents), [`followers`] (of events), [`request_trace`] (what a request spends at its upstream),
//! [`visible`] (text of others, before a person sees it).
//!
//! `ARCHITECTURE.md` has the promises these modules keep, and how data flows through them.

#![deny(unsafe_code)]
// `pub` is for tests, benches and fuzz targets; all other items are `pub(crate)`, so that the compiler finds dead code.
#![warn(unreachable_pub)]
// The docs are those of the whole crate: `cargo doc --document-private-items`.
#![allow(rustdoc::private_intra_doc_links, reason = "private items are documented, too")]

pub mod admin;
pub mod app;
pub mod auth;
pub(crate) mod bounded_cache;
pub mod byte_counter;
pub mod cache;
pub mod cluster;
pub mod config;
pub(crate) mod disk_wait;
pub(crate) mod error;
pub(crate) mod error_chain;
pub(crate) mod file_slice;
pub(crate) mod file_watch;
pub(crate) mod followers;
pub mod history;
pub(crate) mod html;
pub(crate) mod keyed_hash;
pub(crate) mod line_limit;
pub mod machine;
pub mod metrics;
pub mod oci;
pub(crate) mod offload;
pub mod peer;
pub(crate) mod push;
pub mod rate;
pub mod registry;
pub mod request_id;
pub mod request_trace;
pub mod route;
pub mod rule;
pub mod setup;
pub(crate) mod single_flight;
pub(crate) mod small_file;
pub(crate) mod state_dir;
pub mod store;
pub mod tar;
pub mod transport;
pub mod units;
pub mod upstream;
pub mod visible;
pub mod warm;
