//! The lines of the table, in its order, and what they have in common.

use std::{io, path::PathBuf, time::Duration};

use futures_util::{FutureExt as _, future::LocalBoxFuture};

use self::manifests::By;
use crate::{
    client::{Streamed, Target, clear},
    machine::FileSystem::{Overlayfs, Tmpfs},
    servers::{Forebay, Mirror, Nginx, local},
    table::{Figure, Goal, Row},
};
use forebay_test_support::real::{image::Blob, registry::Registry};

mod blob_hits;
mod cold;
mod crowd;
mod held;
mod manifests;
mod misses;
mod no_room;
mod peer_crowd;
mod peers;
mod pushes;
mod start;
mod store;

/// The repository with all contents.
const REPOSITORY: &str = "bench/app";
/// A large layer, as the issue defines it.
const BLOB: usize = 256_000_000;

/// How to measure.
pub struct Setup {
    pub quick: bool,
    pub rounds: usize,
    /// How long one round of a throughput row lasts.
    pub time: Duration,
    /// The forebay binary that is measured.
    pub program: PathBuf,
}

impl Setup {
    /// `wrk` takes whole seconds only.
    fn wrk_time(&self) -> Duration {
        Duration::from_secs(if self.quick { 1 } else { 5 })
    }
}

/// A row, with its name on the command line.
pub struct Case {
    pub name: &'static str,
    pub run: for<'a> fn(&'a Setup) -> LocalBoxFuture<'a, Row>,
}

pub const CASES: &[Case] = &[
    Case { name: "blob-hit-1", run: |setup| blob_hits::beside_nginx(setup, 1).boxed_local() },
    Case { name: "blob-hit-8", run: |setup| blob_hits::beside_nginx(setup, 8).boxed_local() },
    Case { name: "blob-hit-64", run: |setup| blob_hits::beside_nginx(setup, 64).boxed_local() },
    Case { name: "blob-hit-limit-1", run: |setup| blob_hits::beside_limit(setup, 1).boxed_local() },
    Case { name: "blob-hit-limit-8", run: |setup| blob_hits::beside_limit(setup, 8).boxed_local() },
    Case { name: "blob-hit-limit-64", run: |setup| blob_hits::beside_limit(setup, 64).boxed_local() },
    Case { name: "blob-hit-overlayfs", run: |setup| blob_hits::on_file_system(setup, Overlayfs).boxed_local() },
    Case { name: "blob-hit-tmpfs", run: |setup| blob_hits::on_file_system(setup, Tmpfs).boxed_local() },
    Case { name: "blob-hit-registry", run: |setup| blob_hits::beside_registry(setup).boxed_local() },
    Case { name: "blob-hit-tls-http1", run: |setup| blob_hits::over_tls(setup).boxed_local() },
    Case { name: "blob-hit-tls-http2", run: |setup| blob_hits::over_http2(setup).boxed_local() },
    Case { name: "manifest-digest", run: |setup| manifests::beside_nginx(setup, By::Digest).boxed_local() },
    Case { name: "manifest-tag", run: |setup| manifests::beside_nginx(setup, By::Tag).boxed_local() },
    Case { name: "manifest-registry-digest", run: |setup| manifests::beside_registry(setup, By::Digest).boxed_local() },
    Case { name: "manifest-registry-tag", run: |setup| manifests::beside_registry(setup, By::Tag).boxed_local() },
    Case { name: "manifest-missing-tags", run: |setup| manifests::after_missing_tags(setup).boxed_local() },
    Case { name: "miss-loopback", run: |setup| misses::on_loopback(setup).boxed_local() },
    Case { name: "miss-cost", run: |setup| misses::cost(setup).boxed_local() },
    Case { name: "miss-gigabit", run: |setup| misses::at_a_gigabit(setup).boxed_local() },
    Case { name: "miss-shared", run: |setup| misses::shared(setup).boxed_local() },
    Case { name: "miss-afar", run: |setup| misses::from_afar(setup).boxed_local() },
    Case { name: "peer-blob-hit", run: |setup| peers::blob_hit(setup).boxed_local() },
    Case { name: "peer-manifest-hit", run: |setup| manifests::in_a_cluster(setup).boxed_local() },
    Case { name: "peer-miss-cold", run: |setup| peers::cold_miss(setup).boxed_local() },
    Case { name: "peer-miss-warm", run: |setup| peers::warm_miss(setup).boxed_local() },
    Case { name: "peer-shared", run: |setup| peers::shared(setup).boxed_local() },
    Case { name: "peer-crowd", run: |setup| peer_crowd::crowd(setup).boxed_local() },
    Case { name: "store-blob-hit", run: |setup| store::blob_hit(setup).boxed_local() },
    Case { name: "store-miss", run: |setup| store::miss(setup).boxed_local() },
    Case { name: "store-upload", run: |setup| store::upload(setup).boxed_local() },
    Case { name: "push-one", run: |setup| pushes::then_pulled(setup, 1, BLOB).boxed_local() },
    Case { name: "push-many", run: |setup| pushes::then_pulled(setup, 20, 5_000_000).boxed_local() },
    Case { name: "no-room-40", run: |setup| no_room::one_speed(setup).boxed_local() },
    Case { name: "no-room-slow", run: |setup| no_room::slow_clients(setup).boxed_local() },
    Case { name: "crowd", run: |setup| crowd::crowd(setup).boxed_local() },
    Case { name: "held-streams", run: |setup| held::held_streams(setup).boxed_local() },
    Case { name: "manifest-cold-blobs", run: |setup| cold::cold_blobs(setup).boxed_local() },
    Case { name: "start", run: |setup| start::with_many_blobs(setup).boxed_local() },
];

