//! A small chart of a day, as SVG within the page (pure).

use std::fmt::Write as _;

use crate::html::Html;

/// The width of one value, and the height of the largest.
const STEP: usize = 2;
const HEIGHT: u64 = 48;

/// Values by time, the oldest first; `None`: not known.
pub(super) struct Chart<'a> {
    pub title: &'static str,
    pub values: Vec<Option<u64>>,
    /// Drawn over them, in another colour and on the same scale.
    pub other: Option<Vec<Option<u64>>>,
    /// The value of the full height; `None`: the largest there is.
    pub most: Option<u64>,
    /// A value for people.
    pub text: &'a dyn Fn(u64) -> String,
}

impl Chart<'_> {
    pub(super) fn write(&self, html: &mut Html) {
        let highest = self.values.iter().chain(self.other.iter().flatten()).flatten().copied().max();
        let most = self.most.or(highest).unwrap_or_default();
        let summary = match (self.values.iter().flatten().next_back(), highest) {
            (Some(last), Some(highest)) => {
                format!("{}: last {}, highest {}", self.title, (self.text)(*last), (self.text)(highest))
            }
            _ => format!("{}: nothing yet", self.title),
        };
        html.markup("<figure><figcaption>").text(&summary).markup("</figcaption>\n<svg viewBox=\"0 0 ");
        html.text(&format!("{} {HEIGHT}", self.values.len() * STEP));
        html.markup("\" preserveAspectRatio=\"none\" aria-hidden=\"true\"><path class=\"bar\" d=\"");
        html.text(&outline(&self.values, most)).markup("\"/>");
        if let Some(other) = &self.other {
            html.markup("<path class=\"bar-other\" d=\"").text(&outline(other, most)).markup("\"/>");
        }
        html.markup("</svg></figure>\n");
    }
}

/// The outline of bars that stand side by side, one for each value. Bars of the same height are one.
fn outline(values: &[Option<u64>], most: u64) -> String {
    let mut path = format!("M0 {HEIGHT}");
    let tops = values.iter().map(|value| HEIGHT - height(value.unwrap_or_default(), most));
    let mut tops = tops.peekable();
    while let Some(top) = tops.next() {
        let mut width = STEP;
        while tops.next_if_eq(&top).is_some() {
            width += STEP;
        }
        // Writing to a String cannot fail.
        let _ = write!(path, "V{top}h{width}");
    }
    let _ = write!(path, "V{HEIGHT}z");
    path
}

/// What is more than nothing can be seen.
fn height(value: u64, most: u64) -> u64 {
    if value == 0 || most == 0 {
        return 0;
    }
    let height = u128::from(value) * u128::from(HEIGHT) / u128::from(most);
    u64::try_from(height).unwrap_or(HEIGHT).clamp(1, HEIGHT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outline_has_a_bar_for_each_value() {
        for (values, most, expected) in [
            (&[][..], 0, "M0 48V48z"),
            (&[None, None, Some(0)], 10, "M0 48V48h6V48z"),
            (&[Some(10), Some(10), Some(5), None], 10, "M0 48V0h4V24h2V48h2V48z"),
            // The least that can be seen, and no more than there is room for.
            (&[Some(1), Some(u64::MAX)], 1_000_000, "M0 48V47h2V0h2V48z"),
            (&[Some(3)], 0, "M0 48V48h2V48z"),
        ] {
            assert_eq!(outline(values, most), expected, "{values:?}");
        }
    }

    #[test]
    fn a_chart_says_in_words_what_it_shows() {
        let told = |values: Vec<Option<u64>>| {
            let mut html = Html::default();
            Chart { title: "Errors", values, other: None, most: None, text: &|value: u64| value.to_string() }
                .write(&mut html);
            String::from_utf8(html.finish().to_vec()).unwrap()
        };
        assert!(told(vec![Some(7), Some(2), None]).contains("Errors: last 2, highest 7"));
        assert!(told(vec![None]).contains("Errors: nothing yet"));
        let quiet = told(vec![Some(0); 144]);
        assert!(quiet.contains("viewBox=\"0 0 288 48\"") && quiet.len() < 250, "{quiet}");
    }
}
