//! The flows of forebays that are peers, or each for itself.

use super::{
    fluid::{Flow, Origin},
    owners::{owner, parts},
    world::{MB, PART},
};

/// Larger blobs are sliced.
const SLICED_ABOVE: f64 = 4.0 * PART;
/// How many slices in their order are on their way to a forebay: with more, they would pile up before its clients.
const WINDOW: f64 = 8.0;
/// More blobs flow as one or two: no single one matters.
const MAX_BLOBS: usize = 20;
/// Smaller blobs are not redirected.
const REDIRECTED_ABOVE: f64 = MB;

/// How members get what they miss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Each asks the source.
    Apart,
    /// The owner of a blob asks the source, all others ask the owner.
    Blobs,
    /// The same for each slice of a large blob, in any order.
    Slices,
    /// The same, with few slices at a time, so that clients are sent what comes.
    SlicesInOrder,
    /// The owner of a blob asks the source. No member sends it to more than so many others, which send it on.
    Relayed(usize),
}

/// What is pulled, as it flows.
pub struct Content(pub Vec<Blob>);

/// A blob, or many small ones.
pub struct Blob {
    pub bytes: f64,
    /// The numbers and sizes of the blobs.
    of: Vec<(usize, f64)>,
}

impl Content {
    pub fn new(blobs: &[f64]) -> Self {
        let blobs = blobs.iter().copied().enumerate();
        if blobs.len() <= MAX_BLOBS {
            return Self(blobs.map(|blob| Blob { bytes: blob.1, of: vec![blob] }).collect());
        }
        let (large, small): (Vec<_>, Vec<_>) = blobs.partition(|(_, bytes)| *bytes > REDIRECTED_ABOVE);
        let merged = |of: Vec<(usize, f64)>| Blob { bytes: of.iter().map(|(_, bytes)| bytes).sum(), of };
        Self([large, small].map(merged).into())
    }
}

impl Blob {
    /// How many blobs these are.
    pub fn count(&self) -> f64 {
        self.of.len() as f64
    }

    pub fn is_redirected(&self) -> bool {
        self.bytes / self.count() > REDIRECTED_ABOVE
    }

    /// Which part of it each member owns; `None`: one owns it.
    fn parts(&self, members: &Members) -> Option<Vec<f64>> {
        let is_sliced = matches!(members.sharing, Sharing::Slices | Sharing::SlicesInOrder);
        let slices = |(blob, bytes): (usize, f64)| {
            let number = if is_sliced && bytes > SLICED_ABOVE { (bytes / PART).ceil() as usize } else { 1 };
            let slice = bytes / number as f64;
            (0..number).map(move |at| ((blob, at), slice))
        };
        let pieces: Vec<_> = self.of.iter().copied().flat_map(slices).collect();
        match members.sharing {
            // Each member is in the middle of somebody's tree: it counts as if it were in that of each blob.
            Sharing::Relayed(others) => {
                let sends = (others as f64).min(members.count as f64 - 1.0);
                Some(vec![sends / (members.count as f64 - 1.0).max(1.0); members.count])
            }
            _ if pieces.len() == 1 => None,
            _ => Some(parts(&pieces, members.count)),
        }
    }

    /// How many owners ask the source at once.
    fn owners(&self, members: &Members) -> f64 {
        match members.sharing {
            Sharing::Slices | Sharing::SlicesInOrder if self.of.len() == 1 && self.bytes > SLICED_ABOVE => {
                (self.bytes / PART).ceil().min(members.count as f64)
            }
            _ => 1.0,
        }
    }
}

/// Lines and flows.
#[derive(Default)]
pub struct Net {
    pub lines: Vec<f64>,
    pub flows: Vec<Flow>,
    clients: usize,
}

impl Net {
    pub fn line(&mut self, rate: f64) -> usize {
        self.lines.push(rate);
        self.lines.len() - 1
    }

