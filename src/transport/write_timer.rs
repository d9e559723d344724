//! Bounds how long the writes of one connection may stay pending.
//!
//! What must hold: only a pending write runs the clock; a response that waits for its upstream has nothing to write. The clock
//! restarts with every byte that the client's kernel takes, so a slow client is not a stalled one; a client that takes less
//! than [`MinRate`] requires is too slow all the same.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    net::TcpStream,
    time::{Instant, Sleep},
};

use super::{recipient::Recipient, reset_flag::ResetFlag, send_rate::MinRate, zero_copy::unacknowledged::queued};

/// The send queue of the kernel is read for the first time after this part of the stall timeout.
const FIRST_CHECK: u32 = 100;

/// The clock of one connection.
pub(super) struct WriteTimer {
    stall: Duration,
    /// Present while a write is pending.
    pending: Option<Box<PendingWrite>>,
    /// Present once a write was pending.
    rate: Option<Box<MinRate>>,
    recipient: Recipient,
    reset: ResetFlag,
}

/// A write that waits for the client.
struct PendingWrite {
    clock: Pin<Box<Sleep>>,
    since: Instant,
    /// Up to when the rate has counted the time.
    counted: Instant,
    /// The send queue was read since.
    checked: bool,
}

impl WriteTimer {
    /// A timer that sets `reset` when the client is too slow.
    pub(super) fn new(stall: Duration, reset: ResetFlag) -> WriteTimer {
        WriteTimer { stall, pending: None, rate: None, recipient: Recipient::default(), reset }
    }

    /// The client as the recipient of what is written here.
    pub(super) fn recipient(&self) -> Recipient {
        self.recipient.clone()
    }

    /// The client took so many bytes.
    ///
    /// # Errors
    /// It is too slow all in all.
    pub(super) fn wrote(&mut self, tcp: &TcpStream, bytes: usize) -> io::Result<()> {
        self.recipient.meter.took(bytes as u64);
        let Some(rate) = &mut self.rate else { return Ok(()) };
        rate.took(bytes);
        self.resume(tcp)
    }

    /// No write waits for the client any more.
    ///
    /// # Errors
    /// It is too slow all in all.
    pub(super) fn resume(&mut self, tcp: &TcpStream) -> io::Result<()> {
        let (Some(rate), Some(pending)) = (&mut self.rate, self.pending.take()) else { return Ok(()) };
        self.recipient.meter.goes_on();
        if rate.waited(pending.counted.elapsed(), || queued(tcp)) { Ok(()) } else { Err(self.too_slow()) }
    }

    /// A write is pending. Ready with an error once the client has stalled or is too slow.
    pub(super) fn poll_pending(&mut self, cx: &mut Context<'_>, tcp: &TcpStream) -> Poll<io::Error> {
        let stall = self.stall;
        let rate = self.rate.get_or_insert_with(|| Box::new(MinRate::new(stall)));
        let left = rate.left();
        let pending = self.pending.get_or_insert_with(|| {
            let now = Instant::now();
            self.recipient.meter.waits();
            let clock = Box::pin(tokio::time::sleep((stall / FIRST_CHECK).min(left)));
            Box::new(PendingWrite { clock, since: now, counted: now, checked: false })
        });
        loop {
            ready!(pending.clock.as_mut().poll(cx));
            let now = Instant::now();
            let queued = queued(tcp);
            // This kernel may take nothing for long although the client's kernel takes something from its queue.
            if queued.is_some_and(|queued| rate.look(queued)) && pending.checked {
                pending.since = now;
            }
            pending.checked = true;
            let is_fast_enough = rate.waited(now - pending.counted, || queued);
            pending.counted = now;
            let pending_for = now - pending.since;
            if !is_fast_enough || pending_for >= stall {
                return Poll::Ready(self.too_slow());
            }
            pending.clock.as_mut().reset(now + rate.left().min(stall - pending_for));
        }
    }

    /// Notes a stall if the kernel gave up a pending write (`TCP_USER_TIMEOUT`) before this clock did.
    pub(super) fn note_timeout<T>(&self, result: &io::Result<T>) {
        if self.pending.is_some() && result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::TimedOut) {
            self.reset.set_stalled();
        }
    }

    fn too_slow(&self) -> io::Error {
        self.reset.set_stalled();
        io::Error::new(io::ErrorKind::TimedOut, "the client takes too little of its response")
    }
}
