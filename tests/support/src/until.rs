//! Waiting for a condition, not for a time.

use std::time::Duration;

/// The longest that a test waits for anything, on however busy a machine: a bug is a failure, not a hang.
pub const PATIENCE: Duration = Duration::from_secs(60);

const PAUSE: Duration = Duration::from_millis(5);

/// What a condition returns: true, or a value.
pub trait Condition {
    type Value;

    /// The value, once the condition holds.
    fn value(self) -> Option<Self::Value>;
}

impl Condition for bool {
    type Value = ();

    fn value(self) -> Option<()> {
        self.then_some(())
    }
}

impl<T> Condition for Option<T> {
    type Value = T;

    fn value(self) -> Option<T> {
        self
    }
}

/// Checks `condition` again and again until it holds, and returns its value.
pub async fn until<C: Condition>(what: &str, mut condition: impl AsyncFnMut() -> C) -> C::Value {
    let wait = async {
        loop {
            if let Some(value) = condition().await.value() {
                return value;
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    soon(what, wait).await
}

/// Fails the test when `work` takes longer than [`PATIENCE`].
pub async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("waited {PATIENCE:?} in vain: {what}"))
}

/// The same for work whose name says nothing more than its line.
pub async fn bounded<T>(work: impl Future<Output = T>) -> T {
    soon("the end of this work", work).await
}
