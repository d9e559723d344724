//! SeaweedFS as the object store: one process, or a cluster of six, with a bucket for the test.
//!
//! Objects are looked at and changed by the filer, which asks for no signature; forebay goes the way of S3.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
};

use reqwest::Client;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{daemon::Daemon, port::free_port, program};
use crate::until::until;

pub const ACCESS_KEY_ID: &str = "AKIDOFTHETESTSXXXXXX";
pub const SECRET_ACCESS_KEY: &str = "sEcReTkEyOfThEtEsTs/0123456789";
/// The bucket of a test.
const BUCKET: &str = "images";
/// Where forebay's objects are in it.
const PREFIX: &str = "forebay";

/// SeaweedFS with a bucket.
pub struct SeaweedFs {
    /// Where S3 is.
    pub port: u16,
    filer: u16,
    // Before the folder: they must be gone when their files are removed.
    daemons: Vec<(&'static str, Daemon)>,
    _folder: TempDir,
    client: Client,
}

/// One object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Below the prefix.
    pub name: String,
    pub len: u64,
}

impl SeaweedFs {
    /// One process.
    pub async fn start() -> SeaweedFs {
        let folder = new_folder();
        let (port, filer, master, volume) = (free_port(), free_port(), free_port(), free_port());
        let mut command = weed();
        command.arg("server").args(common()).arg(format!("-dir={}", folder.path().display()));
        command.args([
            "-s3",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-master.volumeSizeLimitMB=64",
            "-volume.max=40",
        ]);
        command.args(["-master.telemetry=false", &format!("-s3.config={}", identities(folder.path()).display())]);
        for (name, port) in [("s3", port), ("filer", filer), ("master", master), ("volume", volume)] {
            command.args([format!("-{name}.port={port}"), format!("-{name}.port.grpc={}", free_port())]);
        }
        let daemon = Daemon::spawn("weed server", command, &folder.path().join("log"));
        Self::with_bucket(port, filer, vec![("server", daemon)], folder).await
    }

