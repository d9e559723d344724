//! Of which pools all that is on disk may be in the object store.
//!
//! The disk does not tell which upstream a content is from. So a pool with an upstream that has `store = false` is not
//! compared, and neither is one that had such an upstream, until nothing of the pool is on disk.
//!
//! What must hold: that a pool had such an upstream outlives a restart, and that upstream's section.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

use crate::{
    state_dir::{STORE_HELD_BACK, StateDirectory},
    store::Pool,
    upstream::{self, Access},
};

/// The longest file that is read, in bytes.
const MAX_FILE: u64 = 1024;

/// A cheap handle.
#[derive(Clone)]
pub(super) struct Pools(Arc<PoolsInner>);

struct PoolsInner {
    known: Mutex<Known>,
    /// `None`: there is no state directory, and a restart forgets.
    state: Option<PathBuf>,
    /// One write of the file at a time.
    file: Mutex<()>,
}

#[derive(Default)]
struct Known {
    /// The pools whose upstreams all have their content in the store, as they are configured.
    whole: Vec<Pool>,
    /// The pools with an upstream that has not, as they are configured.
    mixed: Vec<Pool>,
    /// The pools that may have content on disk that must not be in the store.
    held_back: Vec<Pool>,
}

impl Pools {
    /// Takes over what an earlier process noted. Blocks.
    pub(super) fn read(state: Option<PathBuf>) -> Self {
        let held_back = match state.as_deref().filter(|state| state.is_dir()).map(read) {
            None => Vec::new(),
            Some(Ok(pools)) => pools,
            Some(Err(error)) => {
                tracing::warn!(%error, "{STORE_HELD_BACK} in state_directory cannot be read: the disk is not uploaded");
                Pool::ALL.to_vec()
            }
        };
        let known = Mutex::new(Known { held_back, ..Known::default() });
        Self(Arc::new(PoolsInner { known, state, file: Mutex::default() }))
    }

    /// Takes over which upstreams there are; returns whether [`Pools::write`] has something to write.
    pub(super) fn set(&self, upstreams: &[upstream::Config]) -> bool {
        let known = &mut *self.0.known.lock();
        let before = known.held_back.len();
        (known.whole, known.mixed) = (whole(upstreams), mixed(upstreams));
        for pool in &known.mixed {
            if !known.held_back.contains(pool) {
                known.held_back.push(*pool);
            }
        }
        known.held_back.len() != before
    }

    /// Nothing of a pool is on disk; returns whether [`Pools::write`] has something to write.
    pub(super) fn release(&self, pool: Pool) -> bool {
        let known = &mut *self.0.known.lock();
        let before = known.held_back.len();
        if !known.mixed.contains(&pool) {
            known.held_back.retain(|held_back| *held_back != pool);
        }
        known.held_back.len() != before
    }

    /// The pools whose content on disk may be uploaded.
    pub(super) fn comparable(&self) -> Vec<Pool> {
        let known = self.0.known.lock();
        known.whole.iter().copied().filter(|pool| !known.held_back.contains(pool)).collect()
    }

    /// Writes the file anew. Blocks.
    pub(super) fn write(&self) {
        let Some(state) = &self.0.state else { return };
        let _turn = self.0.file.lock();
        let held_back = self.0.known.lock().held_back.clone();
        let text: String = held_back.into_iter().map(|pool| format!("{}\n", word(pool))).collect();
        let directory = StateDirectory::open(state).map_err(io::Error::other);
        if let Err(error) = directory.and_then(|directory| directory.write(STORE_HELD_BACK, text.as_bytes())) {
            tracing::warn!(%error, "{STORE_HELD_BACK} cannot be written in state_directory");
        }
    }
}

