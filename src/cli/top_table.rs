//! What `forebay top` shows: the transfers of a document as rows of text (pure).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use clap::ValueEnum;
use forebay::visible::printable_start;
use serde_json::Value;

use super::{
    columns::{Columns, cut},
    request_rows::{client, short},
    text,
};

/// The longest part of a word that clients or upstreams make up, in characters.
const MAX_CELL: usize = 200;
/// The longest name that is shown, in characters.
const MAX_NAME: usize = 72;
/// How short the other cells that may be long become on a narrow terminal.
const MIN_CLIENT: usize = 9;
const MIN_STATE: usize = 12;

/// What each row is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum By {
    #[default]
    Image,
    Client,
    User,
    Upstream,
}

impl By {
    /// What a key stands for.
    pub(super) fn of_key(key: u8) -> Option<Self> {
        Some(match key {
            b'i' => Self::Image,
            b'c' => Self::Client,
            b's' => Self::User,
            b'u' => Self::Upstream,
            _ => return None,
        })
    }

    pub(super) fn head(self) -> &'static str {
        match self {
            Self::Image => "IMAGE",
            Self::Client => "CLIENT",
            Self::User => "USER",
            Self::Upstream => "UPSTREAM",
        }
    }
}

/// The transfers of one image, client or upstream.
#[derive(Debug, Default)]
struct Row {
    sent_rate: u64,
    received_rate: u64,
    clients: BTreeSet<String>,
    requests: usize,
    downloads: usize,
    /// How many requests wait for the head of a response.
    waiting: usize,
    outcomes: BTreeSet<String>,
    here: u64,
    size: u64,
    /// How long the oldest has been running.
    seconds: u64,
    left_seconds: Option<u64>,
}

/// The document as a text: sums, then a table, of which cells are cut so that its lines have at most `width` characters.
pub(super) fn table(document: &Value, by: By, width: Option<usize>) -> String {
    let entries = |key: &str| document[key].as_array().map_or(&[][..], Vec::as_slice);
    let (requests, downloads) = (entries("requests"), entries("downloads"));
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    for request in requests {
        rows.entry(key(request, by)).or_default().add_request(request);
    }
    // forebay does not know for which clients a download goes on.
    for download in downloads.iter().filter(|_| matches!(by, By::Image | By::Upstream)) {
        rows.entry(key(download, by)).or_default().add_download(download);
    }
    let mut rows: Vec<_> = rows.into_iter().collect();
    rows.sort_by_key(|(_, row)| std::cmp::Reverse((row.sent_rate, row.received_rate)));
    let mut columns = Columns::new(head(by));
    for (name, row) in &rows {
        columns.row(row.cells(&cut(name, MAX_NAME), by));
    }
    let cuts = [("CLIENTS", MIN_CLIENT), ("STATE", MIN_STATE)];
    let columns = columns.with_names(by.head()).with_cuts(cuts).fit(width);
    let left_out = match document["left_out"].as_u64() {
        Some(left_out) if left_out > 0 => format!("   {left_out} not shown"),
        _ => String::new(),
    };
    format!(
        "requests {}   downloads {}   out {}   in {}{left_out}\n{columns}",
        requests.len(),
        downloads.len(),
        rate(number(&document["sent_bytes_per_second"])),
        rate(number(&document["received_bytes_per_second"])),
    )
}

fn head(by: By) -> [&'static str; 7] {
    let whose = if by == By::Client { "REQUESTS" } else { "CLIENTS" };
    ["OUT", "IN", by.head(), whose, "STATE", "AGE", "LEFT"]
}

/// The name of the row to which a transfer or a pull belongs.
pub(super) fn key(entry: &Value, by: By) -> String {
    match by {
        By::Image => image(entry),
        By::Client => client(entry),
        By::User => printable_start(entry["user"].as_str().unwrap_or("anonymous"), MAX_CELL),
        By::Upstream => printable_start(entry["upstream"].as_str().unwrap_or("none"), MAX_CELL),
    }
}

