//! The measurements, as text and as Markdown.

use std::fmt::Write as _;

/// The goal for forebay's figure, relative to that of the peer.
#[derive(Clone, Copy)]
pub enum Goal {
    /// At least this many times the peer's.
    Times(f64),
    /// At most this many times the peer's.
    AtMostTimes(f64),
    /// At most this much more than the peer's.
    AtMostMore(f64),
    /// At most this, whatever the peer's is.
    AtMost(f64),
    /// Shown without a goal.
    Shown,
}

/// One kind of figure of a row: a sample for each round.
pub struct Figure {
    pub measure: &'static str,
    pub unit: &'static str,
    pub goal: Goal,
    /// Empty if there is no peer.
    pub peer: Vec<f64>,
    pub forebay: Vec<f64>,
}

/// A line of the table.
pub struct Row {
    pub work: String,
    pub peer: String,
    pub figures: Vec<Figure>,
    /// The clients' idle share in the peer's rounds and in forebay's, if they could be the bottleneck.
    pub idle: Option<(Vec<f64>, Vec<f64>)>,
}

/// One line as it is printed.
struct Line([String; 8]);

const TITLES: [&str; 8] =
    ["work", "peer", "measure", "of the peer", "of forebay", "ratio (least - most)", "goal", "met"];

impl Row {
    fn lines(&self) -> Vec<Line> {
        let mut lines: Vec<Line> = self.figures.iter().map(|figure| figure.line(&self.work, &self.peer)).collect();
        if let Some((peer, forebay)) = &self.idle {
            let percent = |samples: &[f64]| format!("{:.0} %", 100.0 * median(samples));
            let of_peer = if peer.is_empty() { "-".to_owned() } else { percent(peer) };
            let cells = ["", "", "client idle", &of_peer, &percent(forebay), "", "", ""];
            lines.push(Line(cells.map(str::to_owned)));
        }
        // What the lines of a row have in common stands in its first line only.
        for line in lines.iter_mut().skip(1) {
            line.0[0].clear();
            line.0[1].clear();
        }
        lines
    }
}

impl Figure {
    fn line(&self, work: &str, peer: &str) -> Line {
        let shown = |samples: &[f64]| format!("{} {}", number(median(samples)), self.unit).trim_end().to_owned();
        let (goal, met) = self.judged();
        let ratios: Vec<f64> = self.peer.iter().zip(&self.forebay).map(|(peer, own)| own / peer).collect();
        let spread = match (ratios.is_empty(), self.forebay.len()) {
            (false, _) => format!("{} ({} - {})", number(self.ratio()), number(least(&ratios)), number(most(&ratios))),
            (true, 2..) => format!("({} - {})", number(least(&self.forebay)), number(most(&self.forebay))),
            (true, _) => String::new(),
        };
        Line([
            work.to_owned(),
            peer.to_owned(),
            self.measure.to_owned(),
            if self.peer.is_empty() { "-".to_owned() } else { shown(&self.peer) },
            shown(&self.forebay),
            spread,
            goal,
            met.to_owned(),
        ])
    }

    /// The ratio of the medians. The spread is that of the rounds' ratios: a peer's round is compared with forebay's
    /// next to it.
    fn ratio(&self) -> f64 {
        median(&self.forebay) / median(&self.peer)
    }

    fn judged(&self) -> (String, &'static str) {
        let own = median(&self.forebay);
        let word = |met: bool| if met { "yes" } else { "NO" };
        let unit = self.unit;
        match self.goal {
            Goal::Times(least) => (format!(">= {}x", number(least)), word(self.ratio() >= least)),
            Goal::AtMostTimes(most) => (format!("<= {}x", number(most)), word(self.ratio() <= most)),
            Goal::AtMostMore(more) => (format!("<= + {} {unit}", number(more)), word(own <= median(&self.peer) + more)),
            Goal::AtMost(most) => (format!("<= {} {unit}", number(most)), word(own <= most)),
            Goal::Shown => (String::new(), ""),
        }
    }
}

/// For a terminal: columns as wide as needed.
pub fn text(rows: &[Row]) -> String {
    let lines: Vec<Line> =
        [Line(TITLES.map(str::to_owned))].into_iter().chain(rows.iter().flat_map(Row::lines)).collect();
    let width = |column: usize| lines.iter().map(|line| line.0[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 8] = std::array::from_fn(width);
    let mut out = String::new();
    for line in &lines {
        let cells: Vec<String> = line.0.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end()).unwrap();
    }
    out
}

/// The whole file of results: the facts about the figures, then the figures.
pub fn document(facts: &[String], rows: &[Row]) -> String {
    let mut out = String::from("# forebay and its peers\n\nMade by `benches/compare/run --write`.\n\n");
    for fact in facts {
        writeln!(out, "* {fact}").unwrap();
    }
    out.push('\n');
    writeln!(out, "| {} |", TITLES.join(" | ")).unwrap();
    writeln!(out, "|{}", "---|".repeat(TITLES.len())).unwrap();
    for line in rows.iter().flat_map(Row::lines) {
        writeln!(out, "| {} |", line.0.join(" | ")).unwrap();
    }
    out
}

/// For an even number of samples, the mean of the two in the middle.
pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

fn least(samples: &[f64]) -> f64 {
    samples.iter().copied().fold(f64::INFINITY, f64::min)
}

fn most(samples: &[f64]) -> f64 {
    samples.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

/// A number with three significant digits.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
