//! The tables of `docs/scaling.md` and `docs/decisions/0037-slices.md`.

use std::fmt::Write as _;

use super::{
    designs::{Design, Outcome, run},
    tier::Sharing,
    world::{GB, Pull, World},
};

/// How many nodes pull, and how many forebays there are then.
const SIZES: [(usize, usize); 3] = [(10, 3), (1_000, 10), (100_000, 200)];

type OfCount = fn(usize) -> Design;

/// The designs that can be had, by the number of forebays.
const DESIGNS: [(&str, OfCount); 13] = [
    ("no mirror", |_| Design::NoMirror),
    ("one forebay", |_| Design::Forebays { count: 1, sharing: Sharing::Apart, is_zonal: false }),
    ("M forebays, nothing shared", |count| Design::Forebays { count, sharing: Sharing::Apart, is_zonal: false }),
    ("M peers", |count| Design::Forebays { count, sharing: Sharing::Blobs, is_zonal: false }),
    ("M peers, clients stay in their zone", |count| Design::Forebays {
        count,
        sharing: Sharing::Blobs,
        is_zonal: true,
    }),
    ("M peers, store, empty disks", |count| Design::Restored { count }),
    ("M peers, redirects, cold", |count| Design::Redirects { count, is_warm: false }),
    ("M peers, redirects, warmed", |count| Design::Redirects { count, is_warm: true }),
    ("one on each node, all peers", |_| Design::AllNodes { sharing: Sharing::Blobs }),
    ("one on each node, asks the owner of M", |count| Design::NodesAskOwners { count, sharing: Sharing::Blobs }),
    ("groups of 8 nodes before M peers", |count| Design::Groups { size: 8, count, sharing: Sharing::Blobs }),
    ("groups of 40 nodes before M peers", |count| Design::Groups { size: 40, count, sharing: Sharing::Blobs }),
    ("a P2P engine before 3 peers", |_| Design::Engine { count: 3 }),
];

/// Seconds and dollars of all designs.
pub fn overview(world: &World, pull: &Pull) -> String {
    let mut table = heading(&["design", "10 nodes", "1 000 nodes", "100 000 nodes"]);
    for (name, design) in DESIGNS {
        let cells = SIZES.map(|(nodes, count)| match run(world, pull, nodes, design(count)) {
            Some(Outcome { seconds, dollars, .. }) => format!("{}, {}", time(seconds), money(dollars)),
            None => "-".to_owned(),
        });
        line(&mut table, &[&[name.to_owned()], cells.as_slice()].concat());
    }
    table
}

/// All figures of all designs.
pub fn figures(world: &World, pull: &Pull) -> String {
    let columns = ["nodes", "design", "last node", "from the registry", "manifests", "between zones", "money"];
    let mut table = heading(&columns);
    for (nodes, count) in SIZES {
        for (name, design) in DESIGNS {
            let Some(outcome) = run(world, pull, nodes, design(count)) else { continue };
            let cells = [
                grouped(nodes as f64),
                name.to_owned(),
                time(outcome.seconds),
                bytes(outcome.upstream_bytes),
                grouped(outcome.manifests),
                bytes(outcome.cross_zone_bytes),
                money(outcome.dollars),
            ];
            line(&mut table, &cells);
        }
    }
    table
}

/// What slices would bring: the time of 1 000 and of 100 000 nodes.
pub fn slices(world: &World, pull: &Pull) -> String {
    type Shared = fn(usize, Sharing) -> Design;
    let topologies: [(&str, Shared); 5] = [
        ("M peers", |count, sharing| Design::Forebays { count, sharing, is_zonal: false }),
        ("each node asks the owners of M", |count, sharing| Design::NodesAskOwners { count, sharing }),
        ("each node, all peers", |_, sharing| Design::AllNodes { sharing }),
        ("groups of 8 before M", |count, sharing| Design::Groups { size: 8, count, sharing }),
        ("groups of 40 before M", |count, sharing| Design::Groups { size: 40, count, sharing }),
    ];
    let sharings = [Sharing::Blobs, Sharing::Slices, Sharing::SlicesInOrder, Sharing::Relayed(4)];
    let mut table = heading(&["topology", "whole blobs", "slices", "slices in order", "relays of 4"]);
    for (name, design) in topologies {
        let cell = |sharing| {
            let times = SIZES[1..].iter().map(|(nodes, count)| {
                let outcome = run(world, pull, *nodes, design(*count, sharing));
                outcome.map_or_else(|| "-".to_owned(), |outcome| time(outcome.seconds))
            });
            times.collect::<Vec<_>>().join(", ")
        };
        line(&mut table, &[&[name.to_owned()], sharings.map(cell).as_slice()].concat());
    }
    table
}

fn heading(columns: &[&str]) -> String {
    let mut table = String::new();
    line(&mut table, &columns.iter().map(|column| (*column).to_owned()).collect::<Vec<_>>());
    let _ = writeln!(table, "|{}", "---|".repeat(columns.len()));
    table
}

fn line(table: &mut String, cells: &[String]) {
    let _ = writeln!(table, "| {} |", cells.join(" | "));
}

fn time(seconds: f64) -> String {
    match seconds {
        seconds if seconds < 100.0 => format!("{seconds:.1} s"),
        seconds if seconds < 7_200.0 => format!("{:.1} min", seconds / 60.0),
        seconds => format!("{:.1} h", seconds / 3_600.0),
    }
}

fn bytes(bytes: f64) -> String {
    match bytes / GB {
        gigabytes if gigabytes < 0.05 => "0".to_owned(),
        gigabytes if gigabytes < 100.0 => format!("{gigabytes:.1} GB"),
        gigabytes => format!("{} GB", grouped(gigabytes)),
    }
}

fn money(dollars: f64) -> String {
    match dollars {
        0.0 => "0".to_owned(),
        dollars if dollars < 0.01 => "< 0.01 $".to_owned(),
        dollars if dollars < 100.0 => format!("{dollars:.2} $"),
        dollars => format!("{} $", grouped(dollars)),
    }
}

/// A whole number with a blank before each three digits.
fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(' ');
        }
        grouped.push(digit);
    }
    grouped
}
