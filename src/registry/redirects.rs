//! What is needed to send clients to the object store.

mod checks;
mod returns;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{checks::Checks, returns::Returns};
use crate::store::Presence;

/// What the store has for clients, which of them were sent there, and what they came back for.
pub(crate) struct Redirects {
    pub(super) presence: Presence,
    pub(super) returns: Returns,
    pub(super) checks: Checks,
}

impl Redirects {
    /// Checks run as tasks of `tasks` and end with `end`.
    pub(crate) fn new(presence: Presence, tasks: TaskTracker, end: CancellationToken) -> Self {
        Self { presence, returns: Returns::default(), checks: Checks::new(tasks, end) }
    }
}
