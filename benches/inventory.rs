//! The inventory of many images: what a hit costs, how long it takes to read them from disk, and what memory they take.
//!
//! ```sh
//! cargo bench --bench inventory -- 100000 10      # images, and blobs of each (all of them different)
//! cargo bench --bench inventory -- 100000 10 /some/disk
//! ```
//!
//! The blobs are sparse files of 1 MiB. Creating a million of them takes longer than all the rest.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a bench that cannot run may fail loudly"
)]

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use forebay::{
    cache::{
        Visibility,
        inventory::{Inventory, ManifestUse},
        storage::DiskStore,
    },
    config::{Config, Overrides},
    metrics::Metrics,
    oci::{Algorithm, Digest, Reference, Repository},
};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const BLOB: u64 = 1 << 20;
/// How many tags a repository has.
const TAGS: usize = 20;
const SAMPLES: usize = 200_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let number = |at: usize, default| arguments.get(at).map_or(default, |text| text.parse().unwrap());
    let (images, blobs) = (number(0, 10_000), number(1, 10));
    let directory = match arguments.get(2) {
        Some(path) => tempfile::tempdir_in(path).unwrap(),
        None => tempfile::tempdir().unwrap(),
    };
    let cache = directory.path().join("cache");
    let began = Instant::now();
    let runtime = Runtime::new().unwrap();
    drop(runtime.block_on(async { open(&cache) }));
    let digests: Vec<Digest> = (0..images).map(|image| write(&cache, image, blobs)).collect();
    println!("{images} images of {blobs} blobs on disk{:>33.1?}", began.elapsed());

    let before = resident();
    let (store, scan) = runtime.block_on(async {
        let (store, began) = (open(&cache), Instant::now());
        store.scan().await;
        (store, began.elapsed())
    });
    report("scan of the start", scan);
    let scanned = resident();
    println!("{:<40}{:>10} MiB resident", "the index of the disk", mib(scanned.saturating_sub(before)));
    let inventory = Inventory::new(store);
    let end = CancellationToken::new();
    let began = Instant::now();
    runtime.block_on(async {
        tokio::spawn(inventory.clone().run(end.clone()));
        while inventory.is_reading() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    report("reading the images", began.elapsed());
    let (names, bytes) = inventory.memory();
    println!("{:<40}{:>10} MiB by its own count", format!("{names} names"), mib(bytes as u64));
    println!("{:<40}{:>10} MiB resident", "", mib(resident().saturating_sub(scanned)));
    pulls(&inventory, &digests);
    end.cancel();
}

/// What a hit pays for the inventory.
fn pulls(inventory: &Inventory, digests: &[Digest]) {
    let upstream: Arc<str> = "docker.io".into();
    let names: Vec<(Repository, Reference)> = (0..digests.len()).map(name).collect();
    for (what, children) in [("a pull of an image", 0), ("a pull of an index of 16 manifests", 16)] {
        let children: Vec<u64> = (0..children).collect();
        let mut times: Vec<u32> = (0..SAMPLES)
            .map(|sample| {
                let image = sample * 7919 % names.len();
                let (repository, reference) = &names[image];
                let used = ManifestUse {
                    visibility: Visibility::Shared,
                    upstream: &upstream,
                    repository,
                    reference,
                    digest: &digests[image],
                    client: [192, 0, 2, 1].into(),
                    is_fetched: false,
                };
                let began = Instant::now();
                let pulled = inventory.note_get(used, &children);
                let took = began.elapsed();
                assert!(pulled.is_some());
                u32::try_from(took.as_nanos()).unwrap_or(u32::MAX)
            })
            .collect();
        times.sort_unstable();
        let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
        println!("{what:<40}p50 {:>8} ns, p99.9 {:>9} ns, most {:>11} ns", at(0.5), at(0.999), at(1.0));
    }
}

fn open(cache: &Path) -> DiskStore {
    let overrides = Overrides { cache_dir: Some(cache.to_owned()), ..Overrides::default() };
    let mut config = Config::parse("", Path::new("/bench.toml"), overrides).unwrap().cache;
    (config.max_size, config.min_free) = (u64::MAX / 4, 0);
    DiskStore::open(&config, Metrics::new().unwrap()).unwrap()
}

fn name(image: usize) -> (Repository, Reference) {
    let repository = format!("library/image{:05}", image / TAGS);
    (repository.parse().unwrap(), format!("1.{}", image % TAGS).parse().unwrap())
}

/// Writes an image into the directory, as forebay does.
fn write(cache: &Path, image: usize, blobs: usize) -> Digest {
    let descriptors: Vec<String> = (0..blobs)
        .map(|number| {
            let digest = Digest::of(Algorithm::Sha256, format!("{image} {number}").as_bytes());
            let file = File::create(path(&cache.join("blobs"), &digest)).unwrap();
            file.set_len(BLOB).unwrap();
            format!(
                r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{digest}","size":{BLOB}}}"#
            )
        })
        .collect();
    let (config, layers) = (&descriptors[0], descriptors[1..].join(","));
    let text = format!(r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{config},"layers":[{layers}]}}"#);
    let digest = Digest::of(Algorithm::Sha256, text.as_bytes());
    fs::write(path(&cache.join("manifests"), &digest), format!("{MANIFEST}\n{text}")).unwrap();
    let (repository, tag) = name(image);
    let folder = cache.join("tags/docker.io").join(repository.as_str());
    fs::create_dir_all(&folder).unwrap();
    let record =
        format!("digest = \"{digest}\"\nmedia_type = \"{MANIFEST}\"\nsize = {}\nconfirmed = 1764489600\n", text.len());
    fs::write(folder.join(format!("{tag}@80")), record).unwrap();
    digest
}

fn path(kind: &Path, digest: &Digest) -> PathBuf {
    let folder = kind.join("sha256").join(&digest.hex()[..2]);
    if !folder.is_dir() {
        fs::create_dir_all(&folder).unwrap();
    }
    folder.join(digest.hex())
}

fn report(what: &str, took: Duration) {
    println!("{what:<40}{took:>14.1?}");
}

fn mib(bytes: u64) -> u64 {
    bytes >> 20
}

/// Resident memory in bytes.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}
