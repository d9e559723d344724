//! Tables and sentences in text, for people: aligned columns without lines, as wide as the terminal. Programs read `--json`: a
//! cell may have blanks.
//!
//! What must hold: without a terminal nothing is cut and nothing is left out.

use std::io::{self, IsTerminal as _};

use forebay::visible::printable;

use super::screen;

/// How far columns are apart.
const GAP: usize = 2;
/// As much of a name tells it from others, in characters: the least columns go first.
const READABLE: usize = 30;
/// The shortest that a name becomes, in characters.
const SHORTEST: usize = 12;

/// A blank at which no line is broken.
const NO_BREAK: &str = "\u{a0}";

/// Rows under a head, each cell as wide as its column.
#[derive(Debug)]
pub(super) struct Columns {
    rows: Vec<Vec<String>>,
    /// The head of the column that has names, which may be cut.
    names: Option<&'static str>,
    /// The heads of the columns that are left out where there is no room for them, in this order.
    least: Vec<&'static str>,
    /// The heads of the other columns that are cut in the end, and to how many characters at the least.
    others: Vec<(&'static str, usize)>,
}

impl Columns {
    pub(super) fn new<const N: usize>(head: [&str; N]) -> Self {
        Self { rows: vec![head.map(str::to_owned).into()], names: None, least: Vec::new(), others: Vec::new() }
    }

    /// With names in the column of this head.
    pub(super) fn with_names(mut self, head: &'static str) -> Self {
        self.names = Some(head);
        self
    }

    /// With columns of these heads that a reader can do without, most easily the first.
    pub(super) fn with_least(mut self, heads: impl IntoIterator<Item = &'static str>) -> Self {
        self.least = heads.into_iter().collect();
        self
    }

    /// With columns of these heads that may be cut to so many characters where that of names is short already.
    pub(super) fn with_cuts<const N: usize>(mut self, heads: [(&'static str, usize); N]) -> Self {
        self.others = heads.into();
        self
    }

    /// Adds a row.
    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(shown).into());
    }

    /// Leaves out columns and cuts names so that its lines have at most `width` characters, if they can.
    pub(super) fn fit(mut self, width: Option<usize>) -> Self {
        let Some(width) = width else { return self };
        for head in std::mem::take(&mut self.least) {
            if self.has_room(width) {
                break;
            }
            self.leave_out(head);
        }
        let names = self.names.map(|head| (head, SHORTEST));
        for (head, shortest) in names.into_iter().chain(std::mem::take(&mut self.others)) {
            self.shorten(head, shortest, width);
        }
        self
    }

    /// Whether lines of `width` characters have room for all cells, and for as much of each name as a reader needs.
    pub(super) fn has_room(&self, width: usize) -> bool {
        let (names, others) = self.width();
        others + names.min(READABLE) <= width
    }

    /// Cuts the cells of a column, to as much as there is room for.
    fn shorten(&mut self, head: &str, shortest: usize, width: usize) {
        let Some(column) = self.position(head) else { return };
        let widths = self.widths();
        let others = total(&widths) - widths.get(column).copied().unwrap_or_default();
        let most = width.saturating_sub(others).max(shortest);
        for cell in self.rows.iter_mut().skip(1).filter_map(|row| row.get_mut(column)) {
            *cell = cut(cell, most);
        }
    }

    fn leave_out(&mut self, head: &str) {
        let Some(column) = self.position(head) else { return };
        for row in self.rows.iter_mut().filter(|row| column < row.len()) {
            row.remove(column);
        }
    }

    fn position(&self, head: &str) -> Option<usize> {
        self.rows.first()?.iter().position(|cell| cell == head)
    }

    /// The widths of the column of names, and of all else.
    fn width(&self) -> (usize, usize) {
        let widths = self.widths();
        let all = total(&widths);
        let names = self.names.and_then(|head| self.position(head)).and_then(|column| widths.get(column));
        names.map_or((0, all), |names| (*names, all - names))
    }

    fn widths(&self) -> Vec<usize> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max()
        };
        (0..columns).map(|column| width(column).unwrap_or_default()).collect()
    }
}

impl std::fmt::Display for Columns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let widths = self.widths();
        self.rows.iter().try_for_each(|row| writeln!(f, "{}", padded(row, &widths)))
    }
}

/// A row by itself, of a table whose other rows are not known yet: its cells have at least these widths.
pub(super) fn row(cells: Vec<String>, widths: &[usize]) -> String {
    padded(&cells.into_iter().map(shown).collect::<Vec<_>>(), widths)
}

/// How wide rows are whose columns have these widths.
pub(super) fn total(widths: &[usize]) -> usize {
    widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1)
}

/// How many characters a line of standard output has; `None`: it is no terminal.
pub(super) fn terminal_width() -> Option<usize> {
    io::stdout().is_terminal().then(|| screen::size().columns)
}

/// The text in at most so many characters: its begin and its end.
pub(super) fn cut(text: &str, most: usize) -> String {
    let len = text.chars().count();
    if len <= most {
        return text.to_owned();
    }
    let kept = most.saturating_sub(1);
    let begin = text.chars().take(kept / 2);
    begin.chain(['…']).chain(text.chars().skip(len - (kept - kept / 2))).collect()
}

/// What is to be copied, as one word of a line that is [`wrapped`].
pub(super) fn unbroken(text: &str) -> String {
    text.replace(' ', NO_BREAK)
}

