//! What the warnings are decided from, beside the configuration: gathered by looking, without a change to anything.

use std::{
    env, fs, io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use rustix::fs::Access;

use super::of_upstream;
use crate::{
    auth,
    cluster::Source,
    config::{Config, Key},
    machine::{Machine, is_own_address},
    store::Credentials,
    transport::{CertificateFacts, bind},
    upstream::{self, CredentialSource},
};

/// Everything that was found out.
#[derive(Clone, Debug)]
pub struct Facts {
    pub(super) now: SystemTime,
    /// That of `[server.tls]`.
    pub(super) certificate: Option<CertificateFacts>,
    /// The files of CAs, and what their certificates say.
    pub(super) authorities: Vec<(Key, PathBuf, Vec<CertificateFacts>)>,
    /// How many users the htpasswd file has; `None`: there is no file.
    pub(super) users: Option<usize>,
    /// The files with secrets, and their modes.
    pub(super) secrets: Vec<(Key, PathBuf, u32)>,
    /// The credential helpers that are not installed, by the index of their upstreams.
    pub(super) missing_helpers: Vec<(usize, String)>,
    pub(super) disk: Disk,
    /// The addresses of listeners, and whether forebay could listen there.
    pub(super) ports: Vec<(Key, SocketAddr, PortUse)>,
    /// The addresses of the registry's listeners; empty if they are not known.
    pub(super) listening: Vec<SocketAddr>,
    pub(super) machine: Machine,
    /// The addresses of `cluster.peers` that are this machine's, of whichever interface.
    pub(super) own_peers: Vec<IpAddr>,
    /// The name of this machine.
    pub(super) host_name: String,
}

/// Where the cache is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Disk {
    /// Whether this user can write there, or create the directory.
    pub is_writable: bool,
    /// The bytes of the file system.
    pub total: Option<u64>,
}

/// Whether forebay could listen on an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortUse {
    Free,
    /// The forebay that runs here listens there.
    Ours,
    Taken,
    /// This user may not.
    Forbidden,
    /// It is no address of this machine.
    Elsewhere,
}

/// What is known of the listeners.
#[derive(Clone, Debug)]
pub enum Ports {
    /// forebay has bound these addresses.
    Bound(Vec<SocketAddr>),
    /// forebay would bind those of the configuration. One that runs here already has bound these: maybe the sockets of a
    /// service manager, which replace those of the configuration.
    Configured { registry: Vec<SocketAddr>, admin: Option<SocketAddr> },
}

impl Default for Ports {
    /// No forebay runs here.
    fn default() -> Self {
        Self::Configured { registry: Vec::new(), admin: None }
    }
}

impl Facts {
    /// Looks at everything. Blocks.
    pub fn gather(config: &Config, ports: Ports) -> Self {
        let certificate = config.server.tls.as_ref().and_then(|tls| CertificateFacts::read(tls).ok());
        let (listening, ports) = match ports {
            Ports::Bound(bound) => (bound, Vec::new()),
            Ports::Configured { registry, admin } => {
                let running: Vec<_> = registry.iter().copied().chain(admin).collect();
                let known = config.server.listen.iter().all(|address| address.port() != 0);
                let configured = if known { config.server.listen.clone() } else { Vec::new() };
                ([configured, registry].concat(), port_uses(config, &running))
            }
        };
        let helper = |(index, upstream): (usize, &upstream::Config)| {
            upstream::named_helper(upstream).filter(|helper| !is_installed(helper)).map(|helper| (index, helper))
        };
        Self {
            now: SystemTime::now(),
            certificate,
            authorities: authorities(config),
            users: config.access.htpasswd.as_deref().and_then(|path| auth::count_users(path).ok()),
            secrets: secrets(config),
            missing_helpers: config.upstreams.iter().enumerate().filter_map(helper).collect(),
            disk: disk(&config.cache.directory),
            ports,
            listening,
            machine: Machine::find(),
            own_peers: own_peers(config),
            host_name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        }
    }

    /// The addresses where the forebay that runs here listens already.
    pub fn ours(&self) -> impl Iterator<Item = SocketAddr> {
        self.ports.iter().filter(|(_, _, port_use)| *port_use == PortUse::Ours).map(|(_, address, _)| *address)
    }
}

fn authorities(config: &Config) -> Vec<(Key, PathBuf, Vec<CertificateFacts>)> {
    let client_ca = config.server.tls.as_ref().and_then(|tls| tls.client_ca.clone());
    let of_clients = client_ca.map(|path| (Key::new("server.tls").field("client_ca"), path));
    let of_upstreams = config.upstreams.iter().enumerate();
    let of_upstreams =
        of_upstreams.filter_map(|(index, upstream)| Some((of_upstream(index, "ca"), upstream.ca.clone()?)));
    let read = |(key, path): (Key, PathBuf)| {
        let certificates = CertificateFacts::read_all(&path).ok()?;
        Some((key, path, certificates))
    };
    let of_cluster = config.cluster.as_ref().and_then(|cluster| cluster.ca.clone());
    let of_cluster = of_cluster.map(|path| (Key::new("cluster").field("ca"), path));
    of_clients.into_iter().chain(of_upstreams).chain(of_cluster).filter_map(read).collect()
}