/// The image, if it is known, or else the repository.
fn image(entry: &Value) -> String {
    let word = |key: &str| entry[key].as_str().unwrap_or_default();
    match entry["image"].as_str() {
        Some(image) => short(image),
        None => printable_start(&format!("{}/{}", word("upstream"), word("repository")), MAX_CELL),
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

fn rate(bytes: u64) -> String {
    format!("{}/s", text::bytes(bytes))
}

impl Row {
    fn add_request(&mut self, request: &Value) {
        self.requests += 1;
        self.sent_rate = self.sent_rate.saturating_add(number(&request["bytes_per_second"]));
        self.clients.insert(client(request));
        match request["outcome"].as_str() {
            Some(outcome) => {
                self.outcomes.insert(printable_start(outcome, MAX_CELL));
            }
            None => self.waiting += 1,
        }
        self.add_time(request);
    }

    fn add_download(&mut self, download: &Value) {
        self.downloads += 1;
        self.received_rate = self.received_rate.saturating_add(number(&download["bytes_per_second"]));
        self.here = self.here.saturating_add(number(&download["here"]));
        self.size = self.size.saturating_add(number(&download["size"]));
        self.add_time(download);
    }

    fn add_time(&mut self, entry: &Value) {
        self.seconds = self.seconds.max(whole_seconds(&entry["seconds"]));
        self.left_seconds = self.left_seconds.max(entry["left_seconds"].as_u64());
    }

    fn cells(&self, name: &str, by: By) -> [String; 7] {
        let clients = match (self.clients.first(), self.clients.len()) {
            (Some(_), 1) if by == By::Client => self.requests.to_string(),
            (Some(client), 1) => client.clone(),
            (_, 0) => String::new(),
            (_, count) => count.to_string(),
        };
        [
            rate(self.sent_rate),
            rate(self.received_rate),
            name.to_owned(),
            clients,
            self.state(),
            clock(self.seconds),
            self.left_seconds.map(clock).unwrap_or_default(),
        ]
    }

    /// What is downloaded and how much of it is here, what clients get, and how many wait.
    fn state(&self) -> String {
        let mut parts = Vec::new();
        if self.size > 0 {
            parts.push(format!("{} of {} downloaded", text::bytes(self.here), text::bytes(self.size)));
        } else if self.downloads > 0 {
            parts.push("opening".to_owned());
        }
        parts.extend(self.outcomes.iter().cloned());
        if self.waiting > 0 {
            parts.push(format!("{} waiting", self.waiting));
        }
        parts.join(", ")
    }
}

fn whole_seconds(value: &Value) -> u64 {
    let seconds = value.as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.unwrap_or_default().as_secs()
}

/// Minutes and seconds.
fn clock(seconds: u64) -> String {
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn document() -> Value {
        let digest = format!("sha256:{}", "a".repeat(64));
        let request = |image: &str, peer: &str, outcome: Value, rate: u64| {
            json!({ "image": image, "upstream": "docker.io", "peer": peer, "user_agent": "containerd/v2.1 go",
                    "outcome": outcome, "bytes_per_second": rate, "seconds": 2.5, "left_seconds": 63 })
        };
        let node = "docker.io/library/node:22";
        let trainer = format!("docker.io/org/trainer@{digest}");
        json!({
            "requests": [
                request(node, "10.0.4.31:51", json!("hit"), 4096),
                request(&trainer, "10.0.4.31:52", json!("joined"), 1024),
                request(&trainer, "[2001:db8::1]:53", Value::Null, 0),
            ],
            "downloads": [
                { "image": trainer, "upstream": "docker.io", "repository": "org/trainer", "here": 2048, "size": 4096,
                  "bytes_per_second": 512, "seconds": 51.9, "left_seconds": 4 },
                { "image": null, "upstream": "quay.io", "repository": "x/y", "here": 0, "size": null,
                  "bytes_per_second": 0, "seconds": 27.0, "left_seconds": null },
            ],
            "sent_bytes_per_second": 5120, "received_bytes_per_second": 512, "left_out": 0,
        })
    }

    #[test]
    fn rows_are_images_clients_or_upstreams() {
        let (head, digest) = ("requests 3 downloads 2 out 5.0 KiB/s in 512 B/s", "sha256:aaaaaaaaaaaa");
        let trainer = format!(
            "1.0 KiB/s 512 B/s docker.io/org/trainer@{digest} 2 2.0 KiB of 4.0 KiB downloaded, joined, 1 waiting 0:51 1:03"
        );
        let of_upstream =
            "5.0 KiB/s 512 B/s docker.io 2 2.0 KiB of 4.0 KiB downloaded, hit, joined, 1 waiting 0:51 1:03".to_owned();
        let quay = |name| format!("0 B/s 0 B/s {name} - opening 0:27 -");
        for (by, expected) in [
            (
                By::Image,
                vec![
                    "OUT IN IMAGE CLIENTS STATE AGE LEFT".to_owned(),
                    "4.0 KiB/s 0 B/s docker.io/library/node:22 10.0.4.31 containerd/v2.1 hit 0:02 1:03".to_owned(),
                    trainer,
                    quay("quay.io/x/y"),
                ],
            ),
            (
                By::Client,
                vec![
                    "OUT IN CLIENT REQUESTS STATE AGE LEFT".to_owned(),
                    "5.0 KiB/s 0 B/s 10.0.4.31 containerd/v2.1 2 hit, joined 0:02 1:03".to_owned(),
                    "0 B/s 0 B/s 2001:db8::1 containerd/v2.1 1 1 waiting 0:02 1:03".to_owned(),
                ],
            ),
            (
                By::User,
                vec![
                    "OUT IN USER CLIENTS STATE AGE LEFT".to_owned(),
                    "5.0 KiB/s 0 B/s anonymous 2 hit, joined, 1 waiting 0:02 1:03".to_owned(),
                ],
            ),
            (By::Upstream, vec!["OUT IN UPSTREAM CLIENTS STATE AGE LEFT".to_owned(), of_upstream, quay("quay.io")]),
        ] {
            let told = table(&document(), by, None);
            let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
            let lines: Vec<String> = told.lines().map(words).collect();
            assert_eq!((&*lines[0], &lines[1..]), (head, &expected[..]), "{told}");
        }
    }

    #[test]
    fn names_are_cut_to_the_width_of_the_terminal() {
        let widest = |width| {
            table(&document(), By::Image, width).lines().skip(1).map(|line| line.chars().count()).max().unwrap()
        };
        let whole = widest(None);
        assert!(whole > 130, "{whole}");
        assert_eq!((widest(Some(whole)), widest(Some(whole - 5)), widest(Some(1000))), (whole, whole - 5, whole));
        assert_eq!(widest(Some(80)), 80);
        let narrow = table(&document(), By::Image, Some(10));
        assert!(narrow.contains("  docke…ode:22  "), "{narrow}");
    }
}
