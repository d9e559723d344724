//! The tables of `docs/operations.md` about failures.

use std::{fs, path::Path};

/// The first cell, and the others.
pub struct Row {
    pub name: String,
    pub cells: Vec<String>,
}

/// Each broken upstream: the cause, the status, and words of the warning's `error`.
pub fn causes() -> Vec<Row> {
    table("| broken | cause | status |")
}

/// Each status: words that each client shows.
pub fn shown() -> Vec<Row> {
    table("| status | `docker pull` |")
}

/// The row of this name.
pub fn find<'a>(rows: &'a [Row], name: &str) -> &'a Row {
    rows.iter().find(|row| row.name == name).unwrap_or_else(|| panic!("docs/operations.md has no row of {name}"))
}

fn table(head: &str) -> Vec<Row> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let text = fs::read_to_string(path).expect("the document is there");
    let lines = text.lines().skip_while(|line| !line.starts_with(head)).skip(2);
    let rows: Vec<Row> = lines.take_while(|line| line.starts_with('|')).map(row).collect();
    assert!(!rows.is_empty(), "docs/operations.md has no table {head}");
    rows
}

fn row(line: &str) -> Row {
    let mut cells = line.trim_matches('|').split(" | ").map(|cell| cell.trim().trim_matches('`').to_owned());
    Row { name: cells.next().unwrap_or_default(), cells: cells.collect() }
}

/// The parts of a cell, separated by `…`, that do not occur in a text. `NAME` and `CAUSE` stand for the upstream and the
/// cause.
pub fn missing<'a>(cell: &'a str, upstream: &'a str, cause: &'a str, text: &'a str) -> impl Iterator<Item = String> {
    let words = cell.split('…').map(|word| word.trim().trim_matches('`'));
    let words = words.map(move |word| word.replace("NAME", upstream).replace("CAUSE", cause));
    words.filter(|word| !word.is_empty()).filter(move |word| !text.contains(word))
}