/// A line as lines of at most `width` characters, if its words are that short: the others begin with `indent` blanks. What is
/// between backticks is one word.
pub(super) fn wrapped(line: &str, width: Option<usize>, indent: usize) -> String {
    let last = line.matches('`').count();
    let part = |(at, part): (usize, &str)| if at % 2 == 1 && at < last { unbroken(part) } else { part.to_owned() };
    let parts: Vec<String> = line.split('`').enumerate().map(part).collect();
    let lines = width.map_or_else(|| line.to_owned(), |width| broken(&parts.join("`"), width, indent));
    lines.replace(NO_BREAK, " ")
}

fn broken(line: &str, width: usize, indent: usize) -> String {
    let (mut lines, mut used, mut blanks) = (String::new(), 0, 0);
    for word in line.split(' ') {
        let len = word.chars().count();
        if len == 0 {
            blanks += 1;
            continue;
        }
        if used > indent && used + blanks + len > width {
            lines.push('\n');
            (used, blanks) = (0, indent);
        }
        lines.extend(std::iter::repeat_n(' ', blanks));
        lines.push_str(word);
        used += blanks + len;
        blanks = 1;
    }
    lines
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
        assert_eq!(row(vec!["a".into(), String::new(), "long".into()], &[3, 2]), "a    -   long");
        assert_eq!(row(vec!["a".into(), String::new()], &[3]), "a    -");
    }

    #[test]
    fn a_cell_cannot_command_the_terminal() {
        let mut columns = Columns::new(["A", "B"]);
        columns.row(["\u{1b}[2J\n".into(), "\u{202e}x".into()]);
        assert_eq!(columns.to_string(), "A      B\n?[2J?  ?x\n");
    }

    #[test]
    fn a_table_fits_the_terminal_and_is_whole_elsewhere() {
        let table = || {
            let mut columns = Columns::new(["IMAGE", "SIZE", "SHARED", "STATE"]).with_names("IMAGE");
            columns.row(["docker.io/library/node:22".into(), "4.0 KiB".into(), "0 B".into(), "complete".into()]);
            columns.row([format!("ghcr.io/{}/app:v3", "o".repeat(30)), "1 B".into(), "1 B".into(), "partial".into()]);
            columns.with_least(["SHARED", "SIZE"])
        };
        let whole = table().to_string();
        for (width, expected) in [
            (None, &*whole),
            (Some(80), &*whole),
            (
                Some(60),
                "IMAGE                              SIZE     SHARED  STATE\n\
                 docker.io/library/node:22          4.0 KiB  0 B     complete\n\
                 ghcr.io/oooooooo…ooooooooo/app:v3  1 B      1 B     partial\n",
            ),
            (
                Some(50),
                "IMAGE                            SIZE     STATE\n\
                 docker.io/library/node:22        4.0 KiB  complete\n\
                 ghcr.io/ooooooo…oooooooo/app:v3  1 B      partial\n",
            ),
            (
                Some(30),
                "IMAGE                 STATE\n\
                 docker.io…ry/node:22  complete\n\
                 ghcr.io/o…ooo/app:v3  partial\n",
            ),
            (Some(3), "IMAGE         STATE\ndocke…ode:22  complete\nghcr.…app:v3  partial\n"),
        ] {
            let fitted = table().fit(width).to_string();
            assert_eq!(fitted, expected, "{width:?}");
        }
    }

    #[test]
    fn other_columns_are_cut_when_names_are_short() {
        let table = |width| {
            let mut columns = Columns::new(["NAME", "CLIENT", "WHY"]).with_names("NAME").with_cuts([("CLIENT", 6)]);
            columns.row(["docker.io/library/node:22".into(), "10.0.4.31 docker".into(), "dns".into()]);
            columns.fit(Some(width)).to_string()
        };
        for (width, expected) in [
            (40, "NAME               CLIENT            WHY\ndocker.i…/node:22  10.0.4.31 docker  dns\n"),
            (33, "NAME          CLIENT          WHY\ndocke…ode:22  10.0.4… docker  dns\n"),
            (1, "NAME          CLIENT  WHY\ndocke…ode:22  10…ker  dns\n"),
        ] {
            assert_eq!(table(width), expected, "{width}");
        }
    }

    #[test]
    fn a_text_is_cut_in_its_middle() {
        for (text, most, expected) in
            [("äbcdef", 6, "äbcdef"), ("äbcdef", 5, "äb…ef"), ("äbcdef", 4, "ä…ef"), ("abc", 1, "…"), ("abc", 0, "…")]
        {
            assert_eq!(cut(text, most), expected, "{text} {most}");
        }
    }

    #[test]
    fn a_sentence_is_broken_between_its_words() {
        for (line, width, expected) in [
            ("! one two  three four", None, "! one two  three four"),
            ("! one two  three four", Some(21), "! one two  three four"),
            ("! one two  three four", Some(16), "! one two  three\n  four"),
            ("! one two  three four", Some(12), "! one two\n  three four"),
            ("! one two  three four", Some(1), "! one\n  two\n  three\n  four"),
            ("  äöü äöü", Some(9), "  äöü äöü"),
            ("one `two three` four", Some(12), "one\n  `two three`\n  four"),
            ("one `two three", Some(8), "one `two\n  three"),
            ("one two\u{a0}three", Some(8), "one\n  two three"),
            ("one two\u{a0}three", None, "one two three"),
            ("", Some(1), ""),
        ] {
            assert_eq!(wrapped(line, width, 2), expected, "{width:?}");
        }
    }
}
