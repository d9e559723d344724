//! What happened: counted, and told at the end.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

/// A violation is told at once, and this many of them at the end.
const MAX_TOLD: usize = 50;

#[derive(Default)]
pub struct Tally {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    counts: BTreeMap<String, u64>,
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

    pub fn get(&self, what: &str) -> u64 {
        self.inner.lock().unwrap().counts.get(what).copied().unwrap_or_default()
    }

    /// What must never be seen.
    pub fn violation(&self, kind: &str, what: String) {
        eprintln!("chaos: VIOLATION: {kind}: {what}");
        let mut inner = self.inner.lock().unwrap();
        *inner.counts.entry(format!("VIOLATIONS {kind}")).or_default() += 1;
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

    pub fn violations(&self) -> usize {
        self.inner.lock().unwrap().violations.len()
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
