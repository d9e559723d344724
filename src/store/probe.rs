//! Whether the store honours conditions: a PUT with `If-None-Match: *` must not replace an object.
//!
//! Nothing relies on it: an object is named by its content, so that to write it twice changes nothing. It saves a
//! transfer where two forebays upload at once.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    sync::atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use object_store::{PutMode, PutOptions};

use super::{
    IfPresent, Lane, REQUEST_TIMEOUT, Store, error::Error, error_kind::ErrorKind, labels::StoreOperation,
    names::ObjectName,
};

/// Whether conditions are honoured. Before this is known they are not used.
#[derive(Debug, Default)]
pub(super) struct Conditions(AtomicBool);

impl Conditions {
    pub(super) fn are_honoured(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Store {
    /// Writes an object and deletes it.
    ///
    /// # Errors
    /// The store does not take objects.
    pub(crate) async fn ping(&self) -> Result<(), Error> {
        let name = ObjectName::new(format!("probes/{:016x}", random()));
        let content = Bytes::from_static(b"forebay asks whether this store takes objects\n");
        self.put(&name, content, IfPresent::Replace).await?;
        self.delete(&name).await
    }

    /// Creates an object twice: the second time must fail.
    pub(super) async fn probe(&self) {
        let name = ObjectName::new(format!("probes/{:016x}", random()));
        let path = self.path(&name);
        let create = || {
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            let content = Bytes::from_static(b"forebay asks whether this store honours conditions\n");
            let request = object_store::ObjectStore::put_opts(&*self.0.engine, &path, content.into(), options);
            self.call(Lane::Write, StoreOperation::Put, REQUEST_TIMEOUT, request)
        };
        let (first, store) = (create().await, self.location());
        let second = match first {
            Ok(_) => create().await,
            Err(error) => Err(error),
        };
        let _ = self.delete(&name).await;
        match second {
            Ok(_) => {
                tracing::info!(%store, "the object store takes objects, and ignores conditions: forebay does without")
            }
            Err(error) if error.kind == ErrorKind::Exists => {
                self.0.conditions.0.store(true, Ordering::Relaxed);
                tracing::info!(%store, "the object store takes objects, and honours conditions");
            }
            Err(error) => tracing::warn!(%store, %error, "the object store does not take a first object"),
        }
    }
}

/// Several forebays may probe at once.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
