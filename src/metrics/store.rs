//! Requests to the object store.

use super::{Metrics, labels::Label, saturating};

impl Metrics {
    /// There is an object store. Series with alerts begin at 0.
    pub fn with_store<Operation: Label, Outcome: Label, Way: Label, Upload: Label>(&self) {
        let families = &self.0.families.store;
        for operation in Operation::ALL {
            for result in Outcome::ALL {
                families.requests.with_label_values(&[operation.as_str(), result.as_str()]);
            }
        }
        Way::ALL.iter().for_each(|way| drop(families.bytes.with_label_values(&[way.as_str()])));
        Upload::ALL.iter().for_each(|result| drop(families.uploads.with_label_values(&[result.as_str()])));
        families.wrong_objects.with_label_values::<&str>(&[]);
        self.store_up(true, true);
    }

    pub fn store_request(&self, operation: impl Label, result: impl Label) {
        self.0.families.store.requests.with_label_values(&[operation.as_str(), result.as_str()]).inc();
    }

    pub fn store_bytes(&self, direction: impl Label, bytes: u64) {
        self.0.families.store.bytes.with_label_values(&[direction.as_str()]).inc_by(bytes);
    }

    /// Content was uploaded, or not.
    pub fn store_upload(&self, result: impl Label) {
        self.0.families.store.uploads.with_label_values(&[result.as_str()]).inc();
    }

    /// So many contents wait for their upload.
    pub fn store_queue(&self, contents: usize) {
        self.0.families.store.queue.set(saturating(contents as u64));
    }

    /// Whether requests are sent to it.
    pub fn store_up(&self, reads: bool, writes: bool) {
        self.0.families.store.up.with_label_values(&["read"]).set(i64::from(reads));
        self.0.families.store.up.with_label_values(&["write"]).set(i64::from(writes));
    }

    /// An object had wrong bytes.
    pub fn store_wrong_object(&self) {
        self.0.families.store.wrong_objects.with_label_values::<&str>(&[]).inc();
    }
}
