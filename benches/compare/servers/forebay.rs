//! forebay: the release binary, with its default configuration unless a row changes it.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Instant,
};

use tempfile::TempDir;

use super::{folder, local, write};
use crate::client::clear;
use forebay_test_support::{
    real::{
        certificate::Identity,
        daemon::Daemon,
        port::free_port,
        program,
        seaweedfs::{self, SeaweedFs},
    },
    until::until,
};

/// The settings that a row may change.
#[derive(Clone, Copy, Default)]
pub struct Options<'a> {
    /// Serve TLS with this identity.
    pub tls: Option<&'a Identity>,
    /// Log every request, as forebay does by default; else warnings only.
    pub access_log: bool,
    /// Accept pushes.
    pub push: bool,
    /// A cache that exists already.
    pub cache: Option<&'a Path>,
    /// The size of the cache; else forebay's default.
    pub max_size: Option<&'a str>,
    /// Its port; else a free one.
    pub port: Option<u16>,
    /// The ports of the peers; none: it is in no cluster.
    pub peers: &'a [u16],
    /// Where SeaweedFS is; else there is no object store.
    pub store: Option<u16>,
}

/// The key of all clusters.
const CLUSTER_KEY: &str = "0123456789abcdef0123456789abcdef";

/// The section of a cluster. A forebay that is not among the peers asks them, and is asked by none.
fn cluster(peers: &[u16], own: u16) -> String {
    let url = |port: &u16| format!("\"http://127.0.0.1:{port}\"");
    if peers.is_empty() {
        return String::new();
    }
    let urls = peers.iter().map(url).collect::<Vec<_>>().join(", ");
    let advertise = if peers.contains(&own) { format!("advertise = {}\n", url(&own)) } else { String::new() };
    format!("[cluster]\npeers = [{urls}]\n{advertise}key_file = \"cluster.key\"\n")
}

pub struct Forebay {
    pub address: SocketAddr,
    pub admin: SocketAddr,
    /// When its process was started.
    pub started: Instant,
    // Before the folder: the process must have ended when its files are removed.
    daemon: Daemon,
    cache: PathBuf,
    _folder: TempDir,
}

impl Forebay {
    /// A ready forebay, with an empty cache unless the options name one, in front of the registry at this URL.
    pub async fn start(program: &Path, upstream: &str, options: Options<'_>) -> Self {
        let mut forebay = Self::spawn(program, upstream, options);
        forebay.daemon.until_listening(forebay.address).await;
        forebay.daemon.until_listening(forebay.admin).await;
        let admin = forebay.admin;
        until("forebay is ready", async || clear::get(admin, "/readyz").ok().filter(|answer| answer.0 == 200)).await;
        forebay
    }

    /// A forebay that was just started, and may not be ready.
    pub fn spawn(program: &Path, upstream: &str, options: Options<'_>) -> Self {
        let (folder, admin) = (folder("forebay"), free_port());
        let port = options.port.unwrap_or_else(free_port);
        let cache = options.cache.map_or_else(|| folder.path().join("cache"), Path::to_owned);
        let tls = options.tls.map_or_else(String::new, |identity| {
            let (certificate, key) = (identity.certificate.display(), identity.key.display());
            format!("[server.tls]\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n")
        });
        let size = options.max_size.map_or_else(String::new, |size| format!("max_size = \"{size}\"\n"));
        let text = format!(
            "[server]\nlisten = [\"127.0.0.1:{port}\"]\n{tls}[admin]\nlisten = \"127.0.0.1:{admin}\"\n\
             [cache]\ndirectory = \"{}\"\nmin_free = \"0 B\"\ntag_ttl = \"1h\"\n{size}\
             [[upstream]]\nname = \"registry.test\"\ndefault = true\nurls = [\"{upstream}\"]\npush = {}\n{}{}",
            cache.display(),
            options.push,
            cluster(options.peers, port),
            options.store.map_or_else(String::new, SeaweedFs::section),
        );
        for (name, key) in seaweedfs::keys() {
            write(&folder.path().join(name), key);
        }
        write(&folder.path().join("cluster.key"), CLUSTER_KEY);
        let file = folder.path().join("forebay.toml");
        write(&file, &text);
        let mut command = program::clean(program);
        command.arg("serve").arg("--config").arg(&file);
        command
            .env_remove("NOTIFY_SOCKET")
            .env_remove("LISTEN_FDS")
            .env("HOME", folder.path())
            .env("STATE_DIRECTORY", folder.path().join("state"));
        command.env("FOREBAY_LOG", if options.access_log { "info" } else { "warn" });
        let started = Instant::now();
        let daemon = Daemon::spawn("forebay", command, &folder.path().join("log"));
        Self { address: local(port), admin: local(admin), started, daemon, cache, _folder: folder }
    }

    pub fn process(&self) -> u32 {
        self.daemon.id()
    }

    /// The file of a cached blob.
    pub fn file_of(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        self.cache.join("blobs/sha256").join(&hex[..2]).join(hex)
    }

    /// Waits until the blob is written to the cache: the client gets its last byte a moment before.
    pub async fn until_cached(&self, digest: &str) -> PathBuf {
        let file = self.file_of(digest);
        until("the blob is in the cache", async || file.exists().then_some(())).await;
        file
    }

    /// The sum of a metric's samples whose labels contain this text.
    pub fn metric(&self, name: &str, label: &str) -> Option<f64> {
        let (_, body) = clear::get(self.admin, "/metrics").ok()?;
        let samples = String::from_utf8_lossy(&body)
            .lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
            .filter(|line| line.contains(label))
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .collect::<Vec<_>>();
        (!samples.is_empty()).then(|| samples.iter().sum())
    }
}
