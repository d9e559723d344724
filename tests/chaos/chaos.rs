//! Everything that can go wrong, at once and for as long as one likes: real registries behind lines that fail in every
//! way, clients of every kind, forebay killed and started again, its disk full, failing and rotting.
//!
//! `tests/chaos/run [--seconds 120] [--seed N]`. What must hold: whatever a client got as complete is right; nothing that
//! a push was told to be there is gone; no file of others is touched; nothing panics; and once all is well again, all that the
//! upstreams have can be had. The seed decides what goes wrong with which request; times differ from run to run.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test that cannot go on says why by panicking, and tells what it found"
)]

mod client;
mod dice;
mod disk;
mod fault;
mod goods;
mod http;
mod http2;
mod life;
mod proxy;
mod pusher;
mod rot;
mod tally;

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use client::World;
use dice::Dice;
use disk::Disk;
use forebay_test_support::real::registry::Registry;
use forebay_test_support::real::token_server::TokenServer;
use goods::Goods;
use life::{Life, Sample, slope};
use proxy::Proxy;
use rot::Rot;
use tally::{Tally, Wrong};
use tempfile::TempDir;
use tokio::time::sleep;

/// Attacks forebay from all sides.
#[derive(Parser, Clone)]
struct Arguments {
    /// How long it lasts, without the start and the checks at the end.
    #[arg(long, default_value_t = 120)]
    seconds: u64,
    /// The same seed, the same faults.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, default_value_t = 100)]
    clients: u64,
    #[arg(long, default_value_t = 6)]
    pushers: u64,
    /// Of a hundred requests to the faulty upstreams, so many fail.
    #[arg(long, default_value_t = 30)]
    faults: u64,
    /// forebay and the registries live on: for watching memory.
    #[arg(long)]
    no_kills: bool,
    /// The disk neither fills nor fails nor rots.
    #[arg(long)]
    good_disk: bool,
    /// So many seconds after the last client memory and descriptors are looked at once more.
    #[arg(long, default_value_t = 25)]
    quiet: u64,
    /// Another binary than the one that Cargo has built.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_forebay"))]
    forebay: PathBuf,
    /// Leaves forebay's log and samples of its memory in this folder.
    #[arg(long)]
    keep: Option<PathBuf>,
}

