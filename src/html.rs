//! What the pages for browsers have in common: HTML in which every text is escaped, the style, and the headers that tell
//! a browser what a page may do (pure).
//!
//! What must hold: a text that a client or an upstream made up is no markup, and neither hides in the page nor turns it around.

mod asset;
mod headers;

use std::time::{Duration, SystemTime};

use bytes::Bytes;

pub(crate) use self::{
    asset::{Asset, LIVE, STYLE},
    headers::set_policy,
};
use crate::{units, visible::is_deceptive};

/// A document as it grows.
#[derive(Default)]
pub(crate) struct Html(String);

impl Html {
    /// Appends markup, which is part of the program.
    pub(crate) fn markup(&mut self, markup: &'static str) -> &mut Self {
        self.0 += markup;
        self
    }

    /// Appends a text, or a value between double quotes.
    pub(crate) fn text(&mut self, text: &str) -> &mut Self {
        for character in text.chars() {
            match character {
                '&' => self.0 += "&amp;",
                '<' => self.0 += "&lt;",
                '>' => self.0 += "&gt;",
                '"' => self.0 += "&quot;",
                '\'' => self.0 += "&#39;",
                // A snippet has several lines.
                '\n' => self.0.push('\n'),
                other if is_deceptive(other) => self.0.push('?'),
                other => self.0.push(other),
            }
        }
        self
    }

    /// Appends what is HTML already.
    pub(crate) fn append(&mut self, other: Self) -> &mut Self {
        self.0 += &other.0;
        self
    }

    /// Appends a cell of a table.
    pub(crate) fn cell(&mut self, text: &str) -> &mut Self {
        self.markup("<td>").text(text).markup("</td>")
    }

    /// Appends a cell of a table with a number.
    pub(crate) fn number(&mut self, text: &str) -> &mut Self {
        self.markup("<td class=\"number\">").text(text).markup("</td>")
    }

    /// Appends how long ago something was.
    pub(crate) fn ago(&mut self, time: SystemTime, now: SystemTime) -> &mut Self {
        let age = now.duration_since(time).unwrap_or(Duration::ZERO);
        self.markup("<time datetime=\"").text(&humantime::format_rfc3339_seconds(time).to_string()).markup("\">");
        self.text(&units::duration(age)).markup(" ago</time>")
    }

    pub(crate) fn finish(self) -> Bytes {
        self.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_no_markup() {
        let mut html = Html::default();
        html.markup("<p title=\"").text("\"><script>'&amp;").markup("\">").cell("<td>");
        assert_eq!(html.finish(), "<p title=\"&quot;&gt;&lt;script&gt;&#39;&amp;amp;\"><td>&lt;td&gt;</td>");
        let mut html = Html::default();
        html.text("docker\u{202e}/29\u{200b}.1\0 é\nline");
        assert_eq!(html.finish(), "docker?/29?.1? é\nline");
    }

    #[test]
    fn a_time_is_for_people_and_for_programs() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let ago = |seconds| {
            let mut html = Html::default();
            html.ago(time, time + Duration::from_secs(seconds));
            html.finish()
        };
        assert_eq!(ago(125), "<time datetime=\"2027-01-15T08:00:00Z\">2 min ago</time>");
        let mut html = Html::default();
        html.ago(time, SystemTime::UNIX_EPOCH);
        assert_eq!(html.finish(), "<time datetime=\"2027-01-15T08:00:00Z\">0 s ago</time>", "the clock was set");
    }
}
