//! The tables of the model stand in the documents as `cargo bench --bench scaling` prints them.

#[path = "../../../benches/scaling/model/mod.rs"]
mod model;

use super::{Document, root};
use model::{
    tables,
    world::{Pull, World, image, large_blob, small_images},
};

fn assert_has(document: &str, heading: &str, table: &str) {
    let text = Document::read(root().join(document)).text;
    let section = text.split(&format!("# {heading}\n")).nth(1);
    let section = section.unwrap_or_else(|| panic!("{document} has no heading {heading:?}"));
    let section = section.split("\n#").next().unwrap_or_default();
    assert!(section.contains(table), "{document}, {heading}: cargo bench --bench scaling prints\n{table}");
}

#[test]
fn the_tables_of_the_model_are_what_it_computes() {
    let world = World::default();
    assert_has("docs/scaling.md", "Seconds and money", &tables::overview(&world, &image()));
    for pull in [image(), small_images(), large_blob()] {
        assert_has("docs/scaling.md", pull.name, &tables::figures(&world, &pull));
    }
}

#[test]
fn the_figures_of_the_decision_are_what_the_model_computes() {
    for pull in [image(), large_blob()] {
        let Pull { name, .. } = pull;
        assert_has("docs/decisions/0037-slices.md", name, &tables::slices(&World::default(), &pull));
    }
}