    pub fn flow(&mut self, flow: Flow) -> usize {
        self.flows.push(flow);
        self.flows.len() - 1
    }

    pub fn client(&mut self) -> usize {
        self.clients += 1;
        self.clients - 1
    }
}

/// Forebays with the same lines.
pub struct Members {
    pub count: usize,
    pub takes: f64,
    pub sends: f64,
    pub sharing: Sharing,
    /// They want all blobs themselves.
    pub are_clients: bool,
    /// How many such tiers there are, side by side.
    pub tiers: f64,
    /// What one is to the other.
    pub origin: Origin,
}

/// Members that are alike.
pub struct Group {
    pub count: f64,
    takes: usize,
    pub sends: usize,
    client: Option<usize>,
    /// By blob: the flow by which each of them gets it.
    pub gets: Vec<usize>,
    /// By blob: which part of it each of them owns.
    owns: Vec<f64>,
}

pub struct Tier {
    /// The owners of whole blobs, each by itself, then all others.
    pub groups: Vec<Group>,
    /// By blob: the flow that brings it from the source.
    pub first: Vec<usize>,
    /// By blob: what its slices in order share.
    windows: Vec<Option<usize>>,
}

impl Tier {
    /// What so many receivers of a blob use of the lines if they ask its owners.
    pub fn of_owners(&self, blob: usize, receivers: f64) -> Vec<(usize, f64)> {
        let uses = self.groups.iter().map(|group| (group.sends, receivers * group.owns[blob]));
        let window = self.windows[blob].map(|line| (line, receivers));
        uses.chain(window).filter(|(_, weight)| *weight > 0.0).collect()
    }

    /// The same if they ask all members alike.
    pub fn of_any(&self, receivers: f64) -> Vec<(usize, f64)> {
        let members: f64 = self.groups.iter().map(|group| group.count).sum();
        self.groups.iter().map(|group| (group.sends, receivers / members)).collect()
    }

    /// The flows by which all members get a blob.
    pub fn gets(&self, blob: usize) -> Vec<usize> {
        self.groups.iter().map(|group| group.gets[blob]).collect()
    }
}

/// Builds the flows by which all members get all blobs. `source`: the flow to the first of them, without a receiver.
pub fn tier(net: &mut Net, content: &Content, members: &Members, source: impl Fn(usize) -> Flow) -> Tier {
    let owners = Owners::new(content, members);
    let groups = owners.groups(net, members, content);
    let mut tier = Tier { groups, first: Vec::new(), windows: Vec::new() };
    for (at, blob) in content.0.iter().enumerate() {
        let first = first_flow(blob, members, &tier, owners.whole(at), source(at));
        let first = net.flow(first);
        tier.first.push(first);
        let window = (members.sharing == Sharing::SlicesInOrder && owners.whole(at).is_none())
            .then(|| net.line(members.sends * WINDOW.min(members.count as f64)));
        tier.windows.push(window);
        for index in 0..tier.groups.len() {
            let is_first = owners.whole(at) == Some(index) || members.sharing == Sharing::Apart;
            let gets = if is_first { first } else { net.flow(peer_flow(at, blob, members, &tier, index)) };
            tier.groups[index].gets.push(gets);
        }
    }
    tier
}

/// The flow from the source to the owners of a blob, or to each member.
fn first_flow(blob: &Blob, members: &Members, tier: &Tier, whole: Option<usize>, source: Flow) -> Flow {
    let mut flow = Flow { bytes: blob.bytes, blobs: blob.count(), receivers: members.tiers, ..source };
    match whole {
        Some(owner) => {
            flow.uses.push((tier.groups[owner].takes, 1.0));
            flow.client = tier.groups[owner].client;
        }
        None if members.sharing == Sharing::Apart => {
            let count = members.count as f64;
            flow.uses.iter_mut().for_each(|(_, weight)| *weight *= count);
            flow.uses.push((tier.groups[0].takes, 1.0));
            flow.client = tier.groups[0].client;
            flow.receivers *= count;
        }
        None => flow.most *= blob.owners(members),
    }
    flow
}

