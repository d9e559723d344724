//! docker-registry (distribution 2.8) as the upstream: its configuration, its storage, and its own access log.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::until::until;

use super::{
    certificate::Authority,
    daemon::Daemon,
    image::Blob,
    port::free_port,
    program,
    push::{Login, Pusher},
    token_server::TokenServer,
};

/// A registry on a port of its own, with its storage in a folder of its own.
pub struct Registry {
    pub port: u16,
    // Before the folder: it must be gone when its files are removed.
    daemon: Daemon,
    folder: TempDir,
    authority: Option<Authority>,
    login: Login,
}

/// One line of the access log. A request is logged when its answer has been sent, not when it came.
pub struct Access {
    pub method: String,
    pub path: String,
    pub status: u16,
}

impl Registry {
    /// Without authentication, in clear.
    pub async fn open() -> Registry {
        let folder = new_folder();
        Registry::start(folder, json!({}), json!({}), None, Login::None).await
    }

    /// In clear, a mirror of the registry at `url` ("pull-through cache").
    pub async fn mirror_of(url: &str) -> Registry {
        let (folder, port) = (new_folder(), free_port());
        configure_with(folder.path(), port, json!({}), json!({ "proxy": { "remoteurl": url } }));
        let daemon = spawn(folder.path());
        let mut registry = Registry { port, daemon, folder, authority: None, login: Login::None };
        registry.daemon.until_listening(address(port)).await;
        registry
    }

    /// In clear; the token server grants access.
    pub async fn with_tokens(tokens: &TokenServer) -> Registry {
        let folder = new_folder();
        let bundle = folder.path().join("tokens.crt");
        fs::write(&bundle, tokens.certificate()).expect("the bundle can be written");
        let auth = json!({ "token": {
            "realm": tokens.realm(), "service": tokens.service(), "issuer": tokens.issuer(), "rootcertbundle": bundle,
        }});
        let login = Login::Token(tokens.pusher());
        Registry::start(folder, json!({}), auth, None, login).await
    }

    /// Over TLS by a private authority, with one user who logs in by HTTP Basic.
    pub async fn with_password(user: &str, password: &str) -> Registry {
        let folder = new_folder();
        let authority = Authority::new();
        let identity = authority.issue(folder.path(), &["127.0.0.1", "localhost"]);
        let users = folder.path().join("htpasswd");
        // The lowest cost bcrypt knows: it is asked at every request.
        let hash = bcrypt::hash(password, 4).expect("a password can be hashed");
        fs::write(&users, format!("{user}:{hash}\n")).expect("the users can be written");
        let tls = json!({ "certificate": identity.certificate, "key": identity.key });
        let auth = json!({ "htpasswd": { "realm": "second", "path": users } });
        let login = Login::Basic(user.to_owned(), password.to_owned());
        Registry::start(folder, tls, auth, Some(authority), login).await
    }

    async fn start(folder: TempDir, tls: Value, auth: Value, authority: Option<Authority>, login: Login) -> Registry {
        let port = free_port();
        configure(folder.path(), port, tls, auth);
        let daemon = spawn(folder.path());
        let mut registry = Registry { port, daemon, folder, authority, login };
        registry.daemon.until_listening(address(port)).await;
        registry
    }

