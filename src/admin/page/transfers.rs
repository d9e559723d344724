//! What is transferred now: a row for each image (pure).

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    admin::api::transfers::{Document, DownloadEntry, RequestEntry},
    html::Html,
    peer,
    units::{bytes, duration},
};

/// How many images are shown: those with the highest rates.
const MAX_ROWS: usize = 10;

/// All that is sent to clients, and all that is downloaded.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Transfers {
    /// The fastest first.
    rows: Vec<Row>,
    /// How many images are not shown.
    others: usize,
    sent_rate: u64,
    received_rate: u64,
}

/// The transfers of one image.
#[derive(Debug, Default, PartialEq)]
struct Row {
    image: String,
    /// In bytes per second, as all rates.
    sent_rate: u64,
    received_rate: u64,
    /// The addresses that get it.
    clients: BTreeSet<String>,
    /// How many requests wait for the head of a response.
    waiting: usize,
    /// Of the blobs that are downloaded: how many bytes are here, and how many they have.
    here: u64,
    size: u64,
    /// How long the oldest has been running.
    seconds: f64,
    left_seconds: Option<u64>,
}

impl Transfers {
    pub(super) fn of(document: &Document<'_>) -> Self {
        let mut rows: BTreeMap<String, Row> = BTreeMap::new();
        for request in &document.requests {
            // Without an upstream nothing is transferred.
            let Some(image) = request.image.as_deref().or(request.upstream) else { continue };
            rows.entry(image.to_owned()).or_default().add_request(request);
        }
        for download in &document.downloads {
            let image = download.image.clone();
            let image = image.unwrap_or_else(|| format!("{}/{}", download.upstream, download.repository));
            rows.entry(image).or_default().add_download(download);
        }
        let mut rows: Vec<Row> = rows.into_iter().map(|(image, row)| Row { image, ..row }).collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.sent_rate.saturating_add(row.received_rate)));
        let others = rows.len().saturating_sub(MAX_ROWS);
        rows.truncate(MAX_ROWS);
        let Document { sent_bytes_per_second, received_bytes_per_second, .. } = *document;
        Self { rows, others, sent_rate: sent_bytes_per_second, received_rate: received_bytes_per_second }
    }

    pub(super) fn write(&self, html: &mut Html) {
        html.markup(
            "<section id=\"transfers\" aria-labelledby=\"transfers-title\">\n\
             <h2 id=\"transfers-title\">What is transferred now?</h2>\n",
        );
        if self.rows.is_empty() {
            html.markup("<p>Nothing.</p>\n</section>\n");
            return;
        }
        html.markup("<p>").text(&bytes(self.sent_rate)).markup("/s to clients, ").text(&bytes(self.received_rate));
        html.markup(
            "/s from registries.</p>\n<div class=\"scroll\" id=\"transfers-table\" tabindex=\"0\" role=\"group\" \
             aria-labelledby=\"transfers-title\">\n<table>\n<thead><tr><th scope=\"col\">Image</th>\
             <th scope=\"col\">Clients</th><th scope=\"col\" class=\"number\">To clients</th>\
             <th scope=\"col\" class=\"number\">From the registry</th><th scope=\"col\">Downloaded</th>\
             <th scope=\"col\" class=\"number\">Since</th><th scope=\"col\" class=\"number\">Left</th>\
             </tr></thead>\n<tbody>\n",
        );
        for row in &self.rows {
            row.write(html);
        }
        html.markup("</tbody>\n</table>\n</div>\n");
        if self.others > 0 {
            html.markup("<p>").text(&self.others.to_string()).markup(" more images are slower: <code>forebay top");
            html.markup("</code> shows them.</p>\n");
        }
        html.markup("</section>\n");
    }
}

impl Row {
    fn add_request(&mut self, request: &RequestEntry<'_>) {
        self.sent_rate = self.sent_rate.saturating_add(request.bytes_per_second);
        self.clients.insert(peer::address(request.peer));
        self.waiting += usize::from(request.outcome.is_none());
        self.add_time(request.seconds, request.left_seconds);
    }

    fn add_download(&mut self, download: &DownloadEntry<'_>) {
        self.received_rate = self.received_rate.saturating_add(download.bytes_per_second);
        if let Some(size) = download.size {
            self.here = self.here.saturating_add(download.here);
            self.size = self.size.saturating_add(size);
        }
        self.add_time(download.seconds, download.left_seconds);
    }

    fn add_time(&mut self, seconds: f64, left_seconds: Option<u64>) {
        self.seconds = self.seconds.max(seconds);
        self.left_seconds = self.left_seconds.max(left_seconds);
    }

