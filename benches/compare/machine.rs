//! What the figures depend on besides the programs: the machine, its kernel, the versions, and how they were measured.

use std::{fs, process::Command, time::SystemTime};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;

use crate::rows::Setup;
use forebay_test_support::real::program;

/// The facts by which a reader can judge a figure, one a line.
pub fn facts(setup: &Setup) -> Vec<String> {
    let uname = rustix::system::uname();
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':')).map_or("", |pair| pair.1);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory.split_ascii_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) >> 20;
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let release = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("").trim_matches('"');
    let date = httpdate::fmt_http_date(SystemTime::now());
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let (mut nginx, mut registry, mut wrk, mut own) = (
        program::command("nginx", "nginx-light"),
        program::command("docker-registry", "docker-registry"),
        program::command("wrk", "wrk"),
        program::clean(&setup.program),
    );
    let versions = [
        first_line(own.arg("--version")),
        first_line(nginx.arg("-v")),
        first_line(registry.arg("--version")),
        first_line(wrk.arg("-v")),
    ];
    vec![
        format!("{cores} cores of{cpu}, {memory} GiB, {release}, Linux {}", uname.release().to_string_lossy()),
        versions.join("; "),
        format!("{date}; load when the table was finished {}", load.split(' ').next().unwrap_or("?")),
        format!(
            "Medians of {} rounds, a peer's and forebay's in turn; throughput for {:?} a round{}.",
            setup.rounds,
            setup.time,
            if setup.quick { "; QUICK: too short to be believed" } else { "" },
        ),
        "Everything on 127.0.0.1. nginx serves the very file of forebay's cache; all files are in the page cache unless \
         a row says otherwise. Clear blobs are discarded in the kernel by their client; TLS clients decrypt, on the same \
         cores. The ratio is that of the medians, its spread that of neighbouring rounds. GB is 10^9 bytes. CPU is user \
         and system time of all processes of a server."
            .to_owned(),
    ]
}

/// A file system that a cache may lie on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    /// That of a container without a volume.
    Overlayfs,
    Tmpfs,
}

impl FileSystem {
    pub fn name(self) -> &'static str {
        match self {
            Self::Overlayfs => "overlayfs",
            Self::Tmpfs => "tmpfs",
        }
    }
}

/// A folder whose `merged` lies on a file system of its own; to mount it takes root.
pub struct Mounted {
    pub folder: TempDir,
}

impl Mounted {
    pub fn new(kind: FileSystem) -> Self {
        let folder = TempDir::with_prefix("forebay-compare-mounted-").unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        for name in ["lower", "upper", "work", "merged"] {
            fs::create_dir(at(name)).unwrap();
        }
        let options = match kind {
            FileSystem::Overlayfs => {
                format!("lowerdir={},upperdir={},workdir={}", at("lower"), at("upper"), at("work"))
            }
            FileSystem::Tmpfs => "size=2g".to_owned(),
        };
        let (kind, merged) = (if kind == FileSystem::Tmpfs { "tmpfs" } else { "overlay" }, at("merged"));
        let mounted = Command::new("mount").args(["-t", kind, kind, "-o", &options, &merged]).status().unwrap();
        assert!(mounted.success(), "to mount a file system takes root");
        Self { folder }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let merged = self.folder.path().join("merged");
        let unmounted = Command::new("umount").arg("--lazy").arg(merged).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("compare: {} stays mounted", self.folder.path().display());
        }
    }
}

/// For a thousand clients, and for servers that inherit the limit.
pub fn raise_file_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

fn first_line(command: &mut Command) -> String {
    let Ok(output) = command.output() else { return "?".to_owned() };
    // nginx prints its version to another stream than wrk.
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).lines().next().unwrap_or("?").trim().to_owned()
}
