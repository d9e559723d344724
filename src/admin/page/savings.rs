//! What did it save?

use super::chart::Chart;
use crate::{
    history::{Interval, Sums},
    html::Html,
    units::{bytes, percent},
};

/// What clients got, and what of it came out of the cache.
pub(super) struct Savings {
    /// Of the last hour, the last day, and all the time since the start.
    pub windows: [Sums; 3],
    /// The last day by intervals, the oldest first; `None`: before the start.
    pub day: Vec<Option<Interval>>,
    pub max_bytes: u64,
}

impl Savings {
    pub(super) fn write(&self, html: &mut Html) {
        html.markup(
            "<section id=\"savings\" aria-labelledby=\"savings-title\">\n\
             <h2 id=\"savings-title\">What did it save?</h2>\n\
             <div class=\"scroll\" id=\"savings-table\" tabindex=\"0\" role=\"group\" aria-labelledby=\"savings-title\">\n\
             <table>\n<thead><tr><th scope=\"col\">Within</th><th scope=\"col\" class=\"number\">Pulls</th>\
             <th scope=\"col\" class=\"number\">From the cache</th><th scope=\"col\" class=\"number\">Clients got</th>\
             <th scope=\"col\" class=\"number\">Of these from the cache</th><th scope=\"col\" class=\"number\">Registries sent</th><th scope=\"col\" class=\"number\">Saved</th>\
             <th scope=\"col\" class=\"number\">Errors</th></tr></thead>\n<tbody>\n",
        );
        for (title, sums) in
            ["the last hour", "the last 24 hours", "all the time since the start"].iter().zip(&self.windows)
        {
            row(html, title, *sums);
        }
        html.markup("</tbody>\n</table>\n</div>\n");
        self.charts(html);
        html.markup("</section>\n");
    }

    fn charts(&self, html: &mut Html) {
        let values = |value: &dyn Fn(&Interval) -> Option<u64>| -> Vec<Option<u64>> {
            self.day.iter().map(|interval| interval.as_ref().and_then(value)).collect()
        };
        html.markup("<h3>The last 24 hours, in steps of 10 minutes</h3>\n<div class=\"charts\">\n");
        let hits = |interval: &Interval| {
            let Sums { pulls, hits, .. } = interval.sums;
            hits.saturating_mul(100).checked_div(pulls)
        };
        let percent = |value| format!("{value} %");
        Chart { title: "Pulls from the cache", values: values(&hits), other: None, most: Some(100), text: &percent }
            .write(html);
        let (sent, received) = (values(&|it| Some(it.sums.sent)), values(&|it| Some(it.sums.received)));
        let title = "Bytes to clients, and of these from registries";
        Chart { title, values: sent, other: Some(received), most: None, text: &bytes }.write(html);
        let errors = values(&|interval| Some(interval.sums.errors));
        Chart { title: "Errors", values: errors, other: None, most: None, text: &|errors: u64| errors.to_string() }
            .write(html);
        let disk = values(&|interval| interval.disk);
        Chart { title: "Disk", values: disk, other: None, most: Some(self.max_bytes), text: &bytes }.write(html);
        html.markup("</div>\n");
    }
}

fn row(html: &mut Html, title: &str, sums: Sums) {
    let Sums { pulls, hits, sent, cached, received, errors } = sums;
    html.markup("<tr><th scope=\"row\">").text(title).markup("</th>").number(&pulls.to_string());
    let part = |part, whole| percent(part, whole).unwrap_or_else(|| "-".to_owned());
    html.number(&part(hits, pulls)).number(&bytes(sent)).number(&part(cached, sent)).number(&bytes(received));
    html.number(&saved(sums.saved())).number(&errors.to_string()).markup("</tr>\n");
}

/// Upstreams may have sent more than clients got: what was warmed or prefetched came ahead of them.
fn saved(saved: i64) -> String {
    u64::try_from(saved).map_or_else(|_| "nothing yet".to_owned(), bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn savings_are_rows_and_charts() {
        let sums = |sent, received| Sums { pulls: 3, hits: 2, sent, cached: sent / 4, received, errors: 1 };
        let interval = Interval { sums: sums(4096, 1024), disk: Some(7) };
        let savings = Savings {
            windows: [sums(4096, 1024), sums(0, 2048), Sums::default()],
            day: vec![None, Some(interval)],
            max_bytes: 14,
        };
        let mut html = Html::default();
        savings.write(&mut html);
        let text = String::from_utf8(html.finish().to_vec()).unwrap();
        for expected in [
            "<td class=\"number\">66.7 %</td><td class=\"number\">4.0 KiB</td><td class=\"number\">25.0 %</td>\
             <td class=\"number\">1.0 KiB</td><td class=\"number\">3.0 KiB</td><td class=\"number\">1</td>",
            "<td class=\"number\">nothing yet</td>",
            "<td class=\"number\">0</td><td class=\"number\">-</td>",
            "Pulls from the cache: last 66 %, highest 66 %",
            "Disk: last 7 B, highest 7 B",
        ] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
        assert_eq!(text.matches("<svg").count(), 4);
    }
}