    fn write(&self, html: &mut Html) {
        html.markup("<tr><th scope=\"row\">").text(&self.image).markup("</th>").cell(&self.told_clients());
        html.number(&rate(self.sent_rate)).number(&rate(self.received_rate)).markup("<td>");
        if self.size > 0 {
            let here = self.here.min(self.size);
            html.markup("<progress max=\"").text(&self.size.to_string()).markup("\" value=\"").text(&here.to_string());
            html.markup("\" aria-label=\"Downloaded of ").text(&self.image).markup("\"></progress> ");
            html.text(&bytes(here)).markup(" of ").text(&bytes(self.size));
        } else {
            html.markup("-");
        }
        let time = |seconds| duration(std::time::Duration::from_secs(seconds));
        let since = std::time::Duration::try_from_secs_f64(self.seconds).unwrap_or_default();
        html.markup("</td>").number(&time(since.as_secs()));
        html.number(&self.left_seconds.map_or_else(|| "-".to_owned(), time)).markup("</tr>\n");
    }

    /// The one client, or how many there are, and how many requests wait.
    fn told_clients(&self) -> String {
        let clients = match (self.clients.first(), self.clients.len()) {
            (Some(client), 1) => client.clone(),
            (Some(_), count) => format!("{count} clients"),
            // It is prefetched, warmed, or the client has left.
            (None, _) => "-".to_owned(),
        };
        let waiting = if self.waiting > 0 { format!(", {} waiting", self.waiting) } else { String::new() };
        clients + &waiting
    }
}

fn rate(bytes_per_second: u64) -> String {
    match bytes_per_second {
        0 => "-".to_owned(),
        rate => format!("{}/s", bytes(rate)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request<'a>(image: &str, peer: &'a str, rate: u64, outcome: Option<&'static str>) -> RequestEntry<'a> {
        let mut request = RequestEntry::of_test(image, peer);
        (request.bytes_per_second, request.outcome, request.seconds) = (rate, outcome, 2.5);
        request
    }

    fn document<'a>(requests: Vec<RequestEntry<'a>>, downloads: Vec<DownloadEntry<'a>>) -> Document<'a> {
        Document { requests, downloads, sent_bytes_per_second: 7, received_bytes_per_second: 9, left_out: 0 }
    }

    fn html(transfers: &Transfers) -> String {
        let mut html = Html::default();
        transfers.write(&mut html);
        String::from_utf8(html.finish().to_vec()).unwrap()
    }

    #[test]
    fn the_transfers_of_an_image_are_a_row() {
        let requests = vec![
            request("docker.io/a:1", "10.0.0.1:51", 1024, Some("joined")),
            request("docker.io/a:1", "10.0.0.1:52", 1024, Some("miss")),
            request("docker.io/a:1", "[2001:db8::1]:53", 0, None),
            request("docker.io/<b>:1", "10.0.0.1:54", 4096, Some("hit")),
        ];
        let download = |image: Option<&str>, size| {
            let mut download = DownloadEntry::of_test("quay.io", "x/y");
            (download.image, download.here, download.size) = (image.map(str::to_owned), 1024, size);
            (download.bytes_per_second, download.seconds, download.left_seconds) = (512, 70.0, Some(2));
            download
        };
        let downloads = vec![download(Some("docker.io/a:1"), Some(4096)), download(None, None)];
        let told = html(&Transfers::of(&document(requests, downloads)));
        let rows: Vec<&str> = told.lines().filter(|line| line.starts_with("<tr><th scope=\"row\">")).collect();
        assert_eq!(
            rows,
            [
                "<tr><th scope=\"row\">docker.io/&lt;b&gt;:1</th><td>10.0.0.1</td><td class=\"number\">4.0 KiB/s</td>\
                 <td class=\"number\">-</td><td>-</td><td class=\"number\">2 s</td><td class=\"number\">-</td></tr>",
                "<tr><th scope=\"row\">docker.io/a:1</th><td>2 clients, 1 waiting</td>\
                 <td class=\"number\">2.0 KiB/s</td><td class=\"number\">512 B/s</td><td>\
                 <progress max=\"4096\" value=\"1024\" aria-label=\"Downloaded of docker.io/a:1\"></progress> 1.0 KiB \
                 of 4.0 KiB</td><td class=\"number\">1 min</td><td class=\"number\">2 s</td></tr>",
                "<tr><th scope=\"row\">quay.io/x/y</th><td>-</td><td class=\"number\">-</td>\
                 <td class=\"number\">512 B/s</td><td>-</td><td class=\"number\">1 min</td>\
                 <td class=\"number\">2 s</td></tr>",
            ]
        );
        assert!(told.contains("<p>7 B/s to clients, 9 B/s from registries.</p>"), "{told}");
    }

    #[test]
    fn few_of_many_transfers_are_shown() {
        let names: Vec<String> = (0..MAX_ROWS + 3).map(|number| format!("docker.io/a:{number}")).collect();
        let requests = names.iter().zip(0..).map(|(name, rate)| request(name, "10.0.0.1:1", rate, Some("hit")));
        let transfers = Transfers::of(&document(requests.collect(), Vec::new()));
        assert_eq!((transfers.rows.len(), transfers.others), (MAX_ROWS, 3));
        assert_eq!(transfers.rows[0].image, "docker.io/a:12");
        assert!(html(&transfers).contains("<p>3 more images are slower: "));
        assert!(html(&Transfers::default()).contains("<p>Nothing.</p>"));
    }
}
