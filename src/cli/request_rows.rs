//! Pulls and requests as rows of text (pure).
//!
//! A person at a terminal sees short times, and as much of each row as its width has room for; a file or a program gets all
//! of it. The id, by which more is told, always stays.

use std::time::SystemTime;

use forebay::{
    peer,
    visible::{printable, printable_start},
};
use serde_json::Value;

use super::{
    columns::{self, Columns, cut},
    output, text,
};

const RED: &str = "\x1b[31m";
const PLAIN: &str = "\x1b[0m";
/// The longest part of a cell that clients make up, in characters.
const MAX_CELL: usize = 200;
/// The longest part of a User-Agent, in characters: `containerd/v2.1.4`.
const MAX_AGENT: usize = 24;
/// The longest name of a user, in characters.
const MAX_USER: usize = 24;
/// The least widths of the columns behind the time of a request that is printed as it ends.
const WIDTHS: [usize; 9] = [22, 13, 28, 11, 7, 6, 9, 6, 10];
/// The places of some of these columns.
const CLIENT: usize = 1;
const OPERATION: usize = 2;
const IMAGE: usize = 3;
const STATUS: usize = 6;
const TOOK: usize = 8;
/// The least widths of names on a narrow terminal.
const MIN_CLIENT: usize = 9;
const MIN_IMAGE: usize = 14;
/// The least that is left of why something failed.
const MIN_FAILURE: usize = 10;

/// How rows look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    /// Failures are red.
    pub has_colours: bool,
    /// The time of the day in place of the whole time, seen from this moment.
    pub short_times: Option<SystemTime>,
    /// How many characters a row may have.
    pub width: Option<usize>,
}

impl Style {
    /// For standard output as it is now.
    pub(super) fn of_stdout() -> Self {
        let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stdout());
        Self {
            has_colours: output::has_colours(&std::io::stdout()),
            short_times: is_terminal.then(SystemTime::now),
            width: columns::terminal_width(),
        }
    }

    /// The head of the column of times. Short ones do not say that they are in UTC.
    fn time_head(self) -> &'static str {
        if self.short_times.is_some() { "UTC" } else { "TIME" }
    }

    fn time(self, time: &Value) -> String {
        match self.short_times {
            Some(now) => text::short_time(time, now),
            None => word(time),
        }
    }

    fn line(self, line: &str, is_failure: bool) -> String {
        match self.has_colours && is_failure {
            true => format!("{RED}{line}{PLAIN}\n"),
            false => format!("{line}\n"),
        }
    }
}

/// A table of pulls, a row each.
pub(super) fn pulls_table(pulls: &[&Value], style: Style) -> String {
    let mut columns =
        Columns::new([style.time_head(), "CLIENT", "IMAGE", "OUTCOME", "FAILURE", "REQUESTS", "SENT", "TOOK", "ID"]);
    for pull in pulls {
        let outcome = if pull["operation"] == "push" && pull["failure"].is_null() { "operation" } else { "outcome" };
        columns.row([
            style.time(&pull["time"]),
            client(pull),
            image(pull),
            word(&pull[outcome]),
            failure(pull),
            pull["requests"].as_u64().map(|requests| requests.to_string()).unwrap_or_default(),
            text::size(&pull["sent"]),
            took(pull),
            word(&pull["id"]),
        ]);
    }
    coloured(fit(columns, pulls, ["REQUESTS", "TOOK", "SENT"], style), pulls, style)
}

/// A table of requests, a row each, and the causes of failures below it.
pub(super) fn requests_table(requests: &[&Value], style: Style) -> String {
    let mut columns = Columns::new(request_head(style));
    requests.iter().for_each(|request| columns.row(cells(request, style)));
    let causes = requests.iter().filter_map(|request| {
        let cause = request["cause"].as_str()?;
        Some(format!("{}: {}\n", word(&request["id"]), printable(cause)))
    });
    // All are of one client.
    coloured(fit(columns, requests, ["CLIENT", "TOOK", "SENT"], style), requests, style) + &causes.collect::<String>()
}

