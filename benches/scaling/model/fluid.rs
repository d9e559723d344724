//! Bytes as a fluid: how fast they flow over lines that are shared fairly, and when each receiver has all.
//!
//! A flow brings content to a receiver. It runs no further than the flow that brings the same content to its sender.
//! The rates are max-min fair, and constant between two events: a flow begins, ends, or catches up with its sender's.

/// How near two counts of bytes are the same.
const TOLERANCE: f64 = 1.0;

/// Who sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    #[default]
    Registry,
    /// A machine of any zone.
    Machine,
    /// A machine of the same zone.
    Neighbour,
    Store,
}

/// Content on its way to one receiver, or to each of several that are alike.
#[derive(Clone, Debug, Default)]
pub struct Flow {
    /// The bytes for each receiver, and of how many blobs they are.
    pub bytes: f64,
    pub blobs: f64,
    /// How many receive them.
    pub receivers: f64,
    pub origin: Origin,
    /// The flows that bring the bytes to the senders; none: they have them. The slowest sender counts.
    pub behind: Vec<usize>,
    /// The lines it uses, each with how often it carries a byte of this flow: a sender has many receivers.
    pub uses: Vec<(usize, f64)>,
    /// The highest rate to one receiver, in bytes a second; 0: no bound of its own.
    pub most: f64,
    /// The client that wants it; others run because a flow is behind them.
    pub client: Option<usize>,
    /// What replaces it, if a client begins it when the content is in the store.
    pub stored: Option<Stored>,
}

/// A flow from the store in place of one from a forebay.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The flow whose receiver uploads the content once it has all, and how long that takes, in seconds.
    pub uploads: (usize, f64),
    pub uses: Vec<(usize, f64)>,
    pub most: f64,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    is_begun: bool,
    done: f64,
    rate: f64,
    ended_at: Option<f64>,
}

/// What came of it.
pub struct End {
    /// When the last flow ended, in seconds.
    pub seconds: f64,
    /// The flows that some client needed, and those from the store in place of others.
    pub flows: Vec<Flow>,
}

/// Lets all clients pull at once. `lines`: bytes a second of each line. A client has so many flows `at_once`, in order.
pub fn run(mut flows: Vec<Flow>, lines: &[f64], at_once: usize) -> End {
    let mut states = vec![State::default(); flows.len()];
    let mut now = 0.0;
    loop {
        begin(&mut flows, &mut states, at_once, now);
        share(&flows, &mut states, lines);
        let Some(step) = until_next_event(&flows, &states) else { break };
        now += step;
        for (flow, state) in flows.iter().zip(&mut states).filter(|(_, state)| state.is_running()) {
            state.done += state.rate * step;
            if state.done + TOLERANCE >= flow.bytes {
                state.done = flow.bytes;
                state.ended_at = Some(now);
            }
        }
    }
    let ran = flows.into_iter().zip(states).filter(|(_, state)| state.is_begun);
    End { seconds: now, flows: ran.map(|(flow, _)| flow).collect() }
}

impl State {
    fn is_running(&self) -> bool {
        self.is_begun && self.ended_at.is_none()
    }
}

/// Begins what clients want next, and what brings it to their senders.
fn begin(flows: &mut [Flow], states: &mut [State], at_once: usize, now: f64) {
    let clients = flows.iter().filter_map(|flow| flow.client).max().map_or(0, |last| last + 1);
    let mut running = vec![0; clients];
    for at in 0..flows.len() {
        let Some(client) = flows[at].client.filter(|_| states[at].ended_at.is_none()) else { continue };
        running[client] += 1;
        if running[client] > at_once || states[at].is_begun {
            continue;
        }
        if let Some(stored) = flows[at].stored.clone()
            && states[stored.uploads.0].ended_at.is_some_and(|ended| ended + stored.uploads.1 <= now)
        {
            let Stored { uses, most, .. } = stored;
            flows[at] = Flow { behind: Vec::new(), uses, most, origin: Origin::Store, ..flows[at].clone() };
        }
        let mut next = vec![at];
        while let Some(begun) = next.pop() {
            if !std::mem::replace(&mut states[begun].is_begun, true) {
                next.extend(&flows[begun].behind);
            }
        }
    }
}

/// The senders of which a flow has all that they have so far.
fn caught_up<'a>(flow: &'a Flow, state: &State, states: &'a [State]) -> impl Iterator<Item = usize> + 'a {
    let done = state.done + TOLERANCE;
    let is_running = move |sender: &State| sender.ended_at.is_none() && done >= sender.done;
    flow.behind.iter().copied().filter(move |sender| is_running(&states[*sender]))
}

