//! An object of the store that may be a blob.

use reqwest::Url;

use super::error::{Error, ErrorKind};
use crate::store::{ObjectName, Store};

/// An object that may be a blob.
#[derive(Clone, Debug)]
pub(super) struct StoreObject {
    pub store: Store,
    pub name: ObjectName,
}

impl StoreObject {
    /// For the log.
    pub(super) fn url(&self) -> Option<Url> {
        format!("{}/{}", self.store.location(), self.name).parse().ok()
    }

    /// Notes why its bytes stopped coming.
    pub(super) fn broke(&self, error: &Error) {
        match error.kind {
            ErrorKind::Timeout => self.store.stalled(),
            _ => self.store.broke(),
        }
    }
}
