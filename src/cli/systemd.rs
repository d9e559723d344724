//! The service manager: its sockets, and notifications to it (ready, reloading, stopping, alive).
//!
//! Without a service manager nothing here has an effect. Source: sd_notify(3),
//! sd_listen_fds(3).

use std::{env, net::TcpListener, time::Duration};

use anyhow::Context as _;
use forebay::app::Inherited;
use listenfd::ListenFd;
use sd_notify::NotifyState;
use tracing::{info, warn};

/// The name (`FileDescriptorName=`) of a socket for the admin listener.
const ADMIN_SOCKET: &str = "admin";

/// Takes the sockets of a socket unit: one named `admin` is the admin listener's, all others are
/// the registry's.
///
/// Must be called while the process has one thread: it takes the variables out of the environment.
///
/// # Errors
/// A socket is not a listening TCP socket.
pub(super) fn inherited_sockets() -> anyhow::Result<Inherited> {
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut sockets = ListenFd::from_env();
    let mut taken = Vec::with_capacity(sockets.len());
    for index in 0..sockets.len() {
        let socket = sockets.take_tcp_listener(index);
        let socket = socket.with_context(|| format!("socket {index} of the socket unit cannot be listened on"))?;
        taken.extend(socket);
    }
    Ok(sort(taken, &names))
}

fn sort(sockets: Vec<TcpListener>, names: &str) -> Inherited {
    let mut names = names.split(':');
    let mut inherited = Inherited { registry: Vec::new(), admin: None };
    for socket in sockets {
        if names.next() == Some(ADMIN_SOCKET) && inherited.admin.is_none() {
            inherited.admin = Some(socket);
        } else {
            inherited.registry.push(socket);
        }
    }
    inherited
}

/// Tells the service manager that forebay answers requests.
pub(super) fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Tells the service manager that forebay reads the configuration again; `ready` must follow, even after an error.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => warn!(%error, "cannot read the clock, so the service manager is not notified of the reload"),
    }
}

/// Tells the service manager that forebay finishes running responses, which may take up to `drain`.
pub(super) fn stopping(drain: Duration) {
    // Longer than the drain: after it, the app gives other tasks ten seconds to end.
    let extended = u32::try_from((drain + Duration::from_secs(15)).as_micros()).unwrap_or(u32::MAX);
    notify(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(extended)]);
}

/// Notifies the watchdog while the runtime runs this task. If the runtime is stuck, the service manager restarts the
/// service.
pub(super) async fn keep_watchdog_quiet() {
    let Some(timeout) = sd_notify::watchdog_enabled().filter(|timeout| !timeout.is_zero()) else { return };
    info!(timeout_seconds = timeout.as_secs_f64(), "the service manager watches over this process");
    // Half the timeout, as sd_watchdog_enabled(3) recommends.
    let mut turns = tokio::time::interval(timeout / 2);
    turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        notify(&[NotifyState::Watchdog]);
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "cannot notify the service manager");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_named_admin_is_the_admin_listeners() {
        let cases: [(&str, usize, Option<usize>); 6] = [
            ("", 2, None),
            ("registry:registry", 2, None),
            ("forebay.socket:admin", 2, Some(1)),
            ("admin:forebay.socket", 2, Some(0)),
            ("admin:admin", 2, Some(0)),
            ("admin", 1, Some(0)),
        ];
        for (names, count, admin) in cases {
            let sockets: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
            let addresses: Vec<_> = sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
            let inherited = sort(sockets, names);
            let found = inherited.admin.map(|socket| socket.local_addr().unwrap());
            assert_eq!(found, admin.map(|index| addresses[index]), "{names}");
            assert_eq!(inherited.registry.len(), count - usize::from(admin.is_some()), "{names}");
        }
    }
}
