//! Tables in text: aligned columns, without lines, as people and scripts read them.

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

    /// Adds a row. An empty cell is a dash, so that each row has as many words as the head.
    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into_iter().map(|cell| if cell.is_empty() { "-".to_owned() } else { cell }).collect());
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
        for row in &self.rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            let line = cells.collect::<Vec<_>>().join(&" ".repeat(GAP));
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
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
}
