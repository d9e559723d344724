//! Waiting for a condition instead of for a time.

use std::time::{Duration, Instant};

/// Long enough for the slowest daemon on a busy machine; reached only when something is broken.
pub const PATIENCE: Duration = Duration::from_secs(60);

const PAUSE: Duration = Duration::from_millis(20);

/// Asks again and again until `ask` has a value; panics with `what` when [`PATIENCE`] ends first.
pub async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = ask().await {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain until {what}");
        tokio::time::sleep(PAUSE).await;
    }
}