fn secrets(config: &Config) -> Vec<(Key, PathBuf, u32)> {
    let mut files: Vec<(Key, &Path)> = Vec::new();
    let tls = config.server.tls.as_ref();
    files.extend(tls.map(|tls| (Key::new("server.tls").field("key"), tls.key.as_path())));
    files.extend(config.access.htpasswd.as_deref().map(|path| (Key::new("access").field("htpasswd"), path)));
    files.extend(config.push.key_file.as_deref().map(|path| (Key::new("push").field("key_file"), path)));
    files.extend(config.cluster.as_ref().map(|cluster| (Key::new("cluster").field("key_file"), &*cluster.key_file)));
    if let Some(Credentials::Files { access_key_id: _, secret_access_key }) =
        config.store.as_ref().map(|store| &store.credentials)
    {
        files.push((Key::new("store").field("secret_access_key_file"), secret_access_key));
    }
    for (index, upstream) in config.upstreams.iter().enumerate() {
        match &upstream.credential {
            CredentialSource::Password { password_file, .. } => {
                files.push((of_upstream(index, "password_file"), password_file));
            }
            CredentialSource::DockerConfig(path) => files.push((of_upstream(index, "docker_config"), path)),
            CredentialSource::Anonymous | CredentialSource::Helper(_) => {}
        }
    }
    let with_mode = |(key, path): (Key, &Path)| {
        let mode = fs::metadata(path).ok()?.permissions().mode();
        Some((key, path.to_owned(), mode))
    };
    files.into_iter().filter_map(with_mode).collect()
}

/// Whether the program of a credential helper is in `PATH`.
fn is_installed(helper: &str) -> bool {
    let program = format!("docker-credential-{helper}");
    let is_program = |directory: PathBuf| {
        fs::metadata(directory.join(&program))
            .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    };
    env::var_os("PATH").is_some_and(|path| env::split_paths(&path).any(is_program))
}

fn disk(directory: &Path) -> Disk {
    let absolute = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
    let Some(existing) = absolute.ancestors().find(|ancestor| ancestor.exists()) else { return Disk::default() };
    let total = rustix::fs::statvfs(existing).ok().and_then(|stat| stat.f_blocks.checked_mul(stat.f_frsize));
    // As the effective user, which may differ from the real one.
    let flags = rustix::fs::AtFlags::EACCESS;
    let access = rustix::fs::accessat(rustix::fs::CWD, existing, Access::WRITE_OK | Access::EXEC_OK, flags);
    Disk { is_writable: access.is_ok(), total }
}

fn port_uses(config: &Config, running: &[SocketAddr]) -> Vec<(Key, SocketAddr, PortUse)> {
    let listen = Key::new("server").field("listen");
    let beside = &config.server.listen[..];
    let registry = beside.iter().map(|address| (listen.clone(), *address, beside));
    let admin = std::iter::once((Key::new("admin").field("listen"), config.admin.listen, &[][..]));
    registry.chain(admin).map(|(key, address, beside)| (key, address, port_use(address, beside, running))).collect()
}

/// Whether no other listener can have `address` beside this one. The sockets of a service manager, for example, may be those of
/// all addresses.
fn is_taken_by(address: SocketAddr, listener: SocketAddr) -> bool {
    let (ip, other) = (address.ip().to_canonical(), listener.ip().to_canonical());
    let has = |one: IpAddr, other: IpAddr| one == other || one.is_unspecified() && (one.is_ipv6() || other.is_ipv4());
    address.port() == listener.port() && (has(ip, other) || has(other, ip))
}

fn port_use(address: SocketAddr, beside: &[SocketAddr], running: &[SocketAddr]) -> PortUse {
    if address.port() == 0 {
        return PortUse::Free;
    }
    if running.iter().any(|listener| is_taken_by(address, *listener)) {
        return PortUse::Ours;
    }
    // It is closed again at once, and nothing was accepted.
    match bind(address, beside) {
        Ok(_) => PortUse::Free,
        Err(error) => match error.kind() {
            io::ErrorKind::AddrInUse => PortUse::Taken,
            io::ErrorKind::PermissionDenied => PortUse::Forbidden,
            io::ErrorKind::AddrNotAvailable => PortUse::Elsewhere,
            // The start tells of what else may be.
            _ => PortUse::Free,
        },
    }
}

fn own_peers(config: &Config) -> Vec<IpAddr> {
    let peers = config.cluster.iter().flat_map(|cluster| &cluster.peers);
    let addresses = peers.filter_map(|peer| match peer {
        Source::One(peer) => peer.address().map(|address| address.ip()),
        Source::Dns { .. } => None,
    });
    addresses.filter(|ip| is_own_address(*ip) == Some(true)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_below_the_running_listener_is_ours() {
        for (address, running, expected) in [
            ("127.0.0.1:5000", "127.0.0.1:5000", true),
            ("127.0.0.1:5000", "0.0.0.0:5000", true),
            ("127.0.0.1:5000", "[::]:5000", true),
            ("0.0.0.0:5000", "10.0.4.17:5000", true),
            ("127.0.0.1:5000", "[::ffff:127.0.0.1]:5000", true),
            ("[::]:5000", "127.0.0.1:5000", true),
            ("127.0.0.1:5000", "10.0.4.17:5000", false),
            ("[::1]:5000", "0.0.0.0:5000", false),
            ("127.0.0.1:5000", "[::]:5001", false),
        ] {
            let taken = is_taken_by(address.parse().unwrap(), running.parse().unwrap());
            assert_eq!(taken, expected, "{address} {running}");
        }
    }
}
