//! What changed within a second: the upstreams' states, and how much was evicted.
//!
//! What must hold: there is an event for each upstream and one for all evictions in a second, however much happens.

use serde_json::json;

use super::{events::Event, upstreams};
use crate::{cache::EvictionTotals, upstream::Upstream};

/// What is looked at.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Seen {
    pub evicted: EvictionTotals,
    /// The states by the names of upstreams.
    pub states: Vec<(String, upstreams::State)>,
}

impl Seen {
    pub(super) fn now(evicted: EvictionTotals, upstreams: &[Upstream]) -> Self {
        let state = |upstream: &Upstream| (upstream.name().to_string(), upstreams::State::of(upstream));
        Self { evicted, states: upstreams.iter().map(state).collect() }
    }

    /// What differs from an earlier look.
    pub(super) fn since(&self, earlier: &Self) -> Vec<Event> {
        let mut events = Vec::new();
        let EvictionTotals { bytes, objects } = self.evicted.since(earlier.evicted);
        if objects > 0 {
            events.push(Event { name: "evicted", data: json!({ "bytes": bytes, "objects": objects }) });
        }
        for (name, state) in &self.states {
            let before = earlier.states.iter().find(|(known, _)| known == name).map(|(_, state)| *state);
            // A reload may have added it.
            let before = before.unwrap_or(upstreams::State::Unknown);
            if before != *state {
                let data = json!({ "name": name, "state": state.as_str(), "before": before.as_str() });
                events.push(Event { name: "upstream", data });
            }
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::{super::upstreams::State, *};

    #[test]
    fn only_what_changed_is_an_event() {
        let of = |objects, states: &[(&str, State)]| Seen {
            evicted: EvictionTotals { bytes: objects * 100, objects },
            states: states.iter().map(|(name, state)| ((*name).to_owned(), *state)).collect(),
        };
        let before = of(5, &[("docker.io", State::Ok), ("quay.io", State::Paused), ("old.lan", State::Down)]);
        assert_eq!(before.since(&before), []);
        let now = of(1_000_005, &[("docker.io", State::Down), ("quay.io", State::Paused), ("new.lan", State::Unknown)]);
        let told: Vec<_> = now.since(&before).into_iter().map(|event| (event.name, event.data)).collect();
        assert_eq!(
            told,
            [
                ("evicted", json!({ "bytes": 100_000_000, "objects": 1_000_000 })),
                ("upstream", json!({ "name": "docker.io", "state": "down", "before": "ok" })),
            ]
        );
    }
}
