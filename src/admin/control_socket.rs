//! The control socket: where it is, who may use it, and what becomes of an old one.
//!
//! What must hold: the program and its commands look in the same places, in the same order. A socket that a forebay serves is
//! never taken from it; one that nobody serves any more is replaced. The mode is set before any client is accepted.

use std::{
    env,
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use nix::unistd::Group;
use rustix::fs::{FlockOperation, flock};
use tracing::{info, warn};

use super::Config;
use crate::state_dir::CONTROL_SOCKET;

/// The directory that the unit of systemd makes (`RuntimeDirectory=`).
const RUN: &str = "/run/forebay";

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("another forebay serves {}; give each its own admin.socket", path.display())]
    Live { path: PathBuf },
    #[error("{} is no socket; remove it, or choose another admin.socket", path.display())]
    NoSocket { path: PathBuf },
    #[error("there is no group {name}")]
    NoGroup { name: String },
    #[error("cannot give {} to the group {name}", path.display())]
    Group { path: PathBuf, name: String, source: io::Error },
    #[error("cannot listen on {}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl SocketError {
    /// Whether a retry cannot help.
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::NoSocket { .. } | Self::NoGroup { .. } | Self::Group { .. } => true,
            Self::Live { .. } => false,
            Self::Io { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::PermissionDenied
                    | io::ErrorKind::ReadOnlyFilesystem
                    | io::ErrorKind::NotADirectory
                    | io::ErrorKind::InvalidInput
            ),
        }
    }
}

/// The places of the control socket, in the order in which the program and its commands look: the configured one alone, or
/// else those that this user may have.
pub fn places(config: &Config, state_directory: Option<&Path>) -> Vec<PathBuf> {
    places_with(config, state_directory, env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from))
}

fn places_with(config: &Config, state_directory: Option<&Path>, runtime: Option<PathBuf>) -> Vec<PathBuf> {
    if let Some(path) = &config.socket {
        return vec![path.clone()];
    }
    let runtime = runtime.filter(|path| path.is_absolute()).map(|path| path.join("forebay"));
    let directories = [Some(PathBuf::from(RUN)), runtime, state_directory.map(Path::to_owned)];
    directories.into_iter().flatten().map(|directory| directory.join(CONTROL_SOCKET)).collect()
}

/// A bound socket; dropping it removes its file.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    path: PathBuf,
    /// Device and inode of the file.
    file: (u64, u64),
}

impl ControlSocket {
    /// Binds the socket in the configured place, or else in the first that can be used. Without a usable place it warns, and
    /// gives none: the mirror serves all the same. Blocks.
    ///
    /// # Errors
    /// The configured place, or the configured group, cannot be used.
    pub(crate) fn open(
        config: &Config,
        state_directory: Option<&Path>,
    ) -> Result<Option<(Self, UnixListener)>, SocketError> {
        let group = config.socket_group.as_deref().map(|name| Ok((name, group_id(name)?))).transpose()?;
        if let Some(path) = &config.socket {
            return bind(path, group).map(Some);
        }
        for path in places(config, state_directory) {
            // The unit makes its directory; root's own runs leave it alone.
            if !path.starts_with(RUN)
                && let Some(directory) = path.parent()
            {
                // What is wrong with it is told by the next step.
                let _ = DirBuilder::new().recursive(true).mode(0o700).create(directory);
            }
            match bind(&path, group) {
                Ok(bound) => return Ok(Some(bound)),
                Err(error @ SocketError::Group { .. }) => return Err(error),
                Err(error @ SocketError::Live { .. }) => warn!(%error, "this place of the control socket is taken"),
                Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "no control socket here"),
            }
        }
        warn!("there is no place for the control socket, so commands cannot ask this forebay: set admin.socket");
        Ok(None)
    }
}