/// The flow from the owners of a blob to each member of a group.
fn peer_flow(at: usize, blob: &Blob, members: &Members, tier: &Tier, index: usize) -> Flow {
    let group = &tier.groups[index];
    let uses_of = |(owner, sender): (usize, &Group)| {
        // A member asks not itself.
        let receivers = if owner == index { group.count - 1.0 } else { group.count };
        (sender.sends, receivers * sender.owns[at])
    };
    let mut uses: Vec<(usize, f64)> = tier.groups.iter().enumerate().map(uses_of).collect();
    uses.retain(|(_, weight)| *weight > 0.0);
    uses.push((group.takes, 1.0));
    uses.extend(tier.windows[at].map(|line| (line, group.count)));
    let own = if uses.iter().any(|(line, _)| *line == group.sends) { 1.0 / members.count as f64 } else { 0.0 };
    Flow {
        bytes: blob.bytes,
        blobs: blob.count(),
        receivers: group.count * (1.0 - own) * members.tiers,
        behind: vec![tier.first[at]],
        uses,
        client: group.client,
        origin: members.origin,
        ..Flow::default()
    }
}

/// Which members own what.
struct Owners {
    /// By blob: which part of it each member owns; `None`: one owns it.
    parts: Vec<Option<Vec<f64>>>,
    /// By blob: the member that owns all of it.
    whole: Vec<Option<usize>>,
    /// The members that own whole blobs, in order.
    named: Vec<usize>,
}

impl Owners {
    fn new(content: &Content, members: &Members) -> Self {
        if members.sharing == Sharing::Apart {
            let blobs = content.0.len();
            return Self { parts: vec![None; blobs], whole: vec![None; blobs], named: Vec::new() };
        }
        let parts: Vec<Option<Vec<f64>>> = content.0.iter().map(|blob| blob.parts(members)).collect();
        let owner = |(parts, blob): (&Option<Vec<f64>>, &Blob)| match (parts, blob.of.first()) {
            (None, Some((number, _))) => Some(owner(members.count, *number, 0)),
            _ => None,
        };
        let whole: Vec<Option<usize>> = parts.iter().zip(&content.0).map(owner).collect();
        let mut named: Vec<usize> = whole.iter().copied().flatten().collect();
        named.sort_unstable();
        named.dedup();
        Self { parts, whole, named }
    }

    /// The group that owns all of a blob.
    fn whole(&self, blob: usize) -> Option<usize> {
        self.whole[blob].and_then(|owner| self.named.binary_search(&owner).ok())
    }

    fn groups(&self, net: &mut Net, members: &Members, content: &Content) -> Vec<Group> {
        let rest = members.count - self.named.len();
        let counts = self.named.iter().map(|_| 1).chain((rest > 0).then_some(rest));
        let group = |(index, count): (usize, usize)| Group {
            count: count as f64,
            takes: net.line(members.takes),
            sends: net.line(members.sends),
            client: members.are_clients.then(|| net.client()),
            gets: Vec::new(),
            owns: (0..content.0.len()).map(|blob| self.part(blob, index)).collect(),
        };
        counts.enumerate().map(group).collect()
    }

    /// Which part of a blob each member of a group owns. Of those that own no whole blob, the busiest counts.
    fn part(&self, blob: usize, group: usize) -> f64 {
        let Some(parts) = &self.parts[blob] else {
            return if self.whole(blob) == Some(group) { 1.0 } else { 0.0 };
        };
        match self.named.get(group) {
            Some(owner) => parts[*owner],
            None => {
                let rest = parts.iter().enumerate().filter(|(member, _)| self.named.binary_search(member).is_err());
                rest.map(|(_, part)| *part).fold(0.0, f64::max)
            }
        }
    }
}
