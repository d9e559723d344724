//! HTML in which every text is escaped.

use bytes::Bytes;

/// A document as it grows.
#[derive(Default)]
pub(super) struct Html(String);

impl Html {
    /// Appends markup, which is part of the program.
    pub(super) fn markup(&mut self, markup: &'static str) -> &mut Self {
        self.0 += markup;
        self
    }

    /// Appends a text, or a value between double quotes.
    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        for character in text.chars() {
            match character {
                '&' => self.0 += "&amp;",
                '<' => self.0 += "&lt;",
                '>' => self.0 += "&gt;",
                '"' => self.0 += "&quot;",
                '\'' => self.0 += "&#39;",
                other => self.0.push(other),
            }
        }
        self
    }

    pub(super) fn finish(self) -> Bytes {
        self.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_no_markup() {
        let mut html = Html::default();
        html.markup("<p title=\"").text("\"><script>'&amp;").markup("\">");
        assert_eq!(html.finish(), "<p title=\"&quot;&gt;&lt;script&gt;&#39;&amp;amp;\">");
    }
}
