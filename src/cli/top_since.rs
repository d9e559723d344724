//! What `forebay top --since` shows: the pulls of a while by image, client, user or upstream (pure).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::SystemTime,
};

use serde::Serialize;
use serde_json::Value;

use super::{
    columns::Columns,
    request_rows::client,
    text,
    top_table::{By, key},
};

/// The row of what names no image.
const NO_IMAGE: &str = "no image";

/// The pulls since a moment.
#[derive(Debug, Default, Serialize)]
pub(super) struct Since {
    /// When the first of them was: forebay may remember none before it.
    first: Option<String>,
    pulls: u64,
    errors: u64,
    sent: u64,
    upstream_bytes: u64,
    /// Those with the most bytes first.
    rows: Vec<Row>,
}

/// Those of one image, client, user or upstream.
#[derive(Debug, Default, Serialize)]
struct Row {
    name: String,
    pulls: u64,
    errors: u64,
    sent: u64,
    upstream_bytes: u64,
    #[serde(serialize_with = "count")]
    clients: BTreeSet<String>,
    last: Option<String>,
}

fn count<S: serde::Serializer>(clients: &BTreeSet<String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(clients.len() as u64)
}

impl Since {
    /// The pulls of a document of `GET pulls` that are not older than `from`.
    pub(super) fn of(document: &Value, by: By, from: SystemTime) -> Self {
        let mut since = Self::default();
        let mut rows: BTreeMap<String, Row> = BTreeMap::new();
        for pull in document["pulls"].as_array().into_iter().flatten() {
            let time = pull["time"].as_str().and_then(|text| Some((text, humantime::parse_rfc3339(text).ok()?)));
            let Some((text, _)) = time.filter(|(_, time)| *time >= from) else { continue };
            if pull["operation"] != "pull" {
                continue;
            }
            let is_error = u64::from(!pull["failure"].is_null());
            let number = |key: &str| pull[key].as_u64().unwrap_or_default();
            let has_name = by != By::Image || !pull["image"].is_null();
            let name = if has_name { key(pull, by) } else { NO_IMAGE.to_owned() };
            let row = rows.entry(name).or_default();
            for (sum, one) in [
                (&mut row.pulls, 1),
                (&mut row.errors, is_error),
                (&mut row.sent, number("sent")),
                (&mut row.upstream_bytes, number("upstream_bytes")),
                (&mut since.pulls, 1),
                (&mut since.errors, is_error),
                (&mut since.sent, number("sent")),
                (&mut since.upstream_bytes, number("upstream_bytes")),
            ] {
                *sum = sum.saturating_add(one);
            }
            row.clients.insert(client(pull));
            // Times of RFC 3339 in UTC are in the order of their texts.
            row.last = row.last.take().max(Some(text.to_owned()));
            let first = since.first.take().filter(|first| **first <= *text);
            since.first = Some(first.unwrap_or_else(|| text.to_owned()));
        }
        since.rows = rows.into_iter().map(|(name, row)| Row { name, ..row }).collect();
        since.rows.sort_by_key(|row| std::cmp::Reverse((row.sent, row.pulls)));
        since
    }

