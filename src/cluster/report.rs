//! How the cluster is, for operators.

use std::sync::Arc;

use super::{
    Cluster,
    membership::Member,
    rendezvous::{Key, order},
};
use crate::oci::{Algorithm, Digest};

/// How many keys tell which part of all keys a member owns.
const SAMPLES: usize = 2_000;

/// One member, as this forebay sees it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MemberReport {
    pub name: Arc<str>,
    /// It is this forebay.
    pub is_this: bool,
    pub is_alive: bool,
    /// Why it counts as dead.
    pub why: Option<String>,
    pub zone: Option<String>,
    /// The part of all blobs that it owns while the members that are dead now own none: 0 to 1.
    pub share: f64,
    /// How many requests it got of this forebay, and how many bytes of blobs it sent.
    pub requests: u64,
    pub received: u64,
}

impl Cluster {
    /// All members, in the order of their names.
    pub(crate) fn report(&self) -> Vec<MemberReport> {
        let members = self.0.membership.members();
        let shares = shares(&members.all);
        let reports = members.all.iter().zip(shares).map(|(member, share)| match member {
            Member::This(name) => MemberReport {
                name: name.clone(),
                is_this: true,
                is_alive: true,
                why: None,
                zone: self.0.zone.as_deref().map(str::to_owned),
                share,
                requests: 0,
                received: 0,
            },
            Member::Other(peer) => MemberReport {
                name: peer.name().clone(),
                is_this: false,
                is_alive: peer.is_alive(),
                why: peer.why(),
                zone: peer.zone().map(|zone| zone.to_string()),
                share,
                requests: peer.requests(),
                received: peer.received(),
            },
        });
        reports.collect()
    }
}

/// The share of each member, by a sample of keys.
fn shares(members: &[Member]) -> Vec<f64> {
    let mut owned = vec![0_u32; members.len()];
    let numbered: Vec<(usize, &Member)> = members
        .iter()
        .enumerate()
        .filter(|(_, member)| match member {
            Member::This(_) => true,
            Member::Other(peer) => peer.is_alive(),
        })
        .collect();
    for sample in 0..SAMPLES {
        let key = Key::Blob(Digest::of(Algorithm::Sha256, &sample.to_be_bytes()));
        let first = order(&numbered, |(_, member)| member.name(), "", &key).first().map(|(index, _)| *index);
        if let Some(count) = first.and_then(|index| owned.get_mut(index)) {
            *count += 1;
        }
    }
    owned.into_iter().map(|count| f64::from(count) / SAMPLES as f64).collect()
}