/// Raises all rates alike, until a line is full, or a flow is at its bound or at the rate of its sender's.
fn share(flows: &[Flow], states: &mut [State], lines: &[f64]) {
    let mut free: Vec<usize> = (0..flows.len()).filter(|at| states[*at].is_running()).collect();
    let mut is_free: Vec<bool> = states.iter().map(State::is_running).collect();
    let mut rest = lines.to_vec();
    let mut level = 0.0;
    while !free.is_empty() {
        let mut weights = vec![0.0; lines.len()];
        for at in &free {
            flows[*at].uses.iter().for_each(|(line, weight)| weights[*line] += weight);
        }
        let of_lines = rest.iter().zip(&weights).filter(|(_, weight)| **weight > 0.0).map(|(rest, of)| rest / of);
        let of_flows = free.iter().map(|at| flows[*at].most).filter(|most| *most > 0.0).map(|most| most - level);
        let rise = of_lines.chain(of_flows).fold(f64::INFINITY, f64::min).max(0.0);
        level += rise;
        rest.iter_mut().zip(&weights).for_each(|(rest, weight)| *rest -= rise * weight);
        let is_bound = |at: &usize| {
            let flow = &flows[*at];
            let is_full = |(line, weight): &(usize, f64)| *weight > 0.0 && rest[*line] <= lines[*line] * 1e-9;
            flow.uses.iter().any(is_full) || flow.most > 0.0 && level >= flow.most * (1.0 - 1e-9)
        };
        let mut bound: Vec<usize> = free.iter().copied().filter(is_bound).collect();
        if bound.is_empty() {
            // Nothing bounds them.
            bound.clone_from(&free);
        }
        while !bound.is_empty() {
            for at in bound {
                states[at].rate = level;
                is_free[at] = false;
            }
            free.retain(|at| is_free[*at]);
            // Those that wait for what is bound rise no further.
            let waits = |at: &usize| caught_up(&flows[*at], &states[*at], states).any(|sender| !is_free[sender]);
            bound = free.iter().copied().filter(waits).collect();
        }
    }
}

/// Seconds to the next event; `None`: nothing runs.
fn until_next_event(flows: &[Flow], states: &[State]) -> Option<f64> {
    let mut next = f64::INFINITY;
    for (flow, state) in flows.iter().zip(states).filter(|(_, state)| state.is_running()) {
        if state.rate > 0.0 {
            next = next.min((flow.bytes - state.done) / state.rate);
        }
        for sender in flow.behind.iter().map(|sender| &states[*sender]).filter(|sender| sender.is_running()) {
            if sender.done > state.done + TOLERANCE && state.rate > sender.rate {
                next = next.min((sender.done - state.done) / (state.rate - sender.rate));
            }
        }
    }
    next.is_finite().then_some(next.max(1e-9))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A flow of so many bytes over these lines, for a client of its own.
    fn flow(client: usize, bytes: f64, lines: &[usize]) -> Flow {
        let uses = lines.iter().map(|line| (*line, 1.0)).collect();
        Flow { bytes, receivers: 1.0, uses, client: Some(client), ..Flow::default() }
    }

    fn seconds(flows: Vec<Flow>, lines: &[f64], at_once: usize) -> f64 {
        run(flows, lines, at_once).seconds
    }

    fn assert_near(found: f64, expected: f64) {
        assert!((found - expected).abs() < expected * 1e-3, "{found} instead of {expected}");
    }

    #[test]
    fn a_line_is_shared_and_nothing_of_it_is_lost() {
        // 10 a second: each gets 5 until the first has its 1 000, then the other gets all.
        assert_near(seconds(vec![flow(0, 1e3, &[0]), flow(1, 3e3, &[0])], &[10.0], 1), 400.0);
        // What a narrow line keeps one from taking, the other takes.
        assert_near(seconds(vec![flow(0, 1e3, &[0, 1]), flow(1, 9e3, &[0])], &[10.0, 1.0], 1), 1e3);
    }

    #[test]
    fn a_flow_with_many_receivers_fills_its_line() {
        let to_many = Flow { uses: vec![(0, 10.0)], ..flow(0, 1e3, &[]) };
        assert_near(seconds(vec![to_many], &[10.0], 1), 1e3);
    }

    #[test]
    fn bytes_stream_through_and_never_before_they_came() {
        let of_source = Flow { client: None, most: 2.0, ..flow(0, 1e4, &[0]) };
        let behind = |line| Flow { behind: vec![0], ..flow(0, 1e4, &[line]) };
        // The slower of both lines decides, whichever it is.
        assert_near(seconds(vec![of_source.clone(), behind(1)], &[10.0, 100.0], 1), 5e3);
        assert_near(seconds(vec![of_source, behind(1)], &[10.0, 1.0], 1), 1e4);
    }

    #[test]
    fn a_client_pulls_so_many_blobs_at_once() {
        let blobs = || (0..4).map(|_| Flow { most: 1.0, ..flow(0, 1e3, &[]) }).collect::<Vec<_>>();
        for (at_once, expected) in [(1, 4e3), (2, 2e3), (4, 1e3)] {
            assert_near(seconds(blobs(), &[], at_once), expected);
        }
    }

    #[test]
    fn only_what_is_needed_runs() {
        let unused = Flow { client: None, ..flow(0, 1e6, &[0]) };
        let end = run(vec![unused, flow(0, 1e3, &[0])], &[10.0], 1);
        assert_near(end.seconds, 100.0);
        assert_eq!(end.flows.len(), 1);
    }

    #[test]
    fn what_begins_after_the_upload_comes_from_the_store() {
        let first = Flow { client: None, ..flow(0, 1e3, &[0]) };
        // One client takes a blob at 1 a second; the second one begins it when it has another.
        let late = |upload| {
            let stored = Some(Stored { uploads: (0, upload), uses: Vec::new(), most: 100.0 });
            let takes = |client| Flow { behind: vec![0], most: 1.0, stored: stored.clone(), ..flow(client, 1e3, &[]) };
            let other = Flow { most: 1.0, ..flow(1, 500.0, &[]) };
            run(vec![first.clone(), takes(0), other, takes(1)], &[10.0], 1)
        };
        let origins = |end: &End| end.flows.iter().map(|flow| flow.origin).collect::<Vec<_>>();
        let (quick, slow) = (late(100.0), late(600.0));
        let last = |end: &End| origins(end).last().copied();
        assert_eq!((last(&quick), last(&slow)), (Some(Origin::Store), Some(Origin::Registry)));
        assert_near(quick.seconds, 1e3);
        assert_near(slow.seconds, 1.5e3);
    }
}