impl ControlSocket {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // Another forebay may have replaced it.
        if identity(&self.path).is_some_and(|file| file == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn bind(path: &Path, group: Option<(&str, u32)>) -> Result<(ControlSocket, UnixListener), SocketError> {
    let failed = |source| SocketError::Io { path: path.to_owned(), source };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Two that start at the same time take turns: the second finds the socket of the first. Some network file systems lock no
    // directory.
    let turn = File::open(directory).map_err(failed)?;
    let _ = flock(&turn, FlockOperation::LockExclusive);
    remove_stale(path)?;
    let listener = UnixListener::bind(path).map_err(failed)?;
    let file = identity(path).ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
    // From here on it is removed on an error.
    let socket = ControlSocket { path: path.to_owned(), file };
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    if let Some((name, id)) = group {
        let refused = |source| SocketError::Group { path: path.to_owned(), name: name.to_owned(), source };
        chown(path, None, Some(id)).map_err(refused)?;
        if path.starts_with(RUN) {
            // The members must pass through the directory of the unit, too. It may belong to another user, who has seen to it.
            let _ = chown(directory, None, Some(id));
        }
    }
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    info!(path = %path.display(), mode = format!("{mode:o}"), "the control socket is open");
    Ok((socket, listener))
}

/// Removes the socket of a forebay that has ended.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let failed = |source| SocketError::Io { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(SocketError::NoSocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(SocketError::Live { path: path.to_owned() }),
        // Nobody listens on it (connect(2)).
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(failed),
        // Its queue is full: somebody listens.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(SocketError::Live { path: path.to_owned() }),
        Err(error) => Err(failed(error)),
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// The number of a group, which may also be given as a number.
fn group_id(name: &str) -> Result<u32, SocketError> {
    if let Ok(id) = name.parse() {
        return Ok(id);
    }
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) | Err(_) => Err(SocketError::NoGroup { name: name.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(socket: Option<&Path>, group: Option<&str>) -> Config {
        let (socket, socket_group) = (socket.map(Path::to_owned), group.map(str::to_owned));
        Config { socket, socket_group, ..Config::default() }
    }

    #[test]
    fn the_places_are_in_a_fixed_order() {
        let state = Some(Path::new("/var/lib/forebay"));
        for (socket, state, runtime, expected) in [
            (Some("/x/a.sock"), state, Some("/run/user/7"), &["/x/a.sock"][..]),
            (
                None,
                state,
                Some("/run/user/7"),
                &["/run/forebay/control.sock", "/run/user/7/forebay/control.sock", "/var/lib/forebay/control.sock"],
            ),
            (None, state, Some("relative"), &["/run/forebay/control.sock", "/var/lib/forebay/control.sock"]),
            (None, None, None, &["/run/forebay/control.sock"]),
        ] {
            let found = places_with(&config(socket.map(Path::new), None), state, runtime.map(PathBuf::from));
            assert_eq!(found, expected.iter().map(PathBuf::from).collect::<Vec<_>>());
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn the_mode_is_for_its_user_or_for_the_group_that_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let own = rustix::process::getegid().as_raw();
        for (group, expected) in [(None, 0o600), (Some(own.to_string()), 0o660)] {
            let opened = ControlSocket::open(&config(Some(&path), group.as_deref()), None).unwrap().unwrap();
            assert_eq!((mode(&path), fs::metadata(&path).unwrap().gid()), (expected, own));
            drop(opened);
            assert!(!path.exists(), "it is removed at the end");
        }
        let none = ControlSocket::open(&config(Some(&path), Some("no-such-group")), None);
        assert!(matches!(none, Err(SocketError::NoGroup { .. })), "{none:?}");
    }

    #[test]
    fn a_live_socket_is_an_error_and_a_stale_one_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let config = config(Some(&path), None);
        let (first, listener) = ControlSocket::open(&config, None).unwrap().unwrap();
        let second = ControlSocket::open(&config, None);
        assert!(matches!(second, Err(SocketError::Live { .. })), "{second:?}");
        assert!(path.exists());
        // As a kill leaves it.
        drop(listener);
        std::mem::forget(first);
        let (third, _listener) = ControlSocket::open(&config, None).unwrap().unwrap();
        assert!(UnixStream::connect(&path).is_ok());
        drop(third);
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        fs::write(&path, "theirs").unwrap();
        let opened = ControlSocket::open(&config(Some(&path), None), None);
        assert!(matches!(opened, Err(SocketError::NoSocket { .. })), "{opened:?}");
        assert_eq!(fs::read(&path).unwrap(), b"theirs");
    }

    #[test]
    fn the_socket_of_another_forebay_is_not_removed_at_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let (first, _listener) = ControlSocket::open(&config(Some(&path), None), None).unwrap().unwrap();
        fs::remove_file(&path).unwrap();
        // The inode may be used again at once.
        fs::write(directory.path().join("between"), "").unwrap();
        let _second = UnixListener::bind(&path).unwrap();
        drop(first);
        assert!(path.exists());
    }
}
