//! How many connections a download should use (pure).
//!
//! Connections are added as long as each step raises the rate *from the upstream as a whole*: bytes that one download
//! takes from another are no gain. No connection is added for a download that is nearly complete, for an upstream that
//! sends nothing, or while the local disk or the rate of the upstream (`max_rate_in`) is the bottleneck.

use std::{collections::VecDeque, time::Duration};

/// The interval between samples.
pub(super) const TICK: Duration = Duration::from_millis(50);
/// How long a rate is measured before it counts.
const MEASURE: Duration = Duration::from_millis(250);
/// The same in ticks.
const MEASURED: usize = 5;
/// How long new connections may take to reach their rate before they are judged.
const WARM_UP: Duration = Duration::from_millis(450);
/// After this time, new connections are judged if their gain is clear.
const EARLY: Duration = Duration::from_millis(100);
/// A download that needs less than this time at the present rate is not worth another request.
const WORTH_IT: Duration = Duration::from_secs(1);
/// Nor is a download that has fewer bytes left than this.
const SMALLEST: u64 = 8 * 1024 * 1024;
/// A gain is measured as a part of what the new connections would bring if they were as fast as the earlier ones. This
/// much is enough to add at once [`STRIDE`] connections for each existing one: a connection that is opened late helps
/// only with a small rest of the blob …
const CLEAR_GAIN: f64 = 0.7;
const STRIDE: usize = 2;
/// … and this much is enough to add half as many as there are.
const GAIN: f64 = 0.3;
/// An upstream that sent nothing in this many ticks stands still.
const STILL: usize = 2;
/// If more than this part of the time is spent waiting for the disk, the upstream is not the bottleneck.
const DISK_BOUND: f64 = 0.25;

/// The measurements of one tick. All counters only grow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample {
    /// The time since the download began.
    pub at: Duration,
    /// Bytes received by this download.
    pub download: u64,
    /// Bytes received from the upstream by all downloads.
    pub upstream: u64,
    /// Bytes that no extra connection has requested and that have not arrived yet.
    pub missing: u64,
    /// Connections in use, without those that are being opened.
    pub connections: usize,
    pub opening: usize,
    /// For how long the download did not read from the upstream because the disk was busy.
    pub stalled: Duration,
    /// For how long the rate of the upstream held bytes of the download back.
    pub held: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Change nothing for now.
    Stay,
    /// Open this many more connections.
    Add(usize),
    /// Change nothing any more.
    Settle,
}

/// Decides on the connections of one download.
#[derive(Debug)]
pub(super) struct ConnectionRamp {
    most: usize,
    /// The last samples since the number of connections changed, as many as a rate is measured over.
    seen: VecDeque<Sample>,
    /// The time of that change.
    since: Duration,
    /// The rates before connections were added.
    before: Option<Rates>,
    settled: bool,
}

#[derive(Clone, Copy, Debug)]
struct Rates {
    connections: usize,
    /// Bytes per second.
    download: f64,
    upstream: f64,
}

impl ConnectionRamp {
    /// Allows at most `most` connections.
    pub(super) fn new(most: usize) -> Self {
        Self { most, seen: VecDeque::new(), since: Duration::ZERO, before: None, settled: most < 2 }
    }

    pub(super) fn is_settled(&self) -> bool {
        self.settled
    }

    /// Bytes per second and connection, once measured.
    #[expect(clippy::cast_precision_loss, reason = "the count is far below 2^53")]
    pub(super) fn each(&self) -> Option<f64> {
        let rates = self.rates()?;
        (rates.download > 0.0).then(|| rates.download / rates.connections.max(1) as f64)
    }

