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
        families.evicted_bytes.with_label_values::<&str>(&[]);
        families.size.set(-1);
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

    /// Records of tags are read from the store. Series with alerts begin at 0.
    pub fn with_stored_records<Refusal: Label>(&self) {
        let families = &self.0.families.store;
        Refusal::ALL.iter().for_each(|reason| drop(families.refused_records.with_label_values(&[reason.as_str()])));
    }

    /// A record of a tag does not count.
    pub fn store_record_refused(&self, reason: impl Label) {
        self.0.families.store.refused_records.with_label_values(&[reason.as_str()]).inc();
    }

    /// How many bytes of blobs and manifests the store has.
    pub fn store_size(&self, bytes: u64) {
        self.0.families.store.size.set(saturating(bytes));
    }

    /// Objects of so many bytes were removed to make room.
    pub fn store_evicted(&self, bytes: u64) {
        self.0.families.store.evicted_bytes.with_label_values::<&str>(&[]).inc_by(bytes);
    }
}
