//! How the cluster is, for operators.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{
    Cluster,
    membership::{Member, Members},
    rendezvous::{Key, order},
};
use crate::oci::{Algorithm, Digest};

/// How many keys tell which part of all keys a member owns.
const SAMPLES: usize = 2_000;
/// How many hashes that may take: some 20 ms. Of many members, fewer keys tell.
const MAX_HASHES: usize = 100_000;

/// The shares as they were last found, with what they depend on.
#[derive(Default)]
pub(super) struct KnownShares(Mutex<Option<Shares>>);

struct Shares {
    members: Arc<Members>,
    alive: Vec<bool>,
    shares: Arc<[f64]>,
}

impl KnownShares {
    /// The share of each member; found anew if other members are there, or alive.
    fn of(&self, members: &Arc<Members>) -> Arc<[f64]> {
        let alive: Vec<bool> = members.all.iter().map(Member::is_alive).collect();
        let mut known = self.0.lock();
        if let Some(known) = &*known
            && Arc::ptr_eq(&known.members, members)
            && known.alive == alive
        {
            return known.shares.clone();
        }
        let shares: Arc<[f64]> = shares(&members.all, &alive).into();
        *known = Some(Shares { members: members.clone(), alive, shares: shares.clone() });
        shares
    }
}

/// One member, as this forebay sees it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MemberReport {
    pub name: Arc<str>,
    /// It is this forebay.
    pub is_this: bool,
    /// It answered when it was asked last, or was not asked yet.
    pub is_alive: bool,
    /// Why it did not answer.
    pub why: Option<String>,
    pub zone: Option<String>,
    /// The part of all blobs that it owns while the members that are dead now own none: 0 to 1.
    pub share: f64,
    /// How many requests it got of this forebay, and how many bytes of blobs it sent.
    pub requests: u64,
    pub received: u64,
}

/// How the cluster is, in short.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Health {
    /// How many members there are, this forebay among them if it is one.
    pub members: usize,
    pub is_member: bool,
    /// Those that did not answer when they were asked last.
    pub dead: Vec<Arc<str>>,
    /// A DNS name does not tell the members.
    pub is_lookup_failing: bool,
}

impl Cluster {
    /// How it is, in short.
    pub(crate) fn health(&self) -> Health {
        let members = self.0.membership.members();
        let dead = members.all.iter().filter_map(|member| match member {
            Member::Other(peer) if peer.is_down() => Some(peer.name().clone()),
            Member::Other(_) | Member::This(_) => None,
        });
        Health {
            members: members.all.len(),
            is_member: members.has_this(),
            dead: dead.collect(),
            is_lookup_failing: self.0.membership.is_lookup_failing(),
        }
    }

    /// All members, in the order of their names.
    pub(crate) fn report(&self) -> Vec<MemberReport> {
        let members = Arc::clone(&self.0.membership.members());
        let shares = self.0.shares.of(&members);
        let reports = members.all.iter().zip(&*shares).map(|(member, share)| match member {
            Member::This(name) => MemberReport {
                name: name.clone(),
                is_this: true,
                is_alive: true,
                why: None,
                zone: self.0.zone.as_deref().map(str::to_owned),
                share: *share,
                requests: 0,
                received: 0,
            },
            Member::Other(peer) => MemberReport {
                name: peer.name().clone(),
                is_this: false,
                is_alive: !peer.is_down(),
                why: peer.why(),
                zone: peer.zone().map(|zone| zone.to_string()),
                share: *share,
                requests: peer.requests(),
                received: peer.received(),
            },
        });
        reports.collect()
    }
}

/// The share of each member, by a sample of keys.
fn shares(members: &[Member], alive: &[bool]) -> Vec<f64> {
    let mut owned = vec![0_u32; members.len()];
    let numbered: Vec<(usize, &Member)> =
        members.iter().enumerate().zip(alive).filter_map(|(member, is_alive)| is_alive.then_some(member)).collect();
    let samples = SAMPLES.min(MAX_HASHES / members.len().max(1));
    for sample in 0..samples {
        let key = Key::Blob(Digest::of(Algorithm::Sha256, &sample.to_be_bytes()));
        let first = order(&numbered, |(_, member)| member.name(), "", &key).first().map(|(index, _)| *index);
        if let Some(count) = first.and_then(|index| owned.get_mut(index)) {
            *count += 1;
        }
    }
    owned.into_iter().map(|count| f64::from(count) / samples as f64).collect()
}
