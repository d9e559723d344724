//! The control socket: where it is, who may use it, and what becomes of an old one.
//!
//! What must hold: the program and its commands look in the same places, in the same order. A socket that a forebay serves is
//! never taken from it; one whose forebay has ended is replaced. The mode is set before any client is accepted. Group and mode
//! are those of the socket, whatever another user puts in its place meanwhile. No other process delays the start for long.

use std::{
    env,
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::{
        fd::AsRawFd as _,
        unix::{
            fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::unistd::Group;
use rustix::fs::{AtFlags, FlockOperation, Gid, Mode, OFlags, chownat, flock, open};
use socket2::{Domain, SockAddr, Socket, Type};
use tracing::{info, warn};

use super::Config;
use crate::state_dir::CONTROL_SOCKET;

/// The directory that the unit of systemd makes (`RuntimeDirectory=`).
const RUN: &str = "/run/forebay";
/// How long a start waits for another one in the same directory, which takes milliseconds.
const TURN_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a start waits for the queue of a socket that may be served.
const PROBE_TIMEOUT: Duration = Duration::from_millis(100);

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
    let runtime = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let own = rustix::process::geteuid().as_raw();
    places_with(config, state_directory, runtime.filter(|path| !is_of_another_user(path, own)))
}

/// Whether another user could replace what is in a directory. The variable outlives `sudo -E`, for example.
/// Source: XDG Base Directory Specification.
fn is_of_another_user(directory: &Path, own: u32) -> bool {
    fs::metadata(directory).is_ok_and(|metadata| metadata.uid() != own)
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
            // The unit makes its directory; root's own runs do not create it.
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
    let turn = take_turn(directory);
    remove_stale(path)?;
    let listener = UnixListener::bind(path).map_err(failed)?;
    // Another user of the directory may replace the file: what follows is about this one, whatever the path names then.
    let opened = open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
    let opened = File::from(opened.map_err(|errno| failed(errno.into()))?);
    let metadata = opened.metadata().map_err(failed)?;
    if !metadata.file_type().is_socket() {
        return Err(SocketError::NoSocket { path: path.to_owned() });
    }
    // From here on it is removed on an error.
    let socket = ControlSocket { path: path.to_owned(), file: (metadata.dev(), metadata.ino()) };
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    if let Some((name, id)) = group {
        let refused = |source| SocketError::Group { path: path.to_owned(), name: name.to_owned(), source };
        give(&opened, id).map_err(refused)?;
        if path.starts_with(RUN) {
            // The members must pass through the directory of the unit, too. It may belong to another user, who has seen to it.
            let _ = File::open(directory).and_then(|directory| give(&directory, id));
        }
    }
    // chmod(2) takes no descriptor of O_PATH but by this name: open(2).
    let name = format!("/proc/self/fd/{}", opened.as_raw_fd());
    fs::set_permissions(name, Permissions::from_mode(mode)).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    drop(turn);
    info!(path = %path.display(), mode = format!("{mode:o}"), "the control socket is open");
    Ok((socket, listener))
}

/// Gives a file to a group. The sandbox of the unit allows no chown(2), and needs none with `Group=`.
fn give(file: &File, group: u32) -> io::Result<()> {
    if file.metadata()?.gid() == group {
        return Ok(());
    }
    Ok(chownat(file, c"", None, Some(Gid::from_raw(group)), AtFlags::EMPTY_PATH)?)
}

/// Two that start at the same time take turns: the second finds the socket of the first. Without a turn after a while (any
/// user who may read the directory can lock it, and some network file systems lock none) the start goes on all the same.
fn take_turn(directory: &Path) -> Option<File> {
    // Opening a pipe would wait for a writer.
    let file = File::from(open(directory, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?);
    let deadline = Instant::now() + TURN_TIMEOUT;
    while let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if error != rustix::io::Errno::WOULDBLOCK || Instant::now() >= deadline {
            return None;
        }
        thread::sleep(Duration::from_millis(10));
    }
    Some(file)
}

/// Connects to a Unix socket. `most`: how long to wait while the queue of its listener is full; then the error is of the kind
/// [`io::ErrorKind::WouldBlock`]. Source: unix(7), socket(7) on `SO_SNDTIMEO`. Blocks.
///
/// # Errors
/// No program listens there, or this user may not connect.
pub fn connect(path: &Path, most: Duration) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_write_timeout(Some(most))?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket.into())
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
    match connect(path, PROBE_TIMEOUT) {
        Ok(_) => Err(SocketError::Live { path: path.to_owned() }),
        // No program listens on it (connect(2)).
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(failed),
        // A program listens, and its queue is full.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(SocketError::Live { path: path.to_owned() }),
        Err(error) => Err(failed(error)),
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// The number of a group, which may also be given as a number.
fn group_id(name: &str) -> Result<u32, SocketError> {
    let id = match name.parse() {
        Ok(id) => Some(id),
        Err(_) => Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw()),
    };
    // chown(2) takes the largest number for "leave it as it is".
    id.filter(|id| *id != u32::MAX).ok_or_else(|| SocketError::NoGroup { name: name.to_owned() })
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
        // Only root may give it to any group.
        match ControlSocket::open(&config(Some(&path), Some(&(own + 1).to_string())), None) {
            Ok(_opened) => assert_eq!((mode(&path), fs::metadata(&path).unwrap().gid()), (0o660, own + 1)),
            Err(error) => assert!(matches!(error, SocketError::Group { .. }) && !path.exists(), "{error}"),
        }
        for group in ["no-such-group", "4294967295", "-1", ""] {
            let none = ControlSocket::open(&config(Some(&path), Some(group)), None);
            assert!(matches!(none, Err(SocketError::NoGroup { .. })), "{none:?}");
        }
    }

    #[test]
    fn a_socket_whose_queue_is_full_is_live() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        socket.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        socket.listen(0).unwrap();
        let mut waiting = Vec::new();
        while let Ok(client) = connect(&path, Duration::from_millis(1)) {
            waiting.push(client);
        }
        let opened = ControlSocket::open(&config(Some(&path), None), None);
        assert!(matches!(opened, Err(SocketError::Live { .. })), "{opened:?}");
        assert!(path.exists());
    }

    #[test]
    fn a_directory_that_another_process_locks_delays_no_start() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let lock = File::open(directory.path()).unwrap();
        flock(&lock, FlockOperation::LockExclusive).unwrap();
        let opened = ControlSocket::open(&config(Some(&path), None), None);
        assert!(opened.unwrap().is_some());
    }

    #[test]
    fn only_a_directory_of_this_user_is_one_for_the_socket() {
        let directory = tempfile::tempdir().unwrap();
        let own = fs::metadata(directory.path()).unwrap().uid();
        assert!(!is_of_another_user(directory.path(), own));
        assert!(is_of_another_user(directory.path(), own + 1));
        assert!(!is_of_another_user(&directory.path().join("none"), own + 1));
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