    /// A master, three servers of volumes with each object on two of them, a filer and the S3 gateway: six processes.
    pub async fn cluster() -> SeaweedFs {
        let folder = new_folder();
        let (port, filer, filer_grpc, master, master_grpc) =
            (free_port(), free_port(), free_port(), free_port(), free_port());
        let mut daemons = Vec::new();
        let mut start = |name: &'static str, arguments: Vec<String>| {
            let mut command = weed();
            command
                .arg(if name.starts_with("volume") { "volume" } else { name })
                .args(common())
                .args(arguments)
                .current_dir(folder.path());
            daemons.push((name, Daemon::spawn(name, command, &folder.path().join(name))));
        };
        let directory = |name: &str| {
            let directory = folder.path().join(format!("data-{name}"));
            fs::create_dir(&directory).expect("a folder can be made");
            directory.display().to_string()
        };
        let of_master = format!("127.0.0.1:{master}.{master_grpc}");
        start(
            "master",
            vec![
                format!("-port={master}"),
                format!("-port.grpc={master_grpc}"),
                format!("-mdir={}", directory("master")),
                "-defaultReplication=001".into(),
                "-volumeSizeLimitMB=64".into(),
                "-telemetry=false".into(),
            ],
        );
        for name in ["volume1", "volume2", "volume3"] {
            start(
                name,
                vec![
                    format!("-port={}", free_port()),
                    format!("-port.grpc={}", free_port()),
                    format!("-dir={}", directory(name)),
                    format!("-master={of_master}"),
                    "-max=40".into(),
                    "-dataCenter=one".into(),
                    "-rack=one".into(),
                ],
            );
        }
        start(
            "filer",
            vec![
                format!("-port={filer}"),
                format!("-port.grpc={filer_grpc}"),
                format!("-master={of_master}"),
                format!("-defaultStoreDir={}", directory("filer")),
            ],
        );
        start(
            "s3",
            vec![
                format!("-port={port}"),
                format!("-port.grpc={}", free_port()),
                format!("-filer=127.0.0.1:{filer}.{filer_grpc}"),
                format!("-config={}", identities(folder.path()).display()),
                "-port.iceberg=0".into(),
                "-port.lance=0".into(),
            ],
        );
        Self::with_bucket(port, filer, daemons, folder).await
    }

    async fn with_bucket(port: u16, filer: u16, daemons: Vec<(&'static str, Daemon)>, folder: TempDir) -> SeaweedFs {
        let client = Client::builder().no_proxy().build().expect("a client can be made");
        let mut store = SeaweedFs { port, filer, daemons, _folder: folder, client };
        // It listens before it can write.
        until("SeaweedFS takes an object", async || {
            store.daemons.iter_mut().for_each(|(_, daemon)| daemon.assert_alive());
            let made = store.client.post(store.filer_url("/")).send().await;
            made.is_ok_and(|made| made.status().is_success()) && store.try_put("ready", b"x").await
        })
        .await;
        store.remove("ready").await;
        for (_, daemon) in &mut store.daemons[..1] {
            daemon.until_listening(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await;
        }
        store
    }

    /// What forebay's configuration says about a store that is reached at this port: SeaweedFS's own, or that of a
    /// proxy. The [`keys`] are files of its folder.
    pub fn section(port: u16) -> String {
        format!(
            "[store]\nurl = \"s3://{BUCKET}/{PREFIX}\"\nendpoint = \"http://127.0.0.1:{port}\"\n\
             access_key_id_file = \"store.id\"\nsecret_access_key_file = \"store.secret\"\n"
        )
    }

    /// Kills the process, or those of the cluster whose names begin so.
    pub fn kill(&mut self, name: &str) {
        self.daemons.iter_mut().filter(|(own, _)| own.starts_with(name)).for_each(|(_, daemon)| daemon.kill());
    }

    /// All objects below forebay's prefix, by their names.
    pub async fn objects(&self) -> Vec<Object> {
        let mut objects = Vec::new();
        let mut folders = vec![String::new()];
        while let Some(folder) = folders.pop() {
            for entry in self.entries(&format!("/{PREFIX}{folder}")).await {
                let path = entry["FullPath"].as_str().expect("an entry has a path");
                let name = path.strip_prefix(&format!("/buckets/{BUCKET}/{PREFIX}")).expect("it is in the bucket");
                // Go's mode of a directory.
                if entry["Mode"].as_u64().is_some_and(|mode| mode & (1 << 31) != 0) {
                    folders.push(name.to_owned());
                } else {
                    let len = entry["FileSize"].as_u64().unwrap_or_default();
                    objects.push(Object { name: name.trim_start_matches('/').to_owned(), len });
                }
            }
        }
        objects.sort_by(|one, other| one.name.cmp(&other.name));
        objects
    }

    /// How many uploads in parts are neither completed nor aborted.
    pub async fn open_uploads(&self) -> usize {
        self.entries("/.uploads").await.len()
    }

    async fn entries(&self, folder: &str) -> Vec<Value> {
        let url = format!("{}?limit=10000", self.filer_url(&format!("{folder}/")));
        let answer = self.client.get(url).header("accept", "application/json").send().await.expect("the filer answers");
        if answer.status() == 404 {
            return Vec::new();
        }
        let listed: Value = serde_json::from_slice(&answer.bytes().await.expect("a body")).expect("JSON");
        listed["Entries"].as_array().cloned().unwrap_or_default()
    }

    /// The bytes of an object of this name below forebay's prefix.
    pub async fn object(&self, name: &str) -> Option<Vec<u8>> {
        let answer =
            self.client.get(self.filer_url(&format!("/{PREFIX}/{name}"))).send().await.expect("the filer answers");
        if answer.status() != 200 {
            return None;
        }
        Some(answer.bytes().await.expect("an object can be read").to_vec())
    }

    pub async fn has(&self, name: &str) -> bool {
        self.objects().await.iter().any(|object| object.name == name)
    }

    /// Replaces an object by other bytes.
    pub async fn put(&self, name: &str, content: &[u8]) {
        assert!(self.try_put(name, content).await, "{name} cannot be written");
    }

    async fn try_put(&self, name: &str, content: &[u8]) -> bool {
        let url = self.filer_url(&format!("/{PREFIX}/{name}"));
        self.client.put(url).body(content.to_vec()).send().await.is_ok_and(|answer| answer.status().is_success())
    }

    async fn remove(&self, name: &str) {
        let url = self.filer_url(&format!("/{PREFIX}/{name}"));
        self.client.delete(url).send().await.expect("the filer answers");
    }

    fn filer_url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/buckets/{BUCKET}{path}", self.filer)
    }
}

/// The files with the keys that [`SeaweedFs::section`] names.
pub fn keys() -> [(&'static str, &'static str); 2] {
    [("store.id", ACCESS_KEY_ID), ("store.secret", SECRET_ACCESS_KEY)]
}

fn new_folder() -> TempDir {
    TempDir::with_prefix("seaweedfs-").expect("a folder can be made")
}

fn common() -> [&'static str; 2] {
    ["-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
}

/// Who may use S3.
fn identities(folder: &Path) -> PathBuf {
    let path = folder.join("s3.json");
    let text = json!({ "identities": [{
        "name": "forebay",
        "credentials": [{ "accessKey": ACCESS_KEY_ID, "secretKey": SECRET_ACCESS_KEY }],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }]});
    fs::write(&path, text.to_string()).expect("the identities can be written");
    path
}

/// What tests/run has installed; panics when it is missing.
fn weed() -> Command {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || PathBuf::from(std::env::var_os("HOME").expect("a user has a home directory")).join(".cache");
    let path = cache.unwrap_or_else(home).join("forebay-tests/seaweedfs/bin/weed");
    assert!(path.is_file(), "the program {} is missing: run tests/run, or what it does to install it", path.display());
    let mut command = program::clean(&path);
    // Else it takes what the machine has.
    command.env("GOMEMLIMIT", "200MiB").arg("-logtostderr");
    command
}