    /// For a person: sums, then a table whose lines have at most `width` characters, if they can.
    pub(super) fn text(&self, by: By, width: Option<usize>, now: SystemTime) -> String {
        let mut columns = Columns::new([by.head(), "PULLS", "ERRORS", "SENT", "FROM UPSTREAM", "CLIENTS", "LAST"]);
        for row in &self.rows {
            columns.row([
                row.name.clone(),
                row.pulls.to_string(),
                row.errors.to_string(),
                text::bytes(row.sent),
                text::bytes(row.upstream_bytes),
                row.clients.len().to_string(),
                row.last.as_deref().map(|last| text::age(&last.into(), now) + " ago").unwrap_or_default(),
            ]);
        }
        let columns = columns.with_names(by.head()).with_least(["CLIENTS", "LAST"]).fit(width);
        let first = match &self.first {
            Some(first) => format!("since {}   ", text::short_time(&first.as_str().into(), now)),
            None => String::new(),
        };
        format!(
            "{first}pulls {}   errors {}   sent {}   from upstreams {}\n{columns}",
            self.pulls,
            self.errors,
            text::bytes(self.sent),
            text::bytes(self.upstream_bytes),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn pull(time: &str, image: &str, peer: &str, failure: Value) -> Value {
        json!({ "time": time, "image": image, "upstream": "docker.io", "peer": peer, "user_agent": "docker/29.1 go",
                "operation": "pull", "sent": 2048, "upstream_bytes": 1024, "failure": failure })
    }

    fn document() -> Value {
        let push = json!({ "time": "2027-01-15T07:59:59Z", "operation": "push", "image": "docker.io/a:1", "sent": 7 });
        json!({ "pulls": [
            push,
            pull("2027-01-15T07:59:00.5Z", "docker.io/a:1", "10.0.0.1:1", Value::Null),
            pull("2027-01-15T07:30:00Z", "docker.io/b:1", "10.0.0.1:2", json!("manifest_unknown")),
            pull("2027-01-15T07:20:00Z", "docker.io/a:1", "10.0.0.2:1", Value::Null),
            json!({ "time": "2027-01-15T07:10:00Z", "image": null, "operation": "pull", "peer": "10.0.0.1:1",
                    "failure": "unknown_upstream" }),
            pull("2027-01-15T06:59:59Z", "docker.io/old:1", "10.0.0.2:1", Value::Null),
        ] })
    }

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn since(by: By) -> Since {
        Since::of(&document(), by, now() - Duration::from_secs(3600))
    }

    #[test]
    fn pulls_of_a_while_are_summed_by_name() {
        let head = "since 07:10:00   pulls 4   errors 2   sent 6.0 KiB   from upstreams 3.0 KiB\n";
        for (by, rows) in [
            (
                By::Image,
                "IMAGE          PULLS  ERRORS  SENT     FROM UPSTREAM  CLIENTS  LAST\n\
                 docker.io/a:1  2      0       4.0 KiB  2.0 KiB        2        59 s ago\n\
                 docker.io/b:1  1      1       2.0 KiB  1.0 KiB        1        30 min ago\n\
                 no image       1      1       0 B      0 B            1        50 min ago\n",
            ),
            (
                By::Upstream,
                "UPSTREAM   PULLS  ERRORS  SENT     FROM UPSTREAM  CLIENTS  LAST\n\
                 docker.io  3      1       6.0 KiB  3.0 KiB        2        59 s ago\n\
                 none       1      1       0 B      0 B            1        50 min ago\n",
            ),
            (
                By::User,
                "USER       PULLS  ERRORS  SENT     FROM UPSTREAM  CLIENTS  LAST\n\
                 anonymous  4      2       6.0 KiB  3.0 KiB        3        59 s ago\n",
            ),
        ] {
            assert_eq!(since(by).text(by, None, now()), format!("{head}{rows}"), "{by:?}");
        }
        let clients = since(By::Client).text(By::Client, None, now());
        assert!(clients.contains("\n10.0.0.1 docker/29.1  2      1 "), "{clients}");
        let narrow = since(By::Client).text(By::Client, Some(60), now());
        assert!(narrow.lines().skip(1).all(|line| line.chars().count() <= 60), "{narrow}");
        let nothing = Since::of(&document(), By::Image, now()).text(By::Image, None, now());
        assert!(nothing.starts_with("pulls 0   errors 0   sent 0 B "), "{nothing}");
    }

    #[test]
    fn programs_get_numbers() {
        let told = serde_json::to_value(since(By::Image)).unwrap();
        assert_eq!((&told["first"], &told["pulls"]), (&json!("2027-01-15T07:10:00Z"), &json!(4)));
        assert_eq!(
            told["rows"][0],
            json!({ "name": "docker.io/a:1", "pulls": 2, "errors": 0, "sent": 4096, "upstream_bytes": 2048,
                    "clients": 2, "last": "2027-01-15T07:59:00.5Z" })
        );
    }
}
