//! Which upstreams an operator has paused.
//!
//! What must hold: a paused upstream gets no request of any kind. A pause outlasts a reload and ends with the process. To
//! look whether there is one costs a request next to nothing.

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;

use super::{
    Config,
    error::{Error, ErrorKind},
};
use crate::metrics::Metrics;

/// The pauses of all upstreams, by their names. A cheap handle.
#[derive(Clone, Debug, Default)]
pub struct PauseTable(Arc<Mutex<HashMap<Arc<str>, Pause>>>);

impl PauseTable {
    pub(super) fn of(&self, name: &Arc<str>) -> Pause {
        self.0.lock().entry(name.clone()).or_default().clone()
    }

    /// Forgets all but these upstreams. One that is removed and comes back is not paused.
    pub fn keep(&self, upstreams: &[Config], metrics: &Metrics) {
        self.0.lock().retain(|name, pause| {
            let is_kept = upstreams.iter().any(|upstream| upstream.name == *name);
            if !is_kept && pause.end().is_some() {
                metrics.upstream_paused(name, false);
            }
            is_kept
        });
    }
}

/// The switch of one upstream. A cheap handle.
#[derive(Clone, Debug, Default)]
pub(super) struct Pause(Arc<ArcSwapOption<SystemTime>>);

impl Pause {
    /// Since when the upstream is paused.
    pub(super) fn since(&self) -> Option<SystemTime> {
        self.0.load().as_deref().copied()
    }

    /// Begins a pause at `now`. `false`: the upstream was paused already, and stays so since then.
    pub(super) fn begin(&self, now: SystemTime) -> bool {
        self.0.compare_and_swap(&None::<Arc<SystemTime>>, Some(Arc::new(now))).is_none()
    }

    /// Ends the pause, if there is one, and returns since when it lasted.
    pub(super) fn end(&self) -> Option<SystemTime> {
        self.0.swap(None).as_deref().copied()
    }

    /// # Errors
    /// The upstream is paused: it gets no request.
    pub(super) fn admit(&self, upstream: &str) -> Result<(), Error> {
        match self.since() {
            None => Ok(()),
            Some(_) => Err(Error::new(ErrorKind::Paused, format!("an operator of this mirror has paused {upstream}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_pause_lasts_from_its_first_begin_to_its_end() {
        let (pause, then) = (Pause::default(), SystemTime::UNIX_EPOCH);
        assert!(pause.admit("x.io").is_ok() && pause.end().is_none());
        assert!(pause.begin(then));
        assert!(!pause.begin(then + Duration::from_secs(1)));
        assert_eq!(pause.since(), Some(then));
        assert_eq!(pause.admit("x.io").unwrap_err().kind, ErrorKind::Paused);
        assert_eq!((pause.end(), pause.end(), pause.since()), (Some(then), None, None));
    }

    #[test]
    fn a_removed_upstream_is_not_paused_when_it_comes_back() {
        let (table, metrics) = (PauseTable::default(), Metrics::new().unwrap());
        let names: [Arc<str>; 2] = ["x.io".into(), "y.io".into()];
        names.iter().for_each(|name| assert!(table.of(name).begin(SystemTime::UNIX_EPOCH)));
        table.keep(&[Config::at("x.io", &["https://x.io"])], &metrics);
        assert_eq!(names.each_ref().map(|name| table.of(name).since().is_some()), [true, false]);
        assert!(metrics.encode().unwrap().contains("forebay_upstream_paused{upstream=\"y.io\"} 0"));
    }
}
