//! The programs the tests are made of, in the order of a request's path: clients, forebay, what is between it and
//! the registry, the registry; then what all of them need.

pub mod browser;
pub mod containerd;
pub mod docker;
pub mod download;
pub mod podman;

pub mod forebay;

pub mod broken;
pub mod gate;
pub mod ingress;
pub mod registry;
pub mod seaweedfs;
pub mod store_proxy;
pub mod token_server;

pub mod certificate;
pub mod image;
pub mod push;
pub mod tar;

pub mod daemon;
pub mod disk;
pub mod jail;
pub mod network;
pub mod port;
pub mod program;
pub mod turn;
