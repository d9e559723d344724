//! The limit of open files and sockets.
//!
//! The usual soft limit (1024) is for programs that use select(2). A server may raise it to the hard limit, and should.
//! Source: getrlimit(2), systemd.exec(5) on `LimitNOFILE=`.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

use forebay::{cache::storage::MAX_OPEN, config::Loaded, transport};

/// The client's socket, one upstream's, and the blob's file.
const PER_CONNECTION: u64 = 3;
/// Listeners, connections of operators and refused clients, pools of idle upstream connections, manifests being
/// written, spare descriptors, and the runtime's own.
const BASE: u64 = 256;

/// Raises the soft limit to the hard one, and returns it; `None`: there is no limit.
pub(super) fn raise() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    match current {
        soft if soft == maximum => maximum,
        soft => match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
            Ok(()) => maximum,
            Err(error) => {
                warn!(%error, "the limit of open files cannot be raised");
                soft
            }
        },
    }
}

/// Lowers the numbers of connections, of uncached downloads and of files that stay open to those that the limit allows.
pub(super) fn fit(Loaded { config, origins, .. }: &mut Loaded, limit: Option<u64>) {
    let Some(limit) = limit else { return };
    config.cache.max_through = config.cache.max_through.min(max_uncached(limit));
    config.cache.max_open = config.cache.max_open.min(max_open(limit));
    let configured = config.server.max_connections;
    let allowed = max_connections(limit);
    if configured <= allowed {
        return;
    }
    config.server.max_connections = allowed;
    origins.set_limit("server.max_connections");
    // The operator did not ask for so many.
    if configured == transport::Config::default().max_connections {
        info!(limit, max_connections = allowed, "the limit of open files decides how many connections are accepted");
    } else {
        warn!(
            limit,
            configured,
            max_connections = allowed,
            "too few open files are allowed for max_connections, which is lowered: raise the hard limit (LimitNOFILE= in \
             the unit, ulimit -Hn in a shell, --ulimit nofile= in docker run), or lower server.max_connections"
        );
    }
}

/// The most connections for a limit. Of few descriptors, at most half are reserved for other uses.
fn max_connections(limit: u64) -> usize {
    let left = limit - BASE.min(limit / 2) - max_open(limit) as u64;
    usize::try_from(left / PER_CONNECTION).unwrap_or(usize::MAX).max(1)
}

/// The most uncached downloads for a limit: about one for each connection (256 of 1024).
fn max_uncached(limit: u64) -> u64 {
    (limit / 4).max(1)
}

/// The most files of blobs that stay open without readers, for a limit.
fn max_open(limit: u64) -> usize {
    usize::try_from(limit / 16).unwrap_or(usize::MAX).min(MAX_OPEN)
}

#[cfg(test)]
mod tests {
    use forebay::config::{Config, Key, Overrides, Place};

    use super::*;

    #[test]
    fn half_of_few_descriptors_and_most_of_many_are_for_connections() {
        for (limit, expected) in
            [(0, 1), (5, 1), (64, 9), (256, 37), (512, 74), (1024, 234), (26_000, 8039), (65_536, 20_394)]
        {
            assert_eq!(max_connections(limit), expected, "{limit}");
        }
    }

    fn loaded(max_connections: usize) -> Loaded {
        let text = format!("[server]\nmax_connections = {max_connections}\n[cache]\ndirectory = \"/cache\"\n");
        Config::parse(&text, "/forebay.toml".as_ref(), Overrides::default()).unwrap().into()
    }

    #[test]
    fn more_connections_than_configured_are_never_taken() {
        for (configured, limit, expected) in
            [(8192, Some(1024), 234), (100, Some(1024), 100), (8192, None, 8192), (8192, Some(u64::MAX), 8192)]
        {
            let mut loaded = loaded(configured);
            fit(&mut loaded, limit);
            assert_eq!(loaded.config.server.max_connections, expected, "{configured} {limit:?}");
            let is_lowered = loaded.origins.of(&Key::new("server.max_connections")) == Place::Limit;
            assert_eq!(is_lowered, expected < configured, "{configured} {limit:?}");
        }
    }

    #[test]
    fn parts_of_few_descriptors_are_for_downloads_and_files() {
        for (limit, through, open) in [
            (Some(0), 1, 0),
            (Some(64), 16, 4),
            (Some(1024), 256, 64),
            (Some(4096), 1024, 256),
            (Some(65_536), 1024, 4096),
            (Some(u64::MAX), 1024, 4096),
            (None, 1024, 4096),
        ] {
            let mut loaded = loaded(8192);
            fit(&mut loaded, limit);
            let config = loaded.config;
            assert_eq!((config.cache.max_through, config.cache.max_open), (through, open), "{limit:?}");
        }
    }
}
