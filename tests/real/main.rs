//! forebay among real programs: docker-registry behind it; dockerd, containerd, podman and skopeo in front of it.
//!
//! Each file proves one promise; `forebay_test_support::real` owns the programs. What must hold: a missing program fails the test and
//! names the Debian package that has it; nothing but loopback is used; every daemon, mount and file of a test is gone
//! when the test ends. What a fake registry can show better (cut at any byte, odd challenges) is left to `tests/it/`.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test that cannot go on says why by panicking, and the runner shows what it printed"
)]

mod archives;
mod bounded_disk;
mod build;
mod cache_directory;
mod chains;
mod clear_login;
mod cluster;
mod coalesce;
mod containerd;
mod corrupt;
mod dockerd_mirror;
mod dockerd_second_registry;
mod failures;
mod file_systems;
mod ingress;
mod lists;
mod metrics;
mod operator;
mod pages;
mod podman;
mod private;
mod push;
mod redirects;
mod restart;
mod resume;
mod rule;
mod short_keepalive;
mod skopeo;
mod store;
mod store_tags;
mod systemd;
mod two_commands;
