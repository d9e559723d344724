//! Whether a peer is dead: no request goes there for a while.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// How long a peer that did not answer is left alone.
pub(super) const DEAD_TIME: Duration = Duration::from_secs(10);

/// The state of one peer.
#[derive(Debug, Default)]
pub(super) struct Liveness(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    dead_until: Option<Instant>,
    /// It has not answered since it died.
    is_down: bool,
}

impl Liveness {
    pub(super) fn is_alive(&self) -> bool {
        self.0.lock().dead_until.is_none_or(|until| until <= Instant::now())
    }

    /// Whether it has not answered since it died. It may be asked again.
    pub(super) fn is_down(&self) -> bool {
        self.0.lock().is_down
    }

    /// Notes that the peer did not answer; whether it had answered before.
    pub(super) fn died(&self) -> bool {
        let mut state = self.0.lock();
        state.dead_until = Some(Instant::now() + DEAD_TIME);
        !std::mem::replace(&mut state.is_down, true)
    }

    /// Notes that the peer answered; whether it had been dead.
    pub(super) fn answered(&self) -> bool {
        let mut state = self.0.lock();
        state.dead_until = None;
        std::mem::take(&mut state.is_down)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_dead_peer_is_left_alone_for_a_while() {
        let liveness = Liveness::default();
        assert!(liveness.is_alive() && !liveness.answered());
        assert!(liveness.died(), "told once");
        assert!(!liveness.died() && !liveness.is_alive());
        tokio::time::advance(DEAD_TIME).await;
        assert!(liveness.is_alive() && liveness.is_down(), "it is asked again");
        assert!(!liveness.died() && !liveness.is_alive(), "it is still down: not told again");
        assert!(liveness.answered() && liveness.is_alive() && !liveness.is_down());
        assert!(!liveness.answered() && liveness.died());
    }
}