    /// The decision after `sample`.
    pub(super) fn see(&mut self, sample: Sample) -> Decision {
        let changed = self.seen.back().is_some_and(|last| last.connections != sample.connections);
        let still = self.seen.len() > STILL
            && self.seen[self.seen.len() - STILL].download == sample.download
            && self.before.is_none();
        if changed || still || sample.opening > 0 {
            self.seen.clear();
        }
        if self.seen.is_empty() {
            self.since = sample.at;
        } else if self.seen.len() > MEASURED {
            self.seen.pop_front();
        }
        self.seen.push_back(sample);
        if self.settled || sample.opening > 0 {
            return Decision::Stay;
        }
        let (Some(rates), Some(first)) = (self.rates(), self.seen.front()) else { return Decision::Stay };
        let measured = sample.at.saturating_sub(self.since);
        if let Some(before) = self.before {
            return self.judge(before, rates, measured, sample);
        }
        let stalled = sample.stalled.saturating_sub(first.stalled);
        let window = sample.at.saturating_sub(first.at);
        // The rate is for the upstream as a whole: with more connections no more would come.
        let is_held = sample.held > first.held;
        if measured < MEASURE || is_held || stalled.as_secs_f64() > window.as_secs_f64() * DISK_BOUND {
            return Decision::Stay;
        }
        self.add(rates, sample, 1)
    }

    /// Decides by the gain of the connections that were added.
    fn judge(&mut self, before: Rates, rates: Rates, measured: Duration, sample: Sample) -> Decision {
        #[expect(clippy::cast_precision_loss, reason = "the count is far below 2^53")]
        let hoped = before.download * (rates.connections as f64 / before.connections.max(1) as f64 - 1.0);
        let gained = rates.upstream - before.upstream;
        if hoped <= 0.0 {
            return self.settle();
        }
        if measured >= EARLY && gained >= hoped * CLEAR_GAIN {
            return self.add(rates, sample, STRIDE * sample.connections);
        }
        if measured < WARM_UP {
            return Decision::Stay;
        }
        if gained >= hoped * GAIN { self.add(rates, sample, sample.connections.div_ceil(2)) } else { self.settle() }
    }

    /// Adds up to `more` connections, if enough bytes are left for them.
    #[expect(clippy::cast_precision_loss, reason = "of bytes, to compare them with rates")]
    fn add(&mut self, rates: Rates, sample: Sample, more: usize) -> Decision {
        if sample.connections >= self.most {
            return self.settle();
        }
        if sample.missing < SMALLEST || (sample.missing as f64) < rates.download * WORTH_IT.as_secs_f64() {
            // Later even fewer bytes are left.
            return if rates.download > 0.0 { self.settle() } else { Decision::Stay };
        }
        self.before = Some(rates);
        Decision::Add(more.min(self.most - sample.connections))
    }

    fn settle(&mut self) -> Decision {
        self.settled = true;
        Decision::Settle
    }