/// A registry with one large blob; the blob's bytes are not kept.
struct Upstream {
    registry: Registry,
    digest: String,
    length: u64,
}

impl Upstream {
    async fn with_blob(length: usize) -> Self {
        let registry = Registry::open().await;
        let blob = Blob::random(1, length);
        registry.store(REPOSITORY, &blob);
        Self { registry, digest: blob.digest, length: length as u64 }
    }

    fn path(&self) -> String {
        format!("/v2/{REPOSITORY}/blobs/{}", self.digest)
    }

    /// The blob at forebay.
    fn at(&self, forebay: &Forebay) -> Target {
        Target { address: forebay.address, process: forebay.process(), path: self.path(), length: self.length }
    }

    /// The blob at the registry itself.
    fn direct(&self) -> Target {
        let address = local(self.registry.port);
        // Its CPU time does not matter.
        Target { address, process: std::process::id(), path: self.path(), length: self.length }
    }

    /// The blob at docker-registry.
    fn at_mirror(&self, mirror: &Mirror) -> Target {
        Target { address: mirror.address, process: mirror.process(), path: self.path(), length: self.length }
    }

    /// The blob at nginx, after nginx has its file.
    fn at_nginx(&self, nginx: &Nginx) -> Target {
        Target { address: nginx.address, process: nginx.process(), path: self.path(), length: self.length }
    }
}

/// A round of the peer, a round of forebay, and so on.
async fn in_turn<S>(
    rounds: usize,
    mut peer: impl AsyncFnMut() -> S,
    mut forebay: impl AsyncFnMut() -> S,
) -> (Vec<S>, Vec<S>) {
    let (mut of_peer, mut of_forebay) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        of_peer.push(peer().await);
        of_forebay.push(forebay().await);
    }
    (of_peer, of_forebay)
}

/// Runs a client, which blocks, on a thread of its own. Its error ends the row.
async fn apart<T: Send + 'static>(client: impl FnOnce() -> io::Result<T> + Send + 'static) -> T {
    tokio::task::spawn_blocking(client).await.unwrap().unwrap_or_else(|error| panic!("a client failed: {error}"))
}

/// Downloads every byte of the blob, once.
async fn check(target: &Target, digest: &str) {
    let (target, digest) = (target.clone(), digest.to_owned());
    apart(move || clear::verify(&target, &digest)).await;
}

/// What the table shows of both: the figure's name, its unit, its goal, and where a round has it.
type Told<T> = (&'static str, &'static str, Goal, fn(&T) -> f64);

/// The figures of rounds in which the peer and forebay took turns.
fn compared<T, const N: usize>(
    work: String,
    peer: &str,
    (of_peer, of_forebay): &(Vec<T>, Vec<T>),
    told: [Told<T>; N],
    idle: fn(&T) -> f64,
) -> Row {
    let both = |of: fn(&T) -> f64| (of_peer.iter().map(of).collect(), of_forebay.iter().map(of).collect());
    let figure = |(measure, unit, goal, of)| {
        let (peer, forebay) = both(of);
        Figure { measure, unit, goal, peer, forebay }
    };
    Row { work, peer: peer.to_owned(), figures: told.into_iter().map(figure).collect(), idle: Some(both(idle)) }
}

/// The figures of streamed blobs.
fn throughput_row(
    work: String,
    peer: &str,
    rounds: &(Vec<Streamed>, Vec<Streamed>),
    throughput: Goal,
    cpu: Goal,
) -> Row {
    let told: [Told<Streamed>; 2] = [
        ("throughput", "GB/s", throughput, Streamed::gigabytes_per_second),
        ("server CPU", "s/GB", cpu, Streamed::cpu_per_gigabyte),
    ];
    compared(work, peer, rounds, told, Streamed::client_idle)
}
