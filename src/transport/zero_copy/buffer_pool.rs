//! What is used again instead of being made anew, for as long as it is needed now and then.

use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

/// How often what was not needed is let go. A quiet server has nothing left after twice as long.
pub(crate) const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// Things that are free. What came back last goes out first, so that those at the front are the ones that nothing needs.
pub(crate) struct ObjectPool<T>(Mutex<Free<T>>);

struct Free<T> {
    things: Vec<T>,
    /// So many, from the front, were free all the time since the last sweep.
    unused: usize,
}

impl<T> ObjectPool<T> {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(Free { things: Vec::new(), unused: 0 }))
    }

    pub(crate) fn take(&self) -> Option<T> {
        let mut free = self.lock();
        let thing = free.things.pop();
        free.unused = free.unused.min(free.things.len());
        thing
    }

    /// Keeps a thing unless there are `most` already.
    pub(crate) fn give(&self, thing: T, most: usize) {
        let mut free = self.lock();
        if free.things.len() < most {
            free.things.push(thing);
        }
    }

    /// Lets go of what was not needed since the last sweep.
    pub(crate) fn sweep(&self) {
        let mut free = self.lock();
        let unused = free.unused;
        let gone: Vec<T> = free.things.drain(..unused).collect();
        free.unused = free.things.len();
        if gone.len() > free.unused {
            free.things.shrink_to_fit();
        }
        // Closed and given back while others take and give.
        drop(free);
        drop(gone);
    }

    fn lock(&self) -> MutexGuard<'_, Free<T>> {
        self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(spares: &ObjectPool<u32>) -> Vec<u32> {
        std::iter::from_fn(|| spares.take()).collect()
    }

    #[test]
    fn what_is_not_needed_between_two_sweeps_is_let_go() {
        let spares = ObjectPool::new();
        (0..5).for_each(|thing| spares.give(thing, 5));
        spares.sweep();
        let (a, b) = (spares.take().unwrap(), spares.take().unwrap());
        assert_eq!((a, b), (4, 3), "the last ones go out first");
        spares.give(b, 5);
        spares.give(a, 5);
        spares.sweep();
        assert_eq!(all(&spares), [4, 3]);
    }

    #[test]
    fn all_go_when_none_is_needed_for_two_sweeps() {
        let spares = ObjectPool::new();
        (0..3).for_each(|thing| spares.give(thing, 3));
        spares.sweep();
        spares.sweep();
        assert_eq!(spares.take(), None);
    }

    #[test]
    fn no_more_than_the_bound_is_kept() {
        let spares = ObjectPool::new();
        (0..9).for_each(|thing| spares.give(thing, 2));
        assert_eq!(all(&spares), [1, 0]);
    }
}