/// Set where this program runs in a mount namespace of its own.
const INSIDE: &str = "CHAOS_OF_FOREBAY_INSIDE";

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if std::env::var_os(INSIDE).is_none() && rustix::process::geteuid().is_root() {
        let this = std::env::current_exe().unwrap();
        let error = Command::new("unshare")
            .args(["--mount", "--kill-child", "--fork"])
            .arg(this)
            .args(std::env::args_os().skip(1))
            .env(INSIDE, "1")
            .exec();
        eprintln!("chaos: no mount namespace: {error}");
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let violations = runtime.block_on(attack(&arguments));
    runtime.shutdown_background();
    if violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn attack(arguments: &Arguments) -> u64 {
    let seed = arguments.seed;
    println!("chaos: seed {seed}, {} s, {} clients", arguments.seconds, arguments.clients);
    let tally = Arc::new(Tally::default());
    let folder = TempDir::with_prefix("forebay-chaos-").unwrap();
    let disk = Disk::new(folder.path(), 96 << 20);
    let cache = disk.root.join("cache");

    let tokens = TokenServer::start("pusher", "secret").await;
    let healthy = Registry::open().await;
    let mut faulty = Registry::open().await;
    let guarded = Registry::with_tokens(&tokens).await;
    let mut goods = Goods::new();
    goods.fill(&healthy, "healthy.test", 1, 3).await;
    goods.fill(&faulty, "faulty.test", 2, 3).await;
    goods.fill(&guarded, "guarded.test", 3, 3).await;
    let proxies = vec![
        Proxy::before("faulty.test", faulty.port, seed, arguments.faults, Arc::clone(&tally)).await,
        Proxy::before("guarded.test", guarded.port, seed, arguments.faults, Arc::clone(&tally)).await,
        Proxy::before("push.test", healthy.port, seed, arguments.faults / 6, Arc::clone(&tally)).await,
    ];
    let upstream =
        |name: &str, url: &str, more: &str| format!("[[upstream]]\nname = \"{name}\"\nurls = [\"{url}\"]\n{more}\n");
    let config = format!(
        "[cache]\nmax_size = \"32 MiB\"\nmin_free = \"4 MiB\"\ntag_ttl = \"2s\"\nnegative_ttl = \"1s\"\n{}{}{}{}",
        upstream("healthy.test", &healthy.url(), "default = true"),
        upstream("faulty.test", &proxies[0].url(), ""),
        upstream("guarded.test", &proxies[1].url(), ""),
        upstream("push.test", &proxies[2].url(), "push = true"),
    );
    let mut life = Life::new(&arguments.forebay, folder.path(), &cache, &config);
    life.start().await;
    // The kernel takes connections before forebay has opened all that it keeps open; a response comes after that.
    for port in [life.port, life.admin] {
        let request = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        http::exchange(port, request, b"", http::Pace::Fast).await.expect("forebay responds");
    }
    let at_first = life.open();
    let foreign = disk::plant(&cache);

    let world = Arc::new(World {
        seed,
        port: life.port,
        goods,
        proxies,
        tally: Arc::clone(&tally),
        rot: Rot::default(),
        stop: AtomicBool::new(false),
        life: AtomicU64::new(0),
        pushed_to: healthy.port,
        upstreams: vec!["healthy.test", "faulty.test", "guarded.test"],
    });
    let mut crowd = tokio::task::JoinSet::new();
    for number in 0..arguments.clients {
        crowd.spawn(client::run(Arc::clone(&world), number));
    }
    for number in 0..arguments.pushers {
        crowd.spawn(pusher::run(Arc::clone(&world), number));
    }

    let mut samples = Vec::new();
    let mut events = Dice::new(seed, "events");
    let start = Instant::now();
    let time = Duration::from_secs(arguments.seconds);
    let mut filled: Option<u64> = None;
    for tick in 0_u64.. {
        if start.elapsed() >= time {
            break;
        }
        sleep(Duration::from_secs(1).saturating_sub(start.elapsed().saturating_sub(Duration::from_secs(tick)))).await;
        world.rot.look();
        samples.extend(life.sample());
        if life.has_died() {
            tally.violation(Wrong::End, "forebay ended by itself", tail(&life.log));
            life.kill();
            life.start().await;
        }
        if tick % 30 == 0 {
            eprintln!(
                "chaos: {tick} s, {} requests, {:?}",
                tally.get("requests"),
                samples.last().map(|s| (s.rss >> 20, s.descriptors))
            );
        }
        let event = events.below(100);
        if !arguments.no_kills && event < 10 {
            world.life.fetch_add(1, Ordering::AcqRel);
            if event < 7 {
                tally.count("event kill -9");
                life.kill();
            } else {
                tally.count("event SIGTERM");
                if !matches!(life.terminate().await, Some(0 | 1)) {
                    tally.violation(Wrong::End, "SIGTERM did not end well", tail(&life.log));
                }
            }
            if events.percent(40) && world.rot.flip_a_part(&mut events, &cache) {
                tally.count("event a part is damaged");
            }
            life.start().await;
            world.life.fetch_add(1, Ordering::AcqRel);
        } else if !arguments.no_kills && event < 14 {
            tally.count("event an upstream is killed");
            faulty.kill();
            sleep(Duration::from_millis(events.below(2000))).await;
            faulty.revive().await;
        }
        if arguments.good_disk {
            continue;
        }
        match filled {
            Some(since) if tick - since > 4 => {
                disk.empty();
                disk.mend(&cache);
                filled = None;
            }
            None if (20..25).contains(&event) => {
                tally.count("event the disk is full");
                disk.fill();
                filled = Some(tick);
            }
            None if (25..30).contains(&event) => {
                tally.count("event the disk fails");
                disk.fail(&cache);
                filled = Some(tick);
            }
            _ => {}
        }
        if (30..40).contains(&event) && world.rot.flip_one(&mut events, &cache) {
            tally.count("event a byte is flipped");
        }
    }
    disk.empty();
    disk.mend(&cache);

    eprintln!("chaos: the attack is over; all that the upstreams have must be to be had");
    world.stop.store(true, Ordering::Relaxed);
    for proxy in &world.proxies {
        proxy.heal();
    }
    while crowd.join_next().await.is_some() {}
    world.rot.look();
    let checks = world.goods.all.iter().map(|good| async {
        if let Err(last) = world.can_be_had(good).await {
            tally.violation(Wrong::Lost, "lost", format!("{} cannot be had: {last}", good.path()));
        }
    });
    futures_util::StreamExt::collect::<Vec<()>>(futures_util::StreamExt::buffer_unordered(
        futures_util::stream::iter(checks),
        8,
    ))
    .await;
    sleep(Duration::from_secs(arguments.quiet)).await;
    let quiet = life.sample();
    let open = life.open();
    for kind in ["file", "pipe:"] {
        // Connections to upstreams are kept for a while; nothing else is.
        if open.get(kind) > at_first.get(kind) {
            let targets = life.open_of(kind);
            tally.violation(
                Wrong::Leak,
                "descriptors",
                format!("at first {at_first:?}, without a client {open:?}: {targets:?}"),
            );
        }
    }
    if life.terminate().await != Some(0) {
        tally.violation(Wrong::End, "SIGTERM did not end well", tail(&life.log));
    }
    inspect(&tally, &world, &life, &cache);
    for path in disk::lost(&foreign) {
        tally.violation(Wrong::Foreign, "a file of others is lost", path);
    }
    tell(&tally, &world, &samples, quiet, time);
    if let Some(keep) = &arguments.keep {
        fs::create_dir_all(keep).unwrap();
        fs::copy(&life.log, keep.join("forebay.log")).unwrap();
        let lines: String = samples
            .iter()
            .map(|s| format!("{} {} {} {}\n", s.at.duration_since(start).as_secs(), s.life, s.rss, s.descriptors))
            .collect();
        fs::write(keep.join("samples"), lines).unwrap();
    }
    tally.violations()
}

/// What is left when forebay has ended.
fn inspect(tally: &Tally, world: &World, life: &Life, cache: &Path) {
    for (path, digest) in disk::blobs(cache) {
        let bytes = fs::read(&path).unwrap();
        if forebay_test_support::real::image::digest(&bytes) != digest && !world.rot.explains(&digest, Instant::now()) {
            tally.violation(Wrong::Answer, "wrong in the cache", path.display().to_string());
        }
    }
    let log = fs::read_to_string(&life.log).unwrap_or_default();
    for line in log.lines().filter(|line| line.contains("panicked at")) {
        tally.violation(Wrong::Panic, "panic", line.to_owned());
    }
}

fn tell(tally: &Tally, world: &World, samples: &[Sample], quiet: Option<Sample>, time: Duration) {
    let (flipped, found) = world.rot.counts();
    tally.add("blobs damaged", flipped as u64);
    tally.add("blobs damaged, and gone before the end", found as u64);
    tally.report();
    let seconds = |what| tally.longest_of(what).as_secs_f64();
    println!(
        "chaos: seed {}, {} s: {} requests, {:.0} MiB",
        world.seed,
        time.as_secs(),
        tally.get("requests"),
        mib(tally.get("bytes") as f64)
    );
    println!("chaos: faults: {}", tally.faults());
    println!(
        "chaos: wrong answers {}, refused in error {}, lost blobs {}, foreign files lost {}, panics {}, bad ends {}, \
         leaks {}",
        tally.violations_of(Wrong::Answer),
        tally.violations_of(Wrong::Refusal),
        tally.violations_of(Wrong::Lost),
        tally.violations_of(Wrong::Foreign),
        tally.violations_of(Wrong::Panic),
        tally.violations_of(Wrong::End),
        tally.violations_of(Wrong::Leak),
    );
    let peak = |of: fn(&Sample) -> u64| samples.iter().map(of).max().unwrap_or_default();
    let a_minute = |slope: Option<f64>| {
        slope.map_or("no life was long enough".to_owned(), |slope| format!("{slope:+.2} a minute"))
    };
    println!(
        "chaos: peak RSS {:.1} MiB ({}), peak descriptors {} ({}), longest stall {:.1} s at the healthy upstream, {:.1} s at a sick one",
        mib(peak(|s| s.rss) as f64),
        a_minute(slope(samples, |s| s.rss).map(mib)),
        peak(|s| s.descriptors),
        a_minute(slope(samples, |s| s.descriptors)),
        seconds(client::STALL_OF_HEALTHY),
        seconds(client::STALL_OF_SICK),
    );
    if let Some(quiet) = quiet {
        println!("chaos: without a client: {:.1} MiB, {} descriptors", mib(quiet.rss as f64), quiet.descriptors);
    }
}

fn mib(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let begin = text.char_indices().rev().nth(2000).map_or(0, |(at, _)| at);
    text.get(begin..).unwrap_or_default().to_owned()
}
