//! How forebays, peers and a store bring images to many nodes: the model of `docs/scaling.md`.
//!
//! Nothing is measured here. Lines carry so many bytes a second, shared fairly; a byte leaves a machine no earlier than
//! it came. All nodes begin at once, and nothing is cached. The model leaves out how connections get up to speed,
//! disks, processors, and machines that are slow or gone.
//!
//! `world` has the assumptions, `designs` the ways that images take, `tables` what the documents show. `tier` builds
//! the flows of forebays that are peers, with the owners of `owners`; `fluid` lets them run.

pub mod designs;
mod fluid;
mod owners;
pub mod tables;
mod tier;
pub mod world;
