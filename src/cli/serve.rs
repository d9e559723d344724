//! `forebay serve`: start, print the addresses, handle signals, drain.
//!
//! SIGTERM and SIGINT drain, after `drain_delay`; a second one ends the delay, or else the process at once. SIGHUP reloads
//! the configuration; a bad one changes nothing.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use anyhow::Context as _;
use forebay::{
    app::{App, Inherited},
    config::{self, Config, Loaded},
    machine::Machine,
    transport::CertificateFacts,
};
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{Signal, SignalKind, signal},
};
use tracing::{error, info, warn};

use super::{ConfigArguments, Failure, banner, fd_limit, placed, systemd};

/// See [`keep_freed_memory`], in bytes: about the buffers of one fast download.
const MMAP_THRESHOLD: usize = 4 * 1024 * 1024;
/// How many threads may wait for the disk, hash, or look up names at the same time: an array of disks has no use for
/// more.
const DISK_THREADS: usize = 64;

/// Runs the mirror until a signal ends it.
pub(super) fn run(arguments: &ConfigArguments, inherited: anyhow::Result<Inherited>) -> Result<(), Failure> {
    let inherited = inherited.map_err(Failure::Failed)?;
    let mut loaded = arguments.load()?;
    tell(&loaded);
    // A file that is gone at a reload is a mistake then: without it, all that it configured would be lost.
    let arguments = &ConfigArguments { config: loaded.file.clone(), ..arguments.clone() };
    let fd_limit = fd_limit::raise();
    fd_limit::fit(&mut loaded, fd_limit);
    keep_freed_memory();
    let runtime = runtime().context("cannot start the runtime").map_err(Failure::Failed)?;
    let outcome = runtime.block_on(serve(arguments, &loaded, inherited, fd_limit));
    // All responses that matter have been sent; a blocked disk must not delay the end.
    runtime.shutdown_background();
    outcome
}

/// One thread for each core, and a bounded number for the disk: many concurrent requests for blobs must not lead to
/// hundreds of threads, each with a stack and an arena of its own.
fn runtime() -> io::Result<Runtime> {
    Builder::new_multi_thread().enable_all().max_blocking_threads(DISK_THREADS).build()
}

/// glibc returns freed memory to the kernel as soon as it is twice as large as the largest freed block that had a
/// mapping of its own, and gives each larger block a mapping of its own. So the buffers of upstreams' bodies, some 100
/// KiB each, would mostly be new memory, and cost a page fault for each 4 KiB. One large block that is freed unused
/// raises that limit.
///
/// Source: mallopt(3), `M_MMAP_THRESHOLD` and `M_TRIM_THRESHOLD`, which are dynamic.
fn keep_freed_memory() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(MMAP_THRESHOLD)));
}

async fn serve(
    arguments: &ConfigArguments,
    loaded: &Loaded,
    inherited: Inherited,
    fd_limit: Option<u64>,
) -> Result<(), Failure> {
    // Before the start, so that a signal during the start is handled rather than fatal.
    let mut signals = Signals::new().context("cannot listen to signals").map_err(Failure::Failed)?;
    let (drain_delay, drain_timeout) = (loaded.config.server.drain_delay, loaded.config.server.drain_timeout);
    let app = tokio::select! {
        app = App::start(loaded.clone(), inherited) => app.map_err(|error| Failure::of(error, loaded))?,
        () = signals.stop() => return Ok(()),
    };

    // A service without a standard output serves all the same.
    let _ = io::stdout().write_all(banner(&loaded.config, &app).as_bytes());
    info!(version = env!("CARGO_PKG_VERSION"), listen = ?app.local_addrs(), admin = %app.admin_addr(), "serving");
    let status = format!("serving on {:?}", app.local_addrs());
    systemd::ready(&status);
    let watchdog = tokio::spawn(systemd::keep_watchdog_quiet());

    while let Requested::Reload = signals.next().await {
        systemd::reloading();
        match reload(arguments, &app, fd_limit).await {
            Ok(()) => info!("configuration reloaded"),
            // A configuration may have several mistakes, a line each.
            Err(error) => format!("{error:#}")
                .lines()
                .for_each(|error| error!(error, "reload failed, the old configuration stays")),
        }
        systemd::ready(&status);
    }

    systemd::stopping(drain_delay + drain_timeout);
    app.announce_drain();
    if !drain_delay.is_zero() {
        stay_for(drain_delay, &mut signals).await;
    }
    info!(timeout_seconds = drain_timeout.as_secs_f64(), "draining");
    let drained = tokio::select! {
        () = app.drain() => Ok(()),
        () = signals.stop() => {
            warn!("second signal to stop: running responses are cut off");
            Err(Failure::Failed(anyhow::anyhow!("ended before running responses were finished")))
        }
    };
    watchdog.abort();
    if drained.is_ok() {
        info!("stopped");
    }
    drained
}

fn banner(config: &Config, app: &App) -> String {
    // The files were read at the start. If they have changed since, the banner is that of forebay without TLS.
    let certificate = config.server.tls.as_ref().and_then(|tls| CertificateFacts::read(tls).ok());
    let bound = banner::Bound {
        listening: &app.local_addrs(),
        admin: app.admin_addr(),
        machine: Machine::find(),
        certificate: certificate.as_ref(),
    };
    banner::text(config, &bound)
}

/// Goes on serving all clients, so that load balancers have time to see that this process is not ready any more.
async fn stay_for(delay: Duration, signals: &mut Signals) {
    info!(
        delay_seconds = delay.as_secs_f64(),
        "not ready any more; clients are still accepted until the delay is over"
    );
    tokio::select! {
        () = tokio::time::sleep(delay) => {}
        () = signals.stop() => info!("second signal to stop: the delay ends"),
    }
}

/// Reads the configuration again and hands it to the running app.
async fn reload(arguments: &ConfigArguments, app: &App, fd_limit: Option<u64>) -> anyhow::Result<()> {
    let arguments = arguments.clone();
    let loaded = tokio::task::spawn_blocking(move || arguments.load()).await?;
    let mut loaded = loaded.inspect_err(|_| app.reload_failed())?;
    tell(&loaded);
    fd_limit::fit(&mut loaded, fd_limit);
    // The reload reads and writes files.
    tokio::task::block_in_place(|| app.reload(loaded.clone())).map_err(|error| placed(error, &loaded))
}

/// Logs which file was read, and what has no effect.
fn tell(loaded: &Loaded) {
    match &loaded.file {
        Some(file) => info!(file = %file.display(), "the configuration was read"),
        None => info!(looked_for = %config::default_file().display(), "there is no configuration file"),
    }
    for warning in &loaded.warnings {
        warn!(place = %warning.place(), "{}", warning.problem());
    }
}

/// What a signal requests.
enum Requested {
    Reload,
    Stop,
}

struct Signals {
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) -> Requested {
        tokio::select! {
            _ = self.hangup.recv() => Requested::Reload,
            _ = self.interrupt.recv() => Requested::Stop,
            _ = self.terminate.recv() => Requested::Stop,
        }
    }

    /// Waits for a signal to stop; ignores reloads.
    async fn stop(&mut self) {
        while !matches!(self.next().await, Requested::Stop) {}
    }
}
