//! An object of the store that may be a blob.

use reqwest::Url;

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
}
