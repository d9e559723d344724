//! The servers, each a child process with a folder and a port of its own.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
};

use tempfile::TempDir;

mod forebay;
pub mod limit;
mod mirror;
mod nginx;

pub use forebay::{Forebay, Options};
pub use mirror::Mirror;
pub use nginx::{Nginx, Tls};

fn folder(of: &str) -> TempDir {
    TempDir::with_prefix(format!("forebay-compare-{of}-")).unwrap()
}

pub fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}
