//! One heavy test at a time: `cargo test` runs tests as threads, `cargo nextest` as processes, a locked file knows both.

use std::fs::{self, File};
use std::path::PathBuf;

/// Held by the test whose turn it is; the next one starts when it is dropped.
#[must_use]
pub struct Turn {
    _lock: File,
}

impl Turn {
    /// Waits for the turn of a test that starts container engines.
    pub async fn of_the_engines() -> Turn {
        Turn::take("engines").await
    }

    /// Waits for the turn of a test that moves hundreds of megabytes.
    pub async fn of_the_big_blobs() -> Turn {
        Turn::take("big-blobs").await
    }

    async fn take(name: &str) -> Turn {
        let lock = File::create(locks().join(name)).expect("the lock of turns can be opened");
        tokio::task::spawn_blocking(move || {
            lock.lock().expect("a file can be locked");
            Turn { _lock: lock }
        })
        .await
        .expect("the locking thread lives")
    }
}

/// Where lock files are: one place for all tests of a user, whatever TMPDIR a run has. Another user's files could not
/// be opened. They are empty and stay: to remove one would break a process that waits for it.
pub fn locks() -> PathBuf {
    let folder = PathBuf::from(format!("/tmp/forebay-test-locks-{}", rustix::process::getuid().as_raw()));
    fs::create_dir_all(&folder).expect("the folder of locks can be made");
    folder
}