    #[expect(clippy::cast_precision_loss, reason = "of bytes, to make rates of them")]
    fn rates(&self) -> Option<Rates> {
        let (first, last) = (self.seen.front()?, self.seen.back()?);
        let seconds = last.at.saturating_sub(first.at).as_secs_f64();
        if seconds <= 0.0 {
            return None;
        }
        let rate = |bytes: fn(&Sample) -> u64| bytes(last).saturating_sub(bytes(first)) as f64 / seconds;
        Some(Rates { connections: last.connections, download: rate(|s| s.download), upstream: rate(|s| s.upstream) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    /// A simulated upstream: bytes per tick for a number of connections.
    struct Line {
        per_tick: fn(usize) -> u64,
        /// What other downloads take from the same upstream concurrently, in bytes per tick.
        others: fn(usize) -> u64,
        /// How many ticks opening a connection takes.
        delay: usize,
        stalled: Duration,
        /// For how long the rate holds bytes back in each tick.
        held: fn(usize) -> Duration,
        len: u64,
    }

    const LINE: Line = Line {
        per_tick: |_| MIB,
        others: |_| 0,
        delay: 2,
        stalled: Duration::ZERO,
        held: |_| Duration::ZERO,
        len: 256 * MIB,
    };

    /// The final number of connections, and the tick of the last change.
    fn drive(line: &Line, most: usize) -> (usize, usize) {
        let mut ramp = ConnectionRamp::new(most);
        let (mut download, mut upstream, mut stalled, mut held) = (0, 0, Duration::ZERO, Duration::ZERO);
        let (mut connections, mut opening, mut opened_at, mut changed) = (1, 0, 0, 0);
        for tick in 0..2000 {
            if opening > 0 && tick >= opened_at {
                connections += opening;
                opening = 0;
            }
            if tick > 0 {
                download += (line.per_tick)(connections);
                upstream += (line.per_tick)(connections) + (line.others)(connections);
                stalled += line.stalled;
                held += (line.held)(connections);
            }
            if download >= line.len {
                break;
            }
            let at = TICK * tick as u32;
            let missing = line.len - download;
            let sample = Sample { at, download, upstream, missing, connections, opening, stalled, held };
            match ramp.see(sample) {
                Decision::Add(more) => {
                    assert!(opening == 0 && more > 0 && connections + more <= most);
                    (opening, opened_at, changed) = (more, tick + line.delay, tick);
                }
                Decision::Stay | Decision::Settle => {}
            }
        }
        (connections, changed)
    }

    #[test]
    fn connections_are_added_while_each_step_brings_more() {
        for (what, line, most, expected) in [
            ("each connection is throttled", Line { per_tick: |n| MIB * n as u64, ..LINE }, 6, 6),
            ("and there may be many", Line { per_tick: |n| MIB * n as u64, len: 1024 * MIB, ..LINE }, 16, 16),
            ("or two", Line { per_tick: |n| MIB * n as u64, ..LINE }, 2, 2),
            ("or one", Line { per_tick: |n| MIB * n as u64, ..LINE }, 1, 1),
            ("the line as a whole is throttled", LINE, 6, 2),
            (
                "the line has room for four",
                Line { per_tick: |n| MIB * n.min(4) as u64, len: 1024 * MIB, ..LINE },
                16,
                9,
            ),
            ("a slow line that opens slowly", Line { per_tick: |n| MIB / 8 * n as u64, delay: 20, ..LINE }, 6, 6),
            (
                "what is gained is taken from others",
                Line { per_tick: |n| MIB * n as u64, others: |n| 8 * MIB - MIB * n as u64, ..LINE },
                6,
                2,
            ),
            ("it is done in a second", Line { per_tick: |n| 15 * MIB * n as u64, ..LINE }, 6, 1),
            ("it is small", Line { per_tick: |n| 1024 * n as u64, len: SMALLEST, ..LINE }, 6, 1),
            ("the disk is slow", Line { per_tick: |n| MIB * n as u64, stalled: TICK / 2, ..LINE }, 6, 1),
            (
                "the rate holds it back",
                Line { per_tick: |n| MIB * n as u64, held: |_| Duration::from_micros(1), ..LINE },
                6,
                1,
            ),
            (
                "the rate holds back what more than two bring",
                Line {
                    per_tick: |n| MIB * n.min(2) as u64,
                    held: |n| if n > 2 { TICK } else { Duration::ZERO },
                    len: 1024 * MIB,
                    ..LINE
                },
                16,
                6,
            ),
            ("nothing comes", Line { per_tick: |_| 0, ..LINE }, 6, 1),
        ] {
            assert_eq!(drive(&line, most).0, expected, "{what}");
        }
    }

    #[test]
    fn six_throttled_connections_are_asked_for_within_half_a_second() {
        let (connections, ticks) = drive(&Line { per_tick: |n| MIB * n as u64, ..LINE }, 6);
        assert!(connections == 6 && TICK * ticks as u32 <= Duration::from_millis(500), "{ticks} ticks");
    }

    #[test]
    fn a_line_that_stands_still_after_a_start_is_not_slow() {
        let mut ramp = ConnectionRamp::new(6);
        for tick in 0..100 {
            let download = MIB * u64::from(tick.min(3));
            let sample = Sample {
                at: TICK * tick,
                download,
                upstream: download,
                missing: 100 * MIB,
                connections: 1,
                opening: 0,
                stalled: Duration::ZERO,
                held: Duration::ZERO,
            };
            assert_eq!(ramp.see(sample), Decision::Stay, "tick {tick}");
        }
    }
}
