//! What happened: counted, and told at the end.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

/// A violation is told at once, and this many of them at the end.
const MAX_TOLD: usize = 50;

/// What must never be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wrong {
    /// A client took for complete and right what was not.
    Answer,
    /// A client was told that its request is wrong, or that there is not what there is.
    Refusal,
    /// A blob cannot be had any more.
    Lost,
    /// A file that is not forebay's has changed.
    Foreign,
    Panic,
    /// A file or a pipe is still open although nothing needs it.
    Leak,
    /// forebay ended by itself, or did not end when told to.
    End,
}

#[derive(Default)]
pub struct Tally {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    counts: BTreeMap<String, u64>,
    faults: BTreeMap<&'static str, u64>,
    wrong: BTreeMap<Wrong, u64>,
    violations: Vec<String>,
    longest: BTreeMap<String, (Duration, String)>,
}

impl Tally {
    pub fn count(&self, what: impl Into<String>) {
        self.add(what, 1);
    }

    pub fn add(&self, what: impl Into<String>, n: u64) {
        *self.inner.lock().unwrap().counts.entry(what.into()).or_default() += n;
    }

    /// What went wrong by intent.
    pub fn fault(&self, class: &'static str) {
        *self.inner.lock().unwrap().faults.entry(class).or_default() += 1;
    }

    /// "429 12, 5xx 30, …"
    pub fn faults(&self) -> String {
        let inner = self.inner.lock().unwrap();
        inner.faults.iter().map(|(class, n)| format!("{class} {n}")).collect::<Vec<_>>().join(", ")
    }

    pub fn violations_of(&self, wrong: Wrong) -> u64 {
        self.inner.lock().unwrap().wrong.get(&wrong).copied().unwrap_or_default()
    }

    /// The longest of this, if there was any.
    pub fn longest_of(&self, what: &str) -> Duration {
        self.inner.lock().unwrap().longest.get(what).map_or(Duration::ZERO, |(took, _)| *took)
    }

    pub fn get(&self, what: &str) -> u64 {
        self.inner.lock().unwrap().counts.get(what).copied().unwrap_or_default()
    }

    /// What must never be seen.
    pub fn violation(&self, wrong: Wrong, kind: &str, what: String) {
        eprintln!("chaos: VIOLATION: {kind}: {what}");
        let mut inner = self.inner.lock().unwrap();
        *inner.counts.entry(format!("VIOLATIONS {kind}")).or_default() += 1;
        *inner.wrong.entry(wrong).or_default() += 1;
        if inner.violations.len() < MAX_TOLD {
            inner.violations.push(format!("{kind}: {what}"));
        }
    }

    /// The longest of something counts.
    pub fn longest(&self, what: &str, took: Duration, detail: impl FnOnce() -> String) {
        let mut inner = self.inner.lock().unwrap();
        let entry = inner.longest.entry(what.to_owned()).or_default();
        if took > entry.0 {
            *entry = (took, detail());
        }
    }

    pub fn violations(&self) -> u64 {
        self.inner.lock().unwrap().wrong.values().sum()
    }

    pub fn report(&self) {
        let inner = self.inner.lock().unwrap();
        for (what, n) in &inner.counts {
            println!("{what:<52} {n:>12}");
        }
        for (what, (took, detail)) in &inner.longest {
            println!("{what:<52} {:>10.1} s  {detail}", took.as_secs_f64());
        }
        for violation in &inner.violations {
            println!("VIOLATION {violation}");
        }
    }
}
