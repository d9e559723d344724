//! Tables in text: aligned columns without lines, for people. Programs read `--json`: a cell may have blanks.

use forebay::visible::printable;

/// Rows under a head, each cell as wide as its column.
#[derive(Debug)]
pub(super) struct Columns {
    rows: Vec<Vec<String>>,
}

/// How far columns are apart.
pub(super) const GAP: usize = 2;

impl Columns {
    pub(super) fn new<const N: usize>(head: [&str; N]) -> Self {
        Self { rows: vec![head.map(str::to_owned).into()] }
    }

    /// Adds a row.
    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(shown).into());
    }
}

impl std::fmt::Display for Columns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max()
        };
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
        self.rows.iter().try_for_each(|row| writeln!(f, "{}", padded(row, &widths)))
    }
}

/// A row by itself, of a table whose other rows are not known yet: its cells have at least these widths.
pub(super) fn row<const N: usize>(cells: [String; N], widths: &[usize]) -> String {
    padded(&cells.map(shown), widths)
}

/// The cell without what could command a terminal; a dash shows that it is empty.
fn shown(cell: String) -> String {
    if cell.is_empty() { "-".to_owned() } else { printable(&cell) }
}

fn padded(cells: &[String], widths: &[usize]) -> String {
    let widths = widths.iter().copied().chain(std::iter::repeat(0));
    let cells: Vec<String> = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
    cells.join(&" ".repeat(GAP)).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut columns = Columns::new(["UPSTREAM", "STATE"]);
        columns.row(["docker.io".into(), "ok".into()]);
        columns.row(["é".into(), String::new()]);
        assert_eq!(columns.to_string(), "UPSTREAM   STATE\ndocker.io  ok\né          -\n");
        assert_eq!(Columns::new(["A"]).to_string(), "A\n");
    }

    #[test]
    fn a_row_by_itself_has_the_widths_that_are_given() {
        assert_eq!(row(["a".into(), String::new(), "long".into()], &[3, 2]), "a    -   long");
        assert_eq!(row(["a".into(), String::new()], &[3]), "a    -");
    }

    #[test]
    fn a_cell_cannot_command_the_terminal() {
        let mut columns = Columns::new(["A", "B"]);
        columns.row(["\u{1b}[2J\n".into(), "\u{202e}x".into()]);
        assert_eq!(columns.to_string(), "A      B\n?[2J?  ?x\n");
    }
}
