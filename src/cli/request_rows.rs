//! Pulls and requests as rows of text (pure).
//!
//! What must hold: what clients and upstreams made up cannot command the terminal.

use std::{
    env,
    io::{self, IsTerminal as _},
};

use serde_json::Value;

use super::{columns::Columns, text, visible::is_deceptive};

const RED: &str = "\x1b[31m";
const PLAIN: &str = "\x1b[0m";
/// How many hexadecimal digits of a digest people see.
const SHORT_DIGEST: usize = 12;
/// The longest part of a cell that clients make up, in characters.
const MAX_CELL: usize = 200;
/// The longest part of a User-Agent, in characters: `containerd/v2.1.4`.
const MAX_AGENT: usize = 24;
/// The least widths of the columns of a request that is printed as it ends, but for the last.
const WIDTHS: [usize; 9] = [24, 30, 13, 40, 11, 6, 10, 7, 12];
const REQUEST_HEAD: [&str; 10] =
    ["TIME", "CLIENT", "OPERATION", "IMAGE", "OUTCOME", "STATUS", "SENT", "TOOK", "ID", "FAILURE"];

/// Whether failures are red.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colours {
    Yes,
    No,
}

impl Colours {
    /// Colours are for a terminal whose user did not refuse them (<https://no-color.org>).
    pub(super) fn of_stdout() -> Self {
        let is_refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if io::stdout().is_terminal() && !is_refused { Self::Yes } else { Self::No }
    }

    fn line(self, line: &str, is_failure: bool) -> String {
        match self {
            Self::Yes if is_failure => format!("{RED}{line}{PLAIN}\n"),
            Self::Yes | Self::No => format!("{line}\n"),
        }
    }
}

/// A table of pulls, a row each.
pub(super) fn pulls_table(pulls: &[&Value], colours: Colours) -> String {
    let mut columns = Columns::new(["TIME", "CLIENT", "IMAGE", "OUTCOME", "REQUESTS", "SENT", "TOOK", "ID", "FAILURE"]);
    for pull in pulls {
        let outcome = if pull["operation"] == "push" && pull["failure"].is_null() { "operation" } else { "outcome" };
        columns.row([
            word(&pull["time"]),
            client(pull),
            image(pull),
            word(&pull[outcome]),
            pull["requests"].as_u64().map(|requests| requests.to_string()).unwrap_or_default(),
            sent(pull),
            took(pull),
            word(&pull["id"]),
            failure(pull),
        ]);
    }
    coloured(&columns, pulls, colours)
}

/// A table of requests, a row each, and the causes of failures below it.
pub(super) fn requests_table(requests: &[&Value], colours: Colours) -> String {
    let mut columns = Columns::new(REQUEST_HEAD);
    requests.iter().for_each(|request| columns.row(cells(request)));
    let causes = requests.iter().filter_map(|request| {
        let cause = request["cause"].as_str()?;
        Some(format!("{}: {}\n", word(&request["id"]), printable(cause, usize::MAX)))
    });
    coloured(&columns, requests, colours) + &causes.collect::<String>()
}

/// A request in a few words, and the command that tells more of it.
pub(super) fn brief(request: &Value) -> String {
    let words = [
        word(&request["time"]),
        client(request),
        word(&request["method"]),
        request["status"].to_string(),
        word(&request["outcome"]),
        failure(request),
    ];
    let words: Vec<String> = words.into_iter().filter(|word| !word.is_empty()).collect();
    format!("{} → forebay log {}", words.join(" "), word(&request["id"]))
}

/// The heads of columns for requests that are printed as they end.
pub(super) fn followed_head() -> String {
    format!("{}\n", padded(&REQUEST_HEAD.map(str::to_owned)))
}

/// A request that has just ended.
pub(super) fn followed_line(request: &Value, colours: Colours) -> String {
    colours.line(&padded(&cells(request)), request["error"] == true)
}

