//! How many forebays for how many nodes: prints the tables of docs/scaling.md and of docs/decisions/0037-slices.md.
//!
//! ```sh
//! cargo bench --bench scaling
//! ```

#![allow(clippy::print_stdout, reason = "the tables are the result")]

// Cargo builds benches with `cfg(test)`, but without a harness.
#[allow(dead_code, unused_imports, reason = "the tests of the model run in tests/it/docs/scaling.rs")]
mod model;

use model::{
    tables,
    world::{World, image, large_blob, small_images},
};

fn main() {
    let world = World::default();
    println!("{}", tables::overview(&world, &image()));
    for pull in [image(), small_images(), large_blob()] {
        println!("{}\n\n{}", pull.name, tables::figures(&world, &pull));
    }
    for pull in [image(), large_blob()] {
        println!("{}, slices\n\n{}", pull.name, tables::slices(&world, &pull));
    }
}
