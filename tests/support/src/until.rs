//! Waiting for a condition, not for a time.

use std::time::Duration;

/// The longest a test waits for anything: a bug is a failure, not a hang.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `condition` holds, for what tells nobody when it changes.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "waited in vain until {what}");
}

/// Fails the test when `work` takes longer than a minute.
pub async fn bounded<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("it takes too long")
}
