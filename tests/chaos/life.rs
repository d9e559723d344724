//! forebay's process: started, killed, started again, and watched.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use forebay_test_support::real::{daemon::Daemon, forebay::local, port::free_port, program};

pub struct Life {
    pub port: u16,
    pub admin: u16,
    pub cache: PathBuf,
    pub log: PathBuf,
    program: PathBuf,
    config: PathBuf,
    daemon: Option<Daemon>,
    /// How many lives there were.
    pub lives: AtomicU64,
}

/// What the kernel says of a process.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub at: Instant,
    pub rss: u64,
    pub descriptors: u64,
    pub life: u64,
}

impl Life {
    pub fn new(program: &Path, folder: &Path, cache: &Path, config: &str) -> Life {
        let (port, admin) = (free_port(), free_port());
        let text = format!(
            "[server]\nlisten = [\"127.0.0.1:{port}\"]\ndrain_timeout = \"2s\"\n[admin]\nlisten = \"127.0.0.1:{admin}\"\n{config}\n"
        );
        let path = folder.join("forebay.toml");
        fs::write(&path, text).expect("the configuration can be written");
        Life {
            port,
            admin,
            cache: cache.to_owned(),
            log: folder.join("forebay.log"),
            program: program.to_owned(),
            config: path,
            daemon: None,
            lives: AtomicU64::new(0),
        }
    }

    pub async fn start(&mut self) {
        let mut command = program::clean(&self.program);
        command.env_remove("NOTIFY_SOCKET").env_remove("LISTEN_FDS");
        command.arg("serve").arg("--config").arg(&self.config).arg("--cache-dir").arg(&self.cache);
        command.env("FOREBAY_LOG", "forebay=info,warn").env("RUST_BACKTRACE", "1");
        command.env("XDG_STATE_HOME", self.config.with_file_name("state"));
        command.env("STATE_DIRECTORY", self.config.with_file_name("state"));
        let mut daemon = Daemon::spawn("forebay", command, &self.log);
        daemon.until_listening(local(self.port)).await;
        daemon.until_listening(local(self.admin)).await;
        self.daemon = Some(daemon);
        self.lives.fetch_add(1, Ordering::Relaxed);
    }

    pub fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill();
        }
    }

    /// SIGTERM, and its exit code: 1 when it cut responses off. `None`: a signal ended it.
    pub async fn terminate(&mut self) -> Option<i32> {
        let Some(mut daemon) = self.daemon.take() else { return Some(0) };
        daemon.terminate().await.code()
    }

    pub fn sample(&self) -> Option<Sample> {
        let id = self.daemon.as_ref()?.id();
        let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let rss = line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024;
        let descriptors = fs::read_dir(format!("/proc/{id}/fd")).ok()?.count() as u64;
        Some(Sample { at: Instant::now(), rss, descriptors, life: self.lives.load(Ordering::Relaxed) })
    }

    /// What is open, by kind.
    pub fn open(&self) -> BTreeMap<&'static str, u64> {
        let mut kinds = BTreeMap::new();
        for (kind, _) in self.open_files() {
            *kinds.entry(kind).or_default() += 1;
        }
        kinds
    }

    /// Where the descriptors of one kind lead.
    pub fn open_of(&self, kind: &str) -> Vec<String> {
        self.open_files().into_iter().filter(|(of, _)| *of == kind).map(|(_, target)| target).collect()
    }

    /// Every descriptor: its kind, and where it leads.
    fn open_files(&self) -> Vec<(&'static str, String)> {
        let Some(daemon) = &self.daemon else { return Vec::new() };
        let entries = fs::read_dir(format!("/proc/{}/fd", daemon.id())).into_iter().flatten().flatten();
        // What is closed meanwhile is not open.
        let targets = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
        targets
            .map(|target| {
                let target = target.display().to_string();
                let kind = ["socket:", "pipe:", "anon_inode:"].into_iter().find(|kind| target.starts_with(kind));
                // Files of blobs in the cache stay open for a while; those of evicted ones do not.
                let is_cached = target.contains("/blobs/") && !target.ends_with(" (deleted)");
                (kind.unwrap_or(if is_cached { "blob" } else { "file" }), target)
            })
            .collect()
    }

    /// It has ended by itself.
    pub fn has_died(&self) -> bool {
        // A child that has ended and was not waited for yet is a zombie, and has no memory.
        self.daemon.is_some() && self.sample().is_none()
    }
}

/// Bytes a minute, by least squares over the longest life but its first quarter.
pub fn slope(samples: &[Sample], of: impl Fn(&Sample) -> u64) -> Option<f64> {
    let longest = samples.chunk_by(|a, b| a.life == b.life).max_by_key(|life| life.len())?;
    let late = longest.get(longest.len() / 4..)?;
    let first = late.first()?.at;
    let points: Vec<(f64, f64)> =
        late.iter().map(|s| (s.at.duration_since(first).as_secs_f64() / 60.0, of(s) as f64)).collect();
    if late.last()?.at.duration_since(first) < Duration::from_secs(20) {
        return None;
    }
    let n = points.len() as f64;
    let (x, y) = points.iter().fold((0.0, 0.0), |(x, y), p| (x + p.0 / n, y + p.1 / n));
    let (above, below) = points.iter().fold((0.0, 0.0), |(a, b), p| (a + (p.0 - x) * (p.1 - y), b + (p.0 - x).powi(2)));
    Some(above / below)
}
