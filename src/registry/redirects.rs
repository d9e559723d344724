//! What is needed to send clients to the object store.

mod returns;

use self::returns::Returns;
use crate::store::Presence;

/// What the store has for clients, and which of them were sent there.
pub(crate) struct Redirects {
    pub(super) presence: Presence,
    pub(super) returns: Returns,
}

impl Redirects {
    pub(crate) fn new(presence: Presence) -> Self {
        Self { presence, returns: Returns::default() }
    }
}