fn cells(request: &Value) -> [String; 10] {
    [
        word(&request["time"]),
        client(request),
        format!("{} {}", word(&request["method"]), word(&request["operation"])),
        image(request),
        word(&request["outcome"]),
        request["status"].to_string(),
        sent(request),
        took(request),
        word(&request["id"]),
        failure(request),
    ]
}

fn padded(cells: &[String; 10]) -> String {
    let widths = WIDTHS.into_iter().chain([0]);
    let cells = cells.iter().zip(widths).map(|(cell, width)| {
        let cell = if cell.is_empty() { "-" } else { cell };
        format!("{cell:width$}")
    });
    cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
}

/// The table, with its failures in red.
fn coloured(columns: &Columns, entries: &[&Value], colours: Colours) -> String {
    let is_failure =
        |entry: &&Value| entry["error"] == true || !(entry["failure"].is_null() || entry["error"] == false);
    let failures = std::iter::once(false).chain(entries.iter().map(is_failure));
    let text = columns.to_string();
    text.lines().zip(failures).map(|(line, is_failure)| colours.line(line, is_failure)).collect()
}

/// The address without its port, and the start of the User-Agent: `10.0.4.31 docker/29.1`.
pub(super) fn client(entry: &Value) -> String {
    let peer = entry["peer"].as_str().unwrap_or_default();
    let address = peer.parse().map_or_else(|_| peer.to_owned(), |peer: std::net::SocketAddr| peer.ip().to_string());
    let agent = entry["user_agent"].as_str().and_then(|agent| agent.split_whitespace().next());
    match agent {
        Some(agent) => format!("{} {}", printable(&address, MAX_CELL), printable(agent, MAX_AGENT)),
        None => printable(&address, MAX_CELL),
    }
}

/// The image with a short digest; else the path.
fn image(entry: &Value) -> String {
    let Some(image) = entry["image"].as_str() else {
        return printable(entry["path"].as_str().unwrap_or_default(), MAX_CELL);
    };
    short(image)
}

/// A name with the start of its digest.
pub(super) fn short(image: &str) -> String {
    let Some((name, digest)) = image.split_once('@') else { return printable(image, usize::MAX) };
    let Some((algorithm, hex)) = digest.split_once(':') else { return printable(image, usize::MAX) };
    printable(&format!("{name}@{algorithm}:{}", hex.get(..SHORT_DIGEST).unwrap_or(hex)), usize::MAX)
}

/// Its word, and in brackets why the upstream could not answer.
fn failure(entry: &Value) -> String {
    match (entry["failure"].as_str(), entry["upstream_cause"].as_str()) {
        (Some(failure), Some(cause)) => printable(&format!("{failure} ({cause})"), MAX_CELL),
        (Some(failure), None) => printable(failure, MAX_CELL),
        (None, _) => String::new(),
    }
}

fn sent(entry: &Value) -> String {
    entry["sent"].as_u64().map(text::bytes).unwrap_or_default()
}

fn took(entry: &Value) -> String {
    entry["duration_seconds"].as_f64().map(text::seconds).unwrap_or_default()
}

fn word(value: &Value) -> String {
    printable(value.as_str().unwrap_or_default(), MAX_CELL)
}

