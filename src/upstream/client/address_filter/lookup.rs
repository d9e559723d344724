//! Name lookups by the system's resolver, which takes a thread for each.

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs},
    sync::Arc,
    time::Duration,
};

use tokio::sync::Semaphore;

/// The turns of all upstreams: each lookup takes a thread of the blocking pool, which the disk needs as well, and keeps
/// it for long while the resolver does not respond.
pub(super) static LOOKUPS: Semaphore = Semaphore::const_new(32);
/// The turns of one upstream: the names that it redirects to may hang.
const MAX_LOOKUPS_OF_UPSTREAM: usize = 8;
/// How long a lookup may take, with the wait for its turn.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn resolve_by_system(name: &str) -> io::Result<Vec<SocketAddr>> {
    Ok((name, 0).to_socket_addrs()?.collect())
}

pub(super) fn turns_of_upstream() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(MAX_LOOKUPS_OF_UPSTREAM))
}

/// Runs a lookup on the blocking pool, with a turn of the upstream and one of all. Both are released when the lookup
/// ends: one that hangs keeps them after its timeout, since no timeout can end a thread.
pub(super) async fn in_turn<T: Send + 'static>(
    of_upstream: &Arc<Semaphore>,
    of_all: &'static Semaphore,
    lookup: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let run = async {
        // The upstream's turn comes first: waiting for it delays no other upstream.
        let turn = of_upstream.clone().acquire_owned().await.map_err(io::Error::other)?;
        let turn_of_all = of_all.acquire().await.map_err(io::Error::other)?;
        let lookup = tokio::task::spawn_blocking(move || {
            let _turns = (turn, turn_of_all);
            lookup()
        });
        lookup.await.map_err(io::Error::other)?
    };
    let late = || io::Error::new(io::ErrorKind::TimedOut, "the name could not be resolved in time");
    tokio::time::timeout(LOOKUP_TIMEOUT, run).await.unwrap_or_else(|_| Err(late()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hanging_lookup_times_out_and_keeps_its_turn() {
        static ALL: Semaphore = Semaphore::const_new(2);
        let (one, other) = (Arc::new(Semaphore::new(1)), Arc::new(Semaphore::new(1)));
        let (end, ends) = std::sync::mpsc::channel::<()>();
        tokio::time::pause();
        let hung = in_turn(&one, &ALL, move || {
            let _ = ends.recv();
            Ok(1)
        });
        let (given_up, ()) = tokio::join!(hung, tokio::time::advance(2 * LOOKUP_TIMEOUT));
        assert_eq!(given_up.unwrap_err().kind(), io::ErrorKind::TimedOut);
        // There is no second thread for it.
        let (waited, ()) = tokio::join!(in_turn(&one, &ALL, || Ok(2)), tokio::time::advance(2 * LOOKUP_TIMEOUT));
        assert_eq!(waited.unwrap_err().kind(), io::ErrorKind::TimedOut);
        tokio::time::resume();
        assert_eq!(in_turn(&other, &ALL, || Ok(4)).await.unwrap(), 4, "another upstream's names");
        end.send(()).unwrap();
        assert_eq!(in_turn(&one, &ALL, || Ok(3)).await.unwrap(), 3);
    }
}