/// A request in a few words, and the command that tells more of it.
pub(super) fn brief(request: &Value, now: SystemTime) -> String {
    let words = [
        format!("{} ago", text::age(&request["time"], now)),
        client(request),
        word(&request["method"]),
        request["status"].to_string(),
        word(&request["outcome"]),
        failure(request),
    ];
    let words: Vec<String> = words.into_iter().filter(|word| !word.is_empty()).collect();
    format!("{} → {}", words.join(" "), columns::unbroken(&format!("forebay log {}", word(&request["id"]))))
}

/// The heads of columns for requests that are printed as they end.
pub(super) fn followed_head(style: Style) -> String {
    format!("{}\n", followed_row(request_head(style).map(str::to_owned), style))
}

/// A request that has just ended.
pub(super) fn followed_line(request: &Value, style: Style) -> String {
    style.line(&followed_row(cells(request, style), style), request["error"] == true)
}

fn followed_row(cells: [String; 10], style: Style) -> String {
    let time = if style.short_times.is_some() { "08:00:00".len() } else { "2027-01-15T08:00:00.123Z".len() };
    let widths = [time].into_iter().chain(WIDTHS);
    let mut columns: Vec<(usize, String)> = widths.zip(cells).collect();
    style.width.into_iter().for_each(|width| fit_followed(&mut columns, width));
    let (widths, cells): (Vec<usize>, Vec<String>) = columns.into_iter().unzip();
    columns::row(cells, &widths)
}

/// The names give way first, then what the outcome implies. A failure stays whole, also if its line becomes too long.
fn fit_followed(columns: &mut Vec<(usize, String)>, width: usize) {
    let excess = |columns: &[(usize, String)]| {
        let widths: Vec<usize> = columns.iter().map(|(width, _)| *width).collect();
        columns::total(&widths).saturating_sub(width)
    };
    for (column, least) in [(IMAGE, MIN_IMAGE), (CLIENT, MIN_CLIENT)] {
        let (excess, room) = (excess(columns), room(columns, column, width));
        if let Some((width, cell)) = columns.get_mut(column) {
            *width = width.saturating_sub(excess).max(least);
            // A longer name has what the other cells of its row leave.
            *cell = cut(cell, room.max(*width));
        }
    }
    // The last one first, so that the places of the others stay.
    for column in [TOOK, STATUS, OPERATION] {
        if excess(columns) > 0 && column < columns.len() {
            columns.remove(column);
        }
    }
}

/// How many characters of a row the other cells leave to that of a column.
fn room(columns: &[(usize, String)], column: usize, width: usize) -> usize {
    let mut widths: Vec<usize> = columns.iter().map(|(width, cell)| cell.chars().count().max(*width)).collect();
    widths.get_mut(column).into_iter().for_each(|own| *own = 0);
    width.saturating_sub(columns::total(&widths))
}

fn request_head(style: Style) -> [&'static str; 10] {
    [style.time_head(), "CLIENT", "OPERATION", "IMAGE", "OUTCOME", "FAILURE", "STATUS", "SENT", "TOOK", "ID"]
}

fn cells(request: &Value, style: Style) -> [String; 10] {
    [
        style.time(&request["time"]),
        client(request),
        format!("{} {}", word(&request["method"]), word(&request["operation"])),
        image(request),
        word(&request["outcome"]),
        failure(request),
        request["status"].to_string(),
        text::size(&request["sent"]),
        took(request),
        word(&request["id"]),
    ]
}