/// The text without what could command a terminal, or turn its text around.
pub(super) fn printable(text: &str, most: usize) -> String {
    text.chars().take(most).map(|letter| if is_deceptive(letter) { '?' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pull() -> Value {
        json!({
            "id": "58fd6720-4", "time": "2027-01-15T08:00:00.123Z", "peer": "10.0.4.31:5123",
            "user_agent": "docker/29.1 go/go1.24 os/linux", "user": null, "upstream": "docker.io",
            "image": "docker.io/library/node:22", "operation": "pull", "outcome": "hit", "requests": 7,
            "sent": 407_896_064, "upstream_bytes": 0, "duration_seconds": 2.14, "status": null, "failure": null,
            "upstream_cause": null, "cause": null, "access": "shared",
        })
    }

    fn with(mut entry: Value, changes: &[(&str, Value)]) -> Value {
        for (key, value) in changes {
            entry[*key] = value.clone();
        }
        entry
    }

    #[test]
    fn a_pull_is_a_line() {
        let push =
            with(pull(), &[("operation", "push".into()), ("outcome", "bypass".into()), ("peer", "[::1]:9".into())]);
        let digest = format!("ghcr.io/org/app@sha256:{}", "1f2e".repeat(16));
        let failed = with(
            pull(),
            &[
                ("image", digest.into()),
                ("outcome", "error".into()),
                ("failure", "upstream_unavailable".into()),
                ("upstream_cause", "dns".into()),
                ("user_agent", Value::Null),
                ("duration_seconds", 0.25.into()),
                ("sent", 0.into()),
            ],
        );
        let (pull, colours) = (pull(), Colours::No);
        let expected = "\
TIME                      CLIENT                 IMAGE                                OUTCOME  REQUESTS  SENT       TOOK    ID          FAILURE
2027-01-15T08:00:00.123Z  10.0.4.31 docker/29.1  docker.io/library/node:22            hit      7         389.0 MiB  2.1 s   58fd6720-4  -
2027-01-15T08:00:00.123Z  ::1 docker/29.1        docker.io/library/node:22            push     7         389.0 MiB  2.1 s   58fd6720-4  -
2027-01-15T08:00:00.123Z  10.0.4.31              ghcr.io/org/app@sha256:1f2e1f2e1f2e  error    7         0 B        250 ms  58fd6720-4  upstream_unavailable (dns)
";
        assert_eq!(pulls_table(&[&pull, &push, &failed], colours), expected);
        let red = pulls_table(&[&pull, &failed], Colours::Yes);
        let lines: Vec<&str> = red.lines().collect();
        assert!(!lines[0].contains('\x1b') && !lines[1].contains('\x1b'), "{red}");
        assert!(lines[2].starts_with(RED) && lines[2].ends_with(PLAIN), "{red}");
    }

    #[test]
    fn a_request_is_a_line_with_its_cause_below() {
        let request = with(
            pull(),
            &[
                ("method", "GET".into()),
                ("operation", "manifest".into()),
                ("status", 502.into()),
                ("error", true.into()),
                ("failure", "upstream_unavailable".into()),
                ("cause", "cannot connect: refused".into()),
            ],
        );
        let challenge =
            with(request.clone(), &[("error", false.into()), ("cause", Value::Null), ("status", 401.into())]);
        let table = requests_table(&[&challenge, &request], Colours::Yes);
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[1].contains("  GET manifest  docker.io/library/node:22  hit      401     389.0 MiB"), "{table}");
        assert!(!lines[1].starts_with(RED) && lines[2].starts_with(RED), "{table}");
        assert_eq!(lines[3], "58fd6720-4: cannot connect: refused");
        let followed = followed_line(&request, Colours::No);
        assert!(followed.ends_with("  upstream_unavailable\n"), "{followed}");
        let id = |line: &str, word: &str| line.find(word).unwrap();
        assert_eq!(id(&followed_head(), "ID "), id(&followed, "58fd6720-4"));
    }

    #[test]
    fn a_client_cannot_command_the_terminal() {
        let hostile = "\x1b]0;title\x07\u{9b}2J\u{202e}evil\r\n";
        let entry = with(
            pull(),
            &[
                ("user_agent", hostile.into()),
                ("image", Value::Null),
                ("path", format!("/v2/{hostile}{}", "x".repeat(5000)).into()),
                ("cause", hostile.into()),
                ("failure", hostile.into()),
                ("method", hostile.into()),
                ("operation", hostile.into()),
            ],
        );
        for text in [
            pulls_table(&[&entry], Colours::No),
            requests_table(&[&entry], Colours::No),
            followed_line(&entry, Colours::No),
        ] {
            let rest = text.replace('\n', "");
            assert!(!rest.chars().any(|c| c.is_control() || c == '\u{202e}'), "{text:?}");
            assert!(text.lines().all(|line| line.chars().count() < 600), "{text}");
        }
    }
}
