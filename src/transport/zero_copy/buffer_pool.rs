//! A pool of objects that are reused, and freed when they were not needed for a while.

use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

/// How often unneeded objects are freed. An idle server has none left after twice as long.
pub(crate) const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// Free objects. The last one returned is taken first, so that the unneeded ones are at the front.
pub(crate) struct ObjectPool<T>(Mutex<Free<T>>);

struct Free<T> {
    things: Vec<T>,
    /// How many, from the front, were free all the time since the last sweep.
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

    /// Keeps an object unless there are `most` already.
    pub(crate) fn give(&self, thing: T, most: usize) {
        let mut free = self.lock();
        if free.things.len() < most {
            free.things.push(thing);
        }
    }

    /// Frees the objects that were not needed since the last sweep.
    pub(crate) fn sweep(&self) {
        let mut free = self.lock();
        let unused = free.unused;
        let gone: Vec<T> = free.things.drain(..unused).collect();
        free.unused = free.things.len();
        if gone.len() > free.unused {
            free.things.shrink_to_fit();
        }
        // They are dropped without the lock.
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
    fn objects_not_needed_between_two_sweeps_are_freed() {
        let spares = ObjectPool::new();
        (0..5).for_each(|thing| spares.give(thing, 5));
        spares.sweep();
        let (a, b) = (spares.take().unwrap(), spares.take().unwrap());
        assert_eq!((a, b), (4, 3), "the last ones are taken first");
        spares.give(b, 5);
        spares.give(a, 5);
        spares.sweep();
        assert_eq!(all(&spares), [4, 3]);
    }

    #[test]
    fn all_objects_are_freed_after_two_idle_sweeps() {
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
