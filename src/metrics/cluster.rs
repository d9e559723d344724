//! Requests to the peers of a cluster.

use super::{Metrics, labels::Label};

impl Metrics {
    /// This forebay is in a cluster. Series with alerts begin at 0.
    pub fn in_cluster<Place: Label, Outcome: Label>(&self) {
        for zone in Place::ALL {
            for result in Outcome::ALL {
                self.0.families.cluster.requests.with_label_values(&[zone.as_str(), result.as_str()]);
            }
            self.0.families.cluster.received_bytes.with_label_values(&[zone.as_str()]);
        }
    }

    /// A peer at this place was asked.
    pub fn peer_request(&self, zone: impl Label, result: impl Label) {
        self.0.families.cluster.requests.with_label_values(&[zone.as_str(), result.as_str()]).inc();
    }

    /// A peer at this place sent so many bytes of a blob.
    pub fn peer_received(&self, zone: impl Label, bytes: u64) {
        self.0.families.cluster.received_bytes.with_label_values(&[zone.as_str()]).inc_by(bytes);
    }
}
