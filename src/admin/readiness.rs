//! Whether this process is ready for clients.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

/// Whether this process is ready for clients. A cheap handle.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<AtomicU8>);

/// What a [`Readiness`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    Starting,
    Ready,
    Draining,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Ready => "ready",
            State::Draining => "draining",
        }
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Readiness(Arc::new(AtomicU8::new(State::Starting as u8)))
    }
}

impl Readiness {
    pub fn set_ready(&self) {
        self.0.store(State::Ready as u8, Ordering::Relaxed);
    }

    pub fn set_draining(&self) {
        self.0.store(State::Draining as u8, Ordering::Relaxed);
    }

    pub fn state(&self) -> State {
        match self.0.load(Ordering::Relaxed) {
            n if n == State::Ready as u8 => State::Ready,
            n if n == State::Draining as u8 => State::Draining,
            _ => State::Starting,
        }
    }
}
