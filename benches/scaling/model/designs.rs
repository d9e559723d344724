//! The ways that images take to the nodes.

use super::{
    fluid::{self, End, Flow, Origin, Stored},
    tier::{Blob, Content, Members, Net, Sharing, Tier, tier},
    world::{PART, Pull, World},
};

/// The most members of a cluster (`src/cluster/membership.rs`).
const MAX_MEMBERS: usize = 1024;

/// How images reach nodes. `count`: so many machines with a forebay each.
#[derive(Clone, Copy)]
pub enum Design {
    /// Each node asks the registry.
    NoMirror,
    /// Nodes ask any forebay; or one of their zone.
    Forebays { count: usize, sharing: Sharing, is_zonal: bool },
    /// Peers that redirect to the store; the store has the content before the nodes pull, or gets it meanwhile.
    Redirects { count: usize, is_warm: bool },
    /// Peers that have lost their disks; the store has everything.
    Restored { count: usize },
    /// A forebay on each node asks the owner among the forebays.
    NodesAskOwners { count: usize, sharing: Sharing },
    /// A forebay on each node; all are peers.
    AllNodes { sharing: Sharing },
    /// A forebay on each node. So many neighbours are peers, and ask any of the forebays, which are peers, too.
    Groups { size: usize, count: usize, sharing: Sharing },
    /// An engine on each node, which passes pieces on to two others, and asks any of the forebays.
    Engine { count: usize },
}

/// What a pull of all nodes takes.
pub struct Outcome {
    /// Until the last node has everything.
    pub seconds: f64,
    pub upstream_bytes: f64,
    /// GETs of manifests that the registry gets: one for the index and one for the platform, of each who asks.
    pub manifests: f64,
    pub cross_zone_bytes: f64,
    pub dollars: f64,
}

/// Lets so many nodes pull at once; `None`: the design has no room for so many.
pub fn run(world: &World, pull: &Pull, nodes: usize, design: Design) -> Option<Outcome> {
    let mut plan = Plan { world, pull, nodes, content: Content::new(&pull.blobs), net: Net::default() };
    let askers = plan.build(design)?;
    let End { seconds, flows } = fluid::run(plan.net.flows, &plan.net.lines, world.at_once);
    let puts: f64 = match design {
        Design::Redirects { is_warm: false, .. } => pull.blobs.iter().map(|bytes| (bytes / PART).ceil()).sum(),
        _ => 0.0,
    };
    let bytes_of = |origin: Origin| {
        let of = flows.iter().filter(|flow| flow.origin == origin);
        of.map(|flow| flow.bytes * flow.receivers).fold(0.0, |sum, bytes| sum + bytes)
    };
    let from_store = flows.iter().filter(|flow| flow.origin == Origin::Store);
    let gets = from_store.map(|flow| flow.blobs * flow.receivers).fold(0.0, |sum, gets| sum + gets);
    let (upstream_bytes, cross_zone_bytes) = (bytes_of(Origin::Registry), bytes_of(Origin::Machine) * world.crossing);
    let waits = if askers > 0.0 { world.rounds * world.round_trip * pull.images as f64 } else { 0.0 };
    Some(Outcome {
        seconds: seconds + waits,
        upstream_bytes,
        manifests: askers * 2.0 * pull.images as f64,
        cross_zone_bytes,
        dollars: upstream_bytes * world.nat
            + cross_zone_bytes * world.cross_zone
            + gets * world.store_get
            + puts * world.store_put,
    })
}

struct Plan<'a> {
    world: &'a World,
    pull: &'a Pull,
    nodes: usize,
    content: Content,
    net: Net,
}

