//! Seeded schedules of what nodes with different views ask of one another, against what the hop rule promises.
//!
//! No I/O and no clock. The order of peers is that of rendezvous hashing, and which request may go to a peer is decided by
//! [`PeerUse`], as in a running forebay; when messages arrive, when a node dies and when the registry has sent the blob,
//! only the seed decides.

use super::PeerUse;
use crate::{
    cluster::{Key, order},
    oci::{Algorithm, Digest},
};

/// How many peers a node asks before the registry.
const MAX_ASKED: usize = 2;

/// A generator of numbers that are the same at each run (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end.max(1)
    }
}

/// From where a download gets its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Registry,
    /// `arrived`: the peer has the request, and it waits there.
    Peer {
        node: usize,
        arrived: bool,
    },
}

struct Download {
    peers: PeerUse,
    at: At,
    /// The peers that it may still ask.
    ahead: Vec<usize>,
}

#[derive(Default)]
struct Node {
    view: Vec<usize>,
    download: Option<Download>,
    has: bool,
    is_dead: bool,
}

struct Schedule {
    random: Random,
    nodes: Vec<Node>,
    key: Key,
    /// How often the registry was asked for the blob.
    fetches: usize,
}

impl Schedule {
    /// `is_shared`: all nodes have the same view.
    fn new(seed: u64, is_shared: bool) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let count = 2 + random.below(4);
        let view = |random: &mut Random| (0..count).filter(|_| is_shared || random.below(3) > 0).collect();
        let nodes = (0..count).map(|_| Node { view: view(&mut random), ..Node::default() }).collect();
        let key = Key::Blob(Digest::of(Algorithm::Sha256, &seed.to_be_bytes()));
        Self { random, nodes, key, fetches: 0 }
    }

    /// The peers that a node asks for the blob, by its view.
    fn ahead(&self, node: usize) -> Vec<usize> {
        let names: Vec<(usize, String)> =
            self.nodes[node].view.iter().map(|peer| (*peer, format!("http://10.0.0.{peer}:5000"))).collect();
        let order = order(&names, |(_, name)| name, "docker.io", &self.key);
        order.into_iter().map(|(peer, _)| *peer).take_while(|peer| *peer != node).take(MAX_ASKED).collect()
    }

    /// Begins a download, unless there is one, or asks the next endpoint of one that lost its own.
    fn go_on(&mut self, node: usize, peers: PeerUse) {
        let mut download = self.nodes[node].download.take().unwrap_or_else(|| Download {
            peers: peers.revocable(),
            at: At::Registry,
            ahead: self.ahead(node),
        });
        download.at = match download.peers.is_allowed() && !download.ahead.is_empty() {
            true => At::Peer { node: download.ahead.remove(0), arrived: false },
            false => At::Registry,
        };
        self.fetches += usize::from(download.at == At::Registry);
        self.nodes[node].download = Some(download);
    }

    /// The request of a peer arrives at a node.
    fn arrive(&mut self, node: usize) {
        if self.nodes[node].has {
            return;
        }
        let Some(download) = &mut self.nodes[node].download else { return self.go_on(node, PeerUse::Never) };
        download.peers.leave();
        if download.at != At::Registry {
            self.go_on(node, PeerUse::Never);
        }
    }

    fn step(&mut self) {
        let node = self.random.below(self.nodes.len());
        if self.nodes[node].is_dead || self.nodes[node].has {
            return;
        }
        let at = self.nodes[node].download.as_ref().map(|download| download.at);
        match at {
            // A client's request.
            None => self.go_on(node, PeerUse::Allowed),
            Some(At::Registry) => {
                if self.random.below(4) == 0 {
                    self.nodes[node].has = true;
                }
            }
            Some(At::Peer { node: peer, .. }) if self.nodes[peer].is_dead => self.go_on(node, PeerUse::Allowed),
            Some(At::Peer { node: peer, arrived: false }) => {
                self.arrive(peer);
                if let Some(download) = &mut self.nodes[node].download
                    && download.at == (At::Peer { node: peer, arrived: false })
                {
                    download.at = At::Peer { node: peer, arrived: true };
                }
            }
            Some(At::Peer { node: peer, arrived: true }) => self.nodes[node].has |= self.nodes[peer].has,
        }
    }

    /// One dies at times, but never the last.
    fn maybe_kill(&mut self) {
        let alive = self.nodes.iter().filter(|node| !node.is_dead).count();
        let node = self.random.below(self.nodes.len());
        if alive > 1 && self.random.below(40) == 0 {
            self.nodes[node].is_dead = true;
        }
    }

    /// A node whose request has arrived at a peer waits for a node that waits for no peer.
    fn assert_no_wait_for_a_waiter(&self) {
        for (index, node) in self.nodes.iter().enumerate() {
            let Some(Download { at: At::Peer { node: peer, arrived: true }, .. }) = &node.download else { continue };
            let other = &self.nodes[*peer];
            let waits = other.download.as_ref().is_some_and(|download| download.at != At::Registry);
            assert!(other.has || other.is_dead || !waits, "{index} waits for {peer}, which waits for a peer");
        }
    }

    fn run(mut self, may_die: bool) -> Self {
        for _ in 0..10_000 {
            if may_die {
                self.maybe_kill();
            }
            self.step();
            self.assert_no_wait_for_a_waiter();
            if self.nodes.iter().all(|node| node.has || node.is_dead) {
                return self;
            }
        }
        panic!("a download does not end");
    }
}

#[test]
fn nobody_waits_for_who_waits_in_ten_thousand_schedules() {
    for seed in 0..10_000 {
        let done = Schedule::new(seed, false).run(seed % 2 == 0);
        assert!(done.fetches <= done.nodes.len(), "seed {seed}: {} transfers", done.fetches);
    }
}

#[test]
fn nodes_of_one_view_fetch_once_in_ten_thousand_schedules() {
    for seed in 0..10_000 {
        let done = Schedule::new(seed, true).run(false);
        assert_eq!(done.fetches, 1, "seed {seed}");
    }
}