/// The table for the terminal: an empty column goes first, then those that are `least`; the id always stays.
fn fit(columns: Columns, entries: &[&Value], least: [&'static str; 3], style: Style) -> Columns {
    let has_failure = entries.iter().any(|entry| !entry["failure"].is_null());
    let empty = (!has_failure).then_some("FAILURE");
    columns
        .with_names("IMAGE")
        .with_least(empty.into_iter().chain(least))
        .with_cuts([("CLIENT", MIN_CLIENT), ("FAILURE", MIN_FAILURE)])
        .fit(style.width)
}

/// The table, with its failures in red.
fn coloured(columns: Columns, entries: &[&Value], style: Style) -> String {
    let is_failure =
        |entry: &&Value| entry["error"] == true || !(entry["failure"].is_null() || entry["error"] == false);
    let failures = std::iter::once(false).chain(entries.iter().map(is_failure));
    let text = columns.to_string();
    text.lines().zip(failures).map(|(line, is_failure)| style.line(line, is_failure)).collect()
}

/// The user, the address without its port, and the start of the User-Agent: `ann@10.0.4.31 docker/29.1`.
pub(super) fn client(entry: &Value) -> String {
    let address = peer::address(entry["peer"].as_str().unwrap_or_default());
    let user = entry["user"].as_str().map(|user| printable_start(user, MAX_USER) + "@").unwrap_or_default();
    let agent = entry["user_agent"].as_str().and_then(|agent| agent.split_whitespace().next());
    let agent = agent.map(|agent| format!(" {}", printable_start(agent, MAX_AGENT))).unwrap_or_default();
    format!("{user}{}{agent}", printable_start(&address, MAX_CELL))
}

/// The image with a short digest; else the path.
fn image(entry: &Value) -> String {
    match entry["image"].as_str() {
        Some(image) => short(image),
        None => word(&entry["path"]),
    }
}

/// A name with the start of its digest.
pub(super) fn short(image: &str) -> String {
    let Some((name, digest)) = image.split_once('@') else { return printable(image) };
    printable(&format!("{name}@{}", text::short_digest(digest)))
}

/// Its word, and in brackets why the upstream could not answer.
fn failure(entry: &Value) -> String {
    match (entry["failure"].as_str(), entry["upstream_cause"].as_str()) {
        (Some(failure), Some(cause)) => printable_start(&format!("{failure} ({cause})"), MAX_CELL),
        (Some(failure), None) => printable_start(failure, MAX_CELL),
        (None, _) => String::new(),
    }
}

fn took(entry: &Value) -> String {
    entry["duration_seconds"].as_f64().map(text::seconds).unwrap_or_default()
}

fn word(value: &Value) -> String {
    printable_start(value.as_str().unwrap_or_default(), MAX_CELL)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    const PIPED: Style = Style { has_colours: false, short_times: None, width: None };
    const RED_LINES: Style = Style { has_colours: true, short_times: None, width: None };

    fn terminal() -> Style {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_003_600);
        Style { has_colours: false, short_times: Some(now), width: None }
    }

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
        let pull = pull();
        let expected = "\
TIME                      CLIENT                 IMAGE                                OUTCOME  FAILURE                     REQUESTS  SENT       TOOK    ID
2027-01-15T08:00:00.123Z  10.0.4.31 docker/29.1  docker.io/library/node:22            hit      -                           7         389.0 MiB  2.1 s   58fd6720-4
2027-01-15T08:00:00.123Z  ::1 docker/29.1        docker.io/library/node:22            push     -                           7         389.0 MiB  2.1 s   58fd6720-4
2027-01-15T08:00:00.123Z  10.0.4.31              ghcr.io/org/app@sha256:1f2e1f2e1f2e  error    upstream_unavailable (dns)  7         0 B        250 ms  58fd6720-4
";
        assert_eq!(pulls_table(&[&pull, &push, &failed], PIPED), expected);
        let red = pulls_table(&[&pull, &failed], RED_LINES);
        let lines: Vec<&str> = red.lines().collect();
        assert!(!lines[0].contains('\x1b') && !lines[1].contains('\x1b'), "{red}");
        assert!(lines[2].starts_with(RED) && lines[2].ends_with(PLAIN), "{red}");
    }

    #[test]
    fn a_person_at_a_terminal_sees_short_times_and_users() {
        let of_user = with(pull(), &[("user", "ann".into()), ("time", "2027-01-14T23:59:59.999Z".into())]);
        let expected = "\
UTC             CLIENT                     IMAGE                      OUTCOME  FAILURE  REQUESTS  SENT       TOOK   ID
01-14 23:59:59  ann@10.0.4.31 docker/29.1  docker.io/library/node:22  hit      -        7         389.0 MiB  2.1 s  58fd6720-4
08:00:00        10.0.4.31 docker/29.1      docker.io/library/node:22  hit      -        7         389.0 MiB  2.1 s  58fd6720-4
";
        assert_eq!(pulls_table(&[&of_user, &pull()], terminal()), expected);
        let request = with(pull(), &[("method", "GET".into()), ("status", 200.into()), ("error", false.into())]);
        assert!(followed_line(&request, terminal()).starts_with("08:00:00  10.0.4.31 docker/29.1   GET pull "));
    }

    #[test]
    fn rows_fit_the_terminal_and_keep_their_ids() {
        let digest = format!("registry.k8s.io/group/project/image@sha256:{}", "1f2e".repeat(16));
        let long = with(pull(), &[("image", digest.into()), ("user", "a-user-with-a-name".into())]);
        let failed = with(pull(), &[("outcome", "error".into()), ("failure", "manifest_unknown".into())]);
        let request = with(long.clone(), &[("method", "GET".into()), ("status", 200.into()), ("error", false.into())]);
        for width in [80, 100, 120, 140] {
            let style = Style { width: Some(width), ..terminal() };
            let followed = followed_head(style) + &followed_line(&request, style);
            for text in [pulls_table(&[&long, &failed], style), requests_table(&[&request], style), followed] {
                let widest = text.lines().map(|line| line.chars().count()).max();
                assert!(widest <= Some(width), "{width}: {text}");
                assert!(text.lines().skip(1).all(|line| line.ends_with("58fd6720-4")), "{text}");
            }
            // Why it failed is not cut before all else is.
            assert!(pulls_table(&[&long, &failed], style).contains(" manifest_unknown "));
            assert!(followed_line(&failed, style).contains(" manifest_unknown "));
        }
        let wide = Style { width: Some(500), ..terminal() };
        assert_eq!(pulls_table(&[&long, &failed], wide), pulls_table(&[&long, &failed], terminal()));
        // A name that is longer than its column is cut only where the row has no room for it.
        assert_eq!(followed_line(&request, wide), followed_line(&request, terminal()));
        for width in 140..200 {
            let line = followed_line(&request, Style { width: Some(width), ..terminal() });
            let len = line.trim_end().chars().count();
            assert!(len == width || len < width && !line.contains('…'), "{width}: {line}");
        }
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
        let table = requests_table(&[&challenge, &request], RED_LINES);
        let lines: Vec<&str> = table.lines().collect();
        assert!(
            lines[1].contains(
                "  GET manifest  docker.io/library/node:22  hit      upstream_unavailable  401     389.0 MiB"
            ),
            "{table}"
        );
        assert!(!lines[1].starts_with(RED) && lines[2].starts_with(RED), "{table}");
        assert_eq!(lines[3], "58fd6720-4: cannot connect: refused");
        let followed = followed_line(&request, PIPED);
        assert!(followed.contains("  upstream_unavailable  502 "), "{followed}");
        let place = |line: &str, word: &str| line.find(word).unwrap();
        assert_eq!(place(&followed_head(PIPED), "OUTCOME"), place(&followed, "hit "));
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
        for text in [pulls_table(&[&entry], PIPED), requests_table(&[&entry], PIPED), followed_line(&entry, PIPED)] {
            let rest = text.replace('\n', "");
            assert!(!rest.chars().any(|c| c.is_control() || c == '\u{202e}'), "{text:?}");
            assert!(text.lines().all(|line| line.chars().count() < 600), "{text}");
        }
    }
}