impl Plan<'_> {
    /// Builds the flows of a design; returns how many ask the registry for manifests.
    fn build(&mut self, design: Design) -> Option<f64> {
        match design {
            Design::NoMirror => Some(self.no_mirror()),
            Design::Forebays { count, sharing, is_zonal } => {
                let tier = self.forebays(count, sharing);
                self.serve(&tier, if is_zonal { Origin::Neighbour } else { Origin::Machine });
                Some(if sharing == Sharing::Apart { count as f64 } else { 1.0 })
            }
            Design::Redirects { count, is_warm: false } => {
                let tier = self.forebays(count, Sharing::Blobs);
                let served = self.net.flows.len();
                self.serve(&tier, Origin::Machine);
                self.redirect(&tier, served);
                Some(1.0)
            }
            Design::Redirects { is_warm: true, .. } => Some(self.redirected()),
            Design::Restored { count } => Some(self.restored(count)),
            Design::NodesAskOwners { count, sharing } => {
                // Relays are members: those who are none ask the owner.
                let sharing = if matches!(sharing, Sharing::Relayed(_)) { Sharing::Blobs } else { sharing };
                let tier = self.forebays(count, sharing);
                let nodes = self.nodes as f64;
                let sender = |blob| (vec![tier.first[blob]], tier.of_owners(blob, nodes));
                self.reach_nodes(nodes, Origin::Machine, 0.0, sender);
                Some(1.0)
            }
            Design::AllNodes { sharing } => {
                if self.nodes > MAX_MEMBERS {
                    return None;
                }
                let members = self.node_members(self.nodes, 1.0, sharing, Origin::Machine);
                let source = self.registry();
                tier(&mut self.net, &self.content, &members, source);
                Some(1.0)
            }
            Design::Groups { size, count, sharing } => {
                let size = size.min(self.nodes);
                let groups = self.nodes as f64 / size as f64;
                let members = self.node_members(size, groups, sharing, Origin::Neighbour);
                Some(self.before(&self.members(count, sharing), &members))
            }
            Design::Engine { count } => {
                let members = self.node_members(self.nodes, 1.0, Sharing::Relayed(2), Origin::Machine);
                Some(self.before(&self.members(count, Sharing::Blobs), &members))
            }
        }
    }

    fn no_mirror(&mut self) -> f64 {
        let (nodes, site) = (self.nodes as f64, self.net.line(self.world.site));
        self.reach_nodes(nodes, Origin::Registry, self.world.connection, |_| (Vec::new(), vec![(site, nodes)]));
        nodes
    }

    /// Nodes get from the store what is not too small for a redirect.
    fn redirected(&mut self) -> f64 {
        self.reach_nodes(self.nodes as f64, Origin::Store, self.world.store, |_| (Vec::new(), Vec::new()));
        for (flow, blob) in self.net.flows.iter_mut().zip(&self.content.0) {
            if !blob.is_redirected() {
                flow.origin = Origin::Machine;
            }
        }
        0.0
    }

    /// The store is to the forebays what the registry was.
    fn restored(&mut self, count: usize) -> f64 {
        let members = self.members(count, Sharing::Blobs);
        let most = self.world.store * self.world.connections;
        let source = |_| Flow { origin: Origin::Store, most, ..Flow::default() };
        let tier = tier(&mut self.net, &self.content, &members, source);
        self.serve(&tier, Origin::Machine);
        0.0
    }

    /// What the registry sends to one forebay.
    fn registry(&mut self) -> impl Fn(usize) -> Flow + use<> {
        let site = self.net.line(self.world.site);
        let rates: Vec<f64> = self.content.0.iter().map(|blob| self.at_once(blob, self.world.connections)).collect();
        let connection = self.world.connection;
        move |blob| Flow { uses: vec![(site, 1.0)], most: connection * rates[blob], ..Flow::default() }
    }

    /// Over how many connections a blob comes; many small ones come over one connection each.
    fn at_once(&self, blob: &Blob, of_large: f64) -> f64 {
        if blob.count() > 1.0 { self.world.at_once as f64 } else { of_large }
    }

    fn members(&self, count: usize, sharing: Sharing) -> Members {
        let (takes, sends) = (self.world.forebay, self.world.forebay);
        Members { count, takes, sends, sharing, are_clients: false, tiers: 1.0, origin: Origin::Machine }
    }

    fn node_members(&self, count: usize, tiers: f64, sharing: Sharing, origin: Origin) -> Members {
        let (takes, sends) = (self.pull.node_takes, self.world.node_sends);
        Members { count, takes, sends, sharing, are_clients: true, tiers, origin }
    }

    /// So many forebays with the registry behind them.
    fn forebays(&mut self, count: usize, sharing: Sharing) -> Tier {
        let members = self.members(count, sharing);
        let source = self.registry();
        tier(&mut self.net, &self.content, &members, source)
    }

    /// Members on nodes, with forebays behind them.
    fn before(&mut self, forebays: &Members, members: &Members) -> f64 {
        let source = self.registry();
        let behind = tier(&mut self.net, &self.content, forebays, source);
        let source = |blob| Flow {
            behind: behind.gets(blob),
            uses: behind.of_any(members.tiers),
            origin: Origin::Machine,
            ..Flow::default()
        };
        tier(&mut self.net, &self.content, members, source);
        1.0
    }

    /// Each member of a tier serves as many nodes.
    fn serve(&mut self, tier: &Tier, origin: Origin) {
        let members: f64 = tier.groups.iter().map(|group| group.count).sum();
        let nodes = self.nodes as f64 / members;
        for group in &tier.groups {
            let sends = group.sends;
            self.reach_nodes(nodes * group.count, origin, 0.0, |blob| (vec![group.gets[blob]], vec![(sends, nodes)]));
        }
    }

    /// All blobs flow to nodes that are alike. `most`: over one connection; 0: no bound.
    fn reach_nodes(
        &mut self,
        receivers: f64,
        origin: Origin,
        most: f64,
        sender: impl Fn(usize) -> (Vec<usize>, Vec<(usize, f64)>),
    ) {
        let (client, takes) = (Some(self.net.client()), self.net.line(self.pull.node_takes));
        for (at, blob) in self.content.0.iter().enumerate() {
            let (behind, mut uses) = sender(at);
            uses.push((takes, 1.0));
            let most = most * self.at_once(blob, 1.0);
            let (bytes, blobs) = (blob.bytes, blob.count());
            self.net.flow(Flow { bytes, blobs, receivers, origin, behind, uses, most, client, stored: None });
        }
    }

    /// What clients begin after the upload of a blob comes from the store. `served`: the first flow to a client.
    fn redirect(&mut self, tier: &Tier, served: usize) {
        let blobs = self.content.0.iter().enumerate().cycle();
        for (flow, (at, blob)) in self.net.flows.iter_mut().skip(served).zip(blobs) {
            if blob.is_redirected() && blob.count() == 1.0 {
                let uploads = (tier.first[at], blob.bytes / self.world.upload);
                let uses = flow.uses.last().copied().into_iter().collect();
                flow.stored = Some(Stored { uploads, uses, most: self.world.store });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::world::{GB, image, large_blob, small_images},
        *,
    };

    const PEERS: Design = Design::Forebays { count: 10, sharing: Sharing::Blobs, is_zonal: false };

    fn outcome(pull: &Pull, nodes: usize, design: Design) -> Outcome {
        run(&World::default(), pull, nodes, design).unwrap()
    }

    fn assert_near(found: f64, expected: f64) {
        assert!((found - expected).abs() <= expected * 0.01, "{found} instead of {expected}");
    }

    /// What follows from the lines alone.
    #[test]
    fn the_narrowest_line_decides() {
        let world = World::default();
        let all = 1_000.0 * 0.5 * GB;
        let waits = world.rounds * world.round_trip;
        let one = Design::Forebays { count: 1, sharing: Sharing::Apart, is_zonal: false };
        for (design, expected) in [
            (Design::NoMirror, all / world.site),
            (one, all / world.forebay),
            (PEERS, all / world.forebay / 10.0),
            // The owner of the largest layer sends it to all.
            (Design::NodesAskOwners { count: 10, sharing: Sharing::Blobs }, 1_000.0 * 0.2 * GB / world.forebay),
            (Design::AllNodes { sharing: Sharing::Blobs }, 1_000.0 * 0.2 * GB / world.node_sends),
        ] {
            let found = outcome(&image(), 1_000, design).seconds;
            assert!((expected * 0.99..expected * 1.06 + waits).contains(&found), "{found} instead of {expected}");
        }
    }

    #[test]
    fn peers_download_once_and_others_each_for_themselves() {
        let apart = Design::Forebays { count: 10, sharing: Sharing::Apart, is_zonal: false };
        for pull in [image(), small_images(), large_blob()] {
            let groups = Design::Groups { size: 8, count: 10, sharing: Sharing::Blobs };
            for (design, times) in [
                (Design::NoMirror, 1_000.0),
                (apart, 10.0),
                (PEERS, 1.0),
                (Design::Redirects { count: 10, is_warm: false }, 1.0),
                (Design::NodesAskOwners { count: 10, sharing: Sharing::Slices }, 1.0),
                (groups, 1.0),
                (Design::Engine { count: 3 }, 1.0),
            ] {
                let found = outcome(&pull, 1_000, design);
                let bytes = pull.blobs.iter().sum::<f64>();
                assert_near(found.upstream_bytes, times * bytes);
                assert_near(found.manifests, times * 2.0 * pull.images as f64);
            }
            for design in [Design::Restored { count: 10 }, Design::Redirects { count: 10, is_warm: true }] {
                let found = outcome(&pull, 1_000, design);
                assert!(found.upstream_bytes == 0.0 && found.manifests == 0.0, "{}", pull.name);
            }
        }
    }

    #[test]
    fn bytes_between_zones_are_those_between_machines() {
        let crossing = World::default().crossing;
        // A thousand nodes ask a forebay, and nine forebays ask another one.
        for (design, images) in [
            (PEERS, 1_009.0),
            (Design::Forebays { count: 10, sharing: Sharing::Blobs, is_zonal: true }, 9.0),
            (Design::AllNodes { sharing: Sharing::Blobs }, 999.0),
            (Design::Groups { size: 8, count: 10, sharing: Sharing::Blobs }, 134.0),
        ] {
            assert_near(outcome(&image(), 1_000, design).cross_zone_bytes, images * 0.5 * GB * crossing);
        }
    }

    #[test]
    fn a_cluster_has_no_room_for_more_members() {
        let all = Design::AllNodes { sharing: Sharing::Blobs };
        assert!(run(&World::default(), &image(), MAX_MEMBERS, all).is_some());
        assert!(run(&World::default(), &image(), MAX_MEMBERS + 1, all).is_none());
    }
}
