//! Seeded interleavings of what workers, readers, the disk and a kill do to a download, against a model of the file.
//!
//! No I/O and no clock: the steps of the lead worker, of other workers, of readers, of the disk and of a kill come in an
//! order that only the seed decides.

mod faults;
mod simulation;

use proptest::prelude::*;

use self::simulation::{CHUNK, Registry, Simulation};
use super::chunks::{Admit, Chunks, LEAD};

fn run(seed: u64, registry: Registry) {
    let mut simulation = Simulation::new(seed, registry);
    for _ in 0..simulation.random.below(400) {
        simulation.step();
    }
    simulation.complete();
}

fn run_all(seeds: u64, registry: Registry) {
    for seed in 0..seeds {
        assert!(std::panic::catch_unwind(|| run(seed, registry)).is_ok(), "seed {seed}");
    }
}

#[test]
fn ten_thousand_interleavings_lose_and_repeat_no_byte() {
    run_all(10_000, Registry { ignores_ranges: false, hides_size: false });
}

#[test]
fn nor_do_those_with_an_upstream_that_ignores_ranges() {
    run_all(5_000, Registry { ignores_ranges: true, hides_size: false });
}

#[test]
fn nor_do_those_with_a_blob_of_unknown_size() {
    run_all(5_000, Registry { ignores_ranges: false, hides_size: true });
    run_all(5_000, Registry { ignores_ranges: true, hides_size: true });
}

proptest! {
    /// The map against a plain set of bytes.
    #[test]
    fn what_is_written_can_be_read(total in 1..200u64, steps in proptest::collection::vec((0..200u64, 1..40u64), 1..40)) {
        let mut chunks = Chunks::of_size(CHUNK);
        chunks.set_total(total);
        let mut model = vec![false; total as usize];
        for (start, len) in steps {
            let mut position = start.min(total - 1);
            let end = (position + len).min(total);
            while position < end {
                let Some(Admit::Write(len)) = chunks.admit(LEAD, position, end - position, false) else { break };
                let len = len.min(CHUNK - position % CHUNK);
                prop_assert!(!model[position as usize]);
                chunks.wrote(position, len, 0);
                model[position as usize..(position + len) as usize].fill(true);
                position += len;
            }
            chunks.release(LEAD);
            for offset in 0..total {
                let run = model[offset as usize..].iter().take_while(|written| **written).count() as u64;
                prop_assert_eq!(chunks.written_to(offset), offset + run);
            }
            prop_assert_eq!(chunks.written(), model.iter().filter(|written| **written).count() as u64);
            prop_assert_eq!(chunks.missing(), Some(total - chunks.written()));
            prop_assert_eq!(chunks.is_whole(), model.iter().all(|written| *written));
        }
    }
}