fn read(state: &Path) -> io::Result<Vec<Pool>> {
    let text = StateDirectory::open(state).map_err(io::Error::other)?.read(STORE_HELD_BACK, MAX_FILE)?;
    let text = String::from_utf8_lossy(&text);
    let pool_of = |line: &str| Pool::ALL.into_iter().find(|pool| word(*pool) == line);
    let unknown = || io::Error::other("it names no pool");
    text.lines().map(|line| pool_of(line).ok_or_else(unknown)).collect()
}

fn word(pool: Pool) -> &'static str {
    match pool {
        Pool::Shared => "shared",
        Pool::Clients => "clients",
    }
}

fn pool_of(upstream: &upstream::Config) -> Pool {
    match upstream.access {
        Access::Shared => Pool::Shared,
        Access::Client { .. } => Pool::Clients,
    }
}

fn mixed(upstreams: &[upstream::Config]) -> Vec<Pool> {
    let is_mixed = |pool: &Pool| upstreams.iter().any(|upstream| pool_of(upstream) == *pool && !upstream.store);
    Pool::ALL.into_iter().filter(is_mixed).collect()
}

fn whole(upstreams: &[upstream::Config]) -> Vec<Pool> {
    let is_whole = |pool: &Pool| {
        let mut of_pool = upstreams.iter().filter(|upstream| pool_of(upstream) == *pool).peekable();
        of_pool.peek().is_some() && of_pool.all(|upstream| upstream.store)
    };
    Pool::ALL.into_iter().filter(is_whole).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn upstream(pool: Pool, store: bool) -> upstream::Config {
        let access = match pool {
            Pool::Shared => Access::Shared,
            Pool::Clients => Access::Client { ttl: Duration::ZERO, grace: Duration::ZERO },
        };
        upstream::Config { access, store, ..upstream::Config::new("x", vec!["https://x.example".parse().unwrap()]) }
    }

    #[test]
    fn a_pool_is_compared_if_all_of_it_may_be_in_the_store() {
        let (shared, not_shared) = (upstream(Pool::Shared, true), upstream(Pool::Shared, false));
        let (private, not_private) = (upstream(Pool::Clients, true), upstream(Pool::Clients, false));
        for (upstreams, expected) in [
            (vec![], vec![]),
            (vec![shared.clone()], vec![Pool::Shared]),
            (vec![shared.clone(), not_shared], vec![]),
            (vec![shared.clone(), not_private.clone()], vec![Pool::Shared]),
            (vec![shared.clone(), private.clone()], vec![Pool::Shared, Pool::Clients]),
            (vec![shared, private, not_private], vec![Pool::Shared]),
        ] {
            let pools = Pools::read(None);
            pools.set(&upstreams);
            assert_eq!(pools.comparable(), expected);
        }
    }

    #[test]
    fn a_pool_is_held_back_until_nothing_of_it_is_on_disk() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        let (open, closed) =
            ([upstream(Pool::Shared, true)], [upstream(Pool::Shared, true), upstream(Pool::Shared, false)]);
        let pools = Pools::read(Some(state.clone()));
        assert!(!pools.set(&open));
        assert!(pools.set(&closed) && !pools.set(&closed), "it is written once");
        pools.write();
        assert!(!pools.set(&open) && pools.comparable().is_empty(), "its content is still there");
        // Also for the next process, which does not know of that upstream.
        let pools = Pools::read(Some(state.clone()));
        assert!(!pools.set(&closed) && !pools.release(Pool::Shared), "more of it may come");
        assert!(!pools.set(&open) && pools.comparable().is_empty());
        assert!(!pools.release(Pool::Clients) && pools.release(Pool::Shared));
        assert_eq!(pools.comparable(), [Pool::Shared]);
        pools.write();
        let pools = Pools::read(Some(state.clone()));
        pools.set(&open);
        assert_eq!(pools.comparable(), [Pool::Shared]);
        // What cannot be read may have named each.
        std::fs::write(state.join(STORE_HELD_BACK), "x\n").unwrap();
        let pools = Pools::read(Some(state));
        pools.set(&open);
        assert!(pools.comparable().is_empty());
    }
}
