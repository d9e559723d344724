//! How many files and sockets the process may have open.
//!
//! The soft limit that a shell or a service manager gives (1024, often) is for programs that use select(2); a server
//! may take what the hard limit allows, and should. Source: getrlimit(2), systemd.exec(5) on `LimitNOFILE=`.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// The client's socket, one upstream's, and the blob's file.
const PER_CONNECTION: u64 = 3;
/// Listeners, pools of idle upstream connections, manifests being written, the runtime's own.
const BASE: u64 = 256;

/// Raises the soft limit to the hard one, and warns when that is less than `max_connections` may need.
pub fn raise(max_connections: usize) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = match current {
        soft if soft == maximum => maximum,
        soft => match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
            Ok(()) => maximum,
            Err(error) => {
                warn!(%error, "the limit of open files cannot be raised");
                soft
            }
        },
    };
    let needed = needed(max_connections);
    if let Some(limit) = raised.filter(|limit| *limit < needed) {
        warn!(
            limit,
            needed,
            max_connections,
            "too few open files are allowed for max_connections: raise the hard limit (LimitNOFILE= in the unit, \
             ulimit -Hn in a shell, --ulimit nofile= in docker run), or lower server.max_connections"
        );
    }
}

fn needed(max_connections: usize) -> u64 {
    u64::try_from(max_connections).unwrap_or(u64::MAX).saturating_mul(PER_CONNECTION).saturating_add(BASE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_connection_counts_and_none_overflows() {
        for (connections, expected) in [(0, 256), (1, 259), (8192, 24_832), (usize::MAX, u64::MAX)] {
            assert_eq!(needed(connections), expected, "{connections}");
        }
    }
}
