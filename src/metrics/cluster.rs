//! Requests to the peers of a cluster.

use super::{Metrics, labels::Label};

impl Metrics {
    /// This forebay is in a cluster. Series with alerts begin at 0.
    pub fn in_cluster<Place: Label, Outcome: Label, Reason: Label>(&self) {
        for reason in Reason::ALL {
            self.0.families.cluster.refused_proofs.with_label_values(&[reason.as_str()]);
        }
        for zone in Place::ALL {
            for result in Outcome::ALL {
                self.0.families.cluster.requests.with_label_values(&[zone.as_str(), result.as_str()]);
            }
            self.0.families.cluster.received_bytes.with_label_values(&[zone.as_str()]);
        }
    }

    /// A request that was said to be a peer's was not taken for that.
    pub fn peer_proof_refused(&self, reason: impl Label) {
        self.0.families.cluster.refused_proofs.with_label_values(&[reason.as_str()]).inc();
    }

    /// How many members there are, and whether this forebay is one.
    pub fn cluster_members(&self, ok: usize, dead: usize, is_member: bool) {
        let families = &self.0.families.cluster;
        for (state, members) in [("ok", ok), ("dead", dead)] {
            families.members.with_label_values(&[state]).set(members.try_into().unwrap_or(i64::MAX));
        }
        families.is_member.with_label_values::<&str>(&[]).set(i64::from(is_member));
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
