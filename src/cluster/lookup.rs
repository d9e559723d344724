//! The addresses of a DNS name.

use std::{collections::BTreeSet, io, net::SocketAddr, time::Duration};

/// How long a lookup may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How many addresses are taken.
const MAX_ADDRESSES: usize = 1024;

/// Looks a name up.
///
/// # Errors
/// DNS does not answer in time, or knows no such name.
pub(super) async fn lookup(name: &str, port: u16) -> io::Result<BTreeSet<SocketAddr>> {
    let addresses = tokio::time::timeout(TIMEOUT, tokio::net::lookup_host((name, port))).await??;
    Ok(addresses.take(MAX_ADDRESSES).collect())
}