    /// `http://127.0.0.1:PORT`, or https when it has an authority.
    pub fn url(&self) -> String {
        let scheme = if self.authority.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// The certificate that its clients have to trust.
    pub fn authority_pem(&self) -> String {
        self.authority.as_ref().expect("this registry speaks TLS").pem()
    }

    pub fn pusher(&self) -> Pusher {
        Pusher::new(self.url(), self.authority.as_ref().map(Authority::pem), self.login.clone())
    }

    /// Puts a big blob right where the registry keeps its blobs, which is several times faster than to push it.
    ///
    /// A file with the content, and a link that lets the repository serve it (distribution,
    /// registry/storage/paths.go).
    pub fn store(&self, repository: &str, blob: &Blob) {
        store(self.folder.path(), repository, blob);
    }

    /// SIGKILL: transfers break where they are.
    pub fn kill(&mut self) {
        self.daemon.kill();
    }

    /// A new life on the same port and storage.
    pub async fn revive(&mut self) {
        self.daemon = spawn(self.folder.path());
        self.daemon.until_listening(address(self.port)).await;
    }

    /// The requests it has answered, all its lives together.
    pub fn accesses(&self) -> Vec<Access> {
        self.daemon.log().lines().filter_map(parse_access).collect()
    }

    /// How often the content of this blob was sent, whole (200) or in part (206).
    pub fn gets_of(&self, blob: &Blob) -> usize {
        self.accesses_of(blob).filter(|access| access.status == 200 || access.status == 206).count()
    }

    /// Panics unless the content of this blob was sent exactly once; the log has a moment to say so.
    pub async fn assert_one_get_of(&self, blob: &Blob) {
        until("the registry has logged a GET", async || (self.gets_of(blob) > 0).then_some(())).await;
        assert_eq!(self.gets_of(blob), 1, "GETs of {} in the upstream's own log", blob.digest);
    }

    /// How often a part of this blob was sent (206): transfers that were resumed.
    pub fn resumptions_of(&self, blob: &Blob) -> usize {
        self.accesses_of(blob).filter(|access| access.status == 206).count()
    }

    fn accesses_of(&self, blob: &Blob) -> impl Iterator<Item = Access> {
        let ending = format!("/blobs/{}", blob.digest);
        self.accesses().into_iter().filter(move |access| access.method == "GET" && access.path.ends_with(&ending))
    }

    /// The file in which it stores the blob's content.
    pub fn file_of(&self, blob: &Blob) -> PathBuf {
        file_of(self.folder.path(), blob)
    }
}

/// Writes the configuration of a registry that has this folder.
pub fn configure(folder: &Path, port: u16, tls: Value, auth: Value) {
    let further = if auth == json!({}) { json!({}) } else { json!({ "auth": auth }) };
    configure_with(folder, port, tls, further);
}

/// The same, with further sections.
fn configure_with(folder: &Path, port: u16, tls: Value, mut further: Value) {
    let mut config = json!({
        "version": "0.1",
        "log": { "level": "warn" },
        "storage": { "filesystem": { "rootdirectory": folder.join("storage") }, "delete": { "enabled": true } },
        "http": { "addr": format!("127.0.0.1:{port}"), "secret": "of this test", "tls": tls },
    });
    for (section, value) in further.as_object_mut().into_iter().flatten() {
        config[section] = value.take();
    }
    // JSON is YAML.
    fs::write(folder.join("config.yml"), config.to_string()).expect("the configuration can be written");
}

/// Puts a blob where a registry with this folder keeps its blobs, see [`Registry::store`].
pub fn store(folder: &Path, repository: &str, blob: &Blob) {
    let root = folder.join("storage/docker/registry/v2");
    let layer = root.join("repositories").join(repository).join("_layers/sha256").join(blob.hex());
    for (file, content) in [(file_of(folder, blob), &blob.bytes[..]), (layer.join("link"), blob.digest.as_bytes())] {
        fs::create_dir_all(file.parent().expect("a file is in a folder")).expect("the storage can be written");
        fs::write(file, content).expect("the storage can be written");
    }
}

fn file_of(folder: &Path, blob: &Blob) -> PathBuf {
    let hex = blob.hex();
    folder.join("storage/docker/registry/v2/blobs/sha256").join(&hex[..2]).join(hex).join("data")
}

fn new_folder() -> TempDir {
    TempDir::with_prefix("forebay-registry-").expect("a folder can be made")
}

fn address(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn spawn(folder: &Path) -> Daemon {
    let mut command = program::command("docker-registry", "docker-registry");
    command.arg("serve").arg(folder.join("config.yml"));
    Daemon::spawn("docker-registry", command, &folder.join("log"))
}

/// Apache's combined format: `127.0.0.1 - - [date] "GET /v2/ HTTP/1.1" 200 2 "" "agent"`.
fn parse_access(line: &str) -> Option<Access> {
    let (_, rest) = line.split_once("] \"")?;
    let (request, rest) = rest.split_once("\" ")?;
    let mut words = request.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    let path = target.split('?').next()?;
    let status = rest.split(' ').next()?.parse().ok()?;
    Some(Access { method: method.to_owned(), path: path.to_owned(), status })
}
