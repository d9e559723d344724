//! `forebay explain REF`: how a pull of an image would go, step by step.

use std::{iter, ops::ControlFlow, time::SystemTime};

use clap::Args;
use forebay::visible::printable;
use serde_json::{Value, json};

use super::{
    Failure, columns, control,
    output::{json_line, print_more},
    request_rows::brief,
    running::RunningArguments,
    text,
};

#[derive(Debug, Args)]
pub(super) struct ExplainArguments {
    /// The image, named as for docker pull: node, ghcr.io/owner/image:tag, …@sha256:…
    #[arg(value_name = "REF")]
    image: String,
    #[command(flatten)]
    running: RunningArguments,
}

impl ExplainArguments {
    /// # Errors
    /// No forebay answers, the name is no image's, or a pull of it would fail.
    pub(super) fn run(&self) -> Result<(), Failure> {
        let (mut printed, mut ended) = (ControlFlow::Continue(()), None);
        let mut lines = Lines { now: SystemTime::now(), width: columns::terminal_width(), digest: None };
        let question = json!({ "image": self.image });
        control::post(&self.running.places()?, "/api/v1/explain", Some(&question), |event| {
            let line = if self.running.json { json_line(&event.data) } else { lines.of(&event.data) + "\n" };
            if printed.is_continue() {
                printed = print_more(&line);
            }
            if event.name == "done" {
                ended = Some(event.data["pull"] == "fails");
            }
        })?;
        if let ControlFlow::Break(result) = printed {
            result?;
        }
        match ended {
            Some(false) => Ok(()),
            Some(true) => Err(Failure::Failed(anyhow::anyhow!("a pull of {} would fail", self.image))),
            None => Err(Failure::Failed(anyhow::anyhow!("the answer broke off"))),
        }
    }
}

/// How far the lines of a step go in behind its first.
const INDENT: usize = 9;

/// The lines of an explanation, for a person.
struct Lines {
    now: SystemTime,
    width: Option<usize>,
    /// What the upstream says that the image is.
    digest: Option<String>,
}

impl Lines {
    /// A step, or the end, without what certificates and upstreams could command a terminal.
    fn of(&mut self, data: &Value) -> String {
        if data["step"] == "head" {
            self.digest = data["digest"].as_str().map(str::to_owned);
        }
        let lines = match data["step"] == "requests" {
            true => requests(data, self.now),
            false => vec![printable(&self.step(data))],
        };
        let lines: Vec<String> = lines.iter().map(|line| columns::wrapped(line, self.width, INDENT)).collect();
        lines.join("\n")
    }

    fn step(&self, data: &Value) -> String {
        let (step, told) = match data["step"].as_str() {
            Some("route") => ("route", self.route(data)),
            Some("rules") => ("rules", rules(data)),
            Some("connection") => ("connect", connection(data)),
            Some("token") => ("token", token(data)),
            Some("head") => ("HEAD", head(data)),
            Some("cache") => ("cache", self.cache(data)),
            _ => return format!("{}: {}", word(data, "pull").replace('_', " "), word(data, "meaning")),
        };
        format!("{step:<8} {told}")
    }

    fn route(&self, data: &Value) -> String {
        if !data["problem"].is_null() {
            return word(data, "problem").to_owned();
        }
        let from = data["credentials_from"].as_str().map(|place| format!(" ({place})")).unwrap_or_default();
        let credentials = match (word(data, "credentials"), data["user"].as_str()) {
            ("client", _) => "of each client".to_owned(),
            ("none", _) => "none: anonymous".to_owned(),
            (own, user) => format!("{}{from}", user.unwrap_or(own)),
        };
        let paused = &data["paused_since"];
        let paused =
            if paused.is_null() { String::new() } else { format!(" · PAUSED {} ago", text::age(paused, self.now)) };
        let redirects = &data["redirects"];
        let clients: Vec<&str> =
            redirects["clients"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let redirects = match clients.is_empty() {
            true => String::new(),
            false => format!(
                " · blobs over 1 MiB from {} for {}, where the object store has them",
                word(redirects, "endpoint"),
                clients.join(", ")
            ),
        };
        format!(
            "by {} → {}, {} {} · access {} · credentials {credentials}{paused}{redirects}",
            word(data, "by"),
            word(data, "upstream"),
            word(data, "repository"),
            word(data, "reference"),
            word(data, "access"),
        )
    }

    fn cache(&self, data: &Value) -> String {
        let Some(digest) = data["digest"].as_str() else { return "nothing".to_owned() };
        let count = |key: &str| {
            let number = |of: &str| data[key][of].as_u64().unwrap_or_default();
            (number("cached"), number("all"))
        };
        let is_same = self.digest.as_deref() == Some(digest);
        let mut parts = vec![if is_same { "the same digest" } else { digest }.to_owned()];
        if !data["confirmed"].is_null() {
            let ago = text::age(&data["confirmed"], self.now);
            parts.push(format!("confirmed {ago} ago ({})", word(data, "tag").replace('_', " ")));
        }
        let Some(place) = data["manifest"].as_str() else {
            parts.push("the manifest is not here".to_owned());
            return parts.join(", ");
        };
        parts.push(format!("manifest {}", if place == "memory" { "in memory" } else { "on disk" }));
        let (images, all_images) = count("images");
        if all_images > 0 {
            parts.push(format!("{images} of {all_images} platforms"));
        }
        let ((blobs, all_blobs), (bytes, all_bytes)) = (count("blobs"), count("bytes"));
        parts.push(format!("{blobs} of {all_blobs} blobs, {} of {}", text::bytes(bytes), text::bytes(all_bytes)));
        parts.join(", ")
    }
}

fn word<'a>(data: &'a Value, key: &str) -> &'a str {
    data[key].as_str().unwrap_or_default()
}

fn rules(data: &Value) -> String {
    if let Some(rule) = data["denied_by"].as_str() {
        return format!("denied by {rule}");
    }
    let names: Vec<&str> = data["matching"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let held = data["held_by"].as_str().map(|rule| format!(" · held by {rule}")).unwrap_or_default();
    format!("{}{held}", if names.is_empty() { "none".to_owned() } else { names.join(", ") })
}

fn connection(data: &Value) -> String {
    let took = |name: &str, key: &str| data[key].as_f64().map(|took| format!("{name} {}", text::seconds(took)));
    let times = [took("dns", "dns_seconds"), took("tcp", "connect_seconds"), took("tls", "tls_seconds")];
    let mut parts: Vec<String> = times.into_iter().flatten().collect();
    if data["by_proxy"] == true {
        parts.push("by a proxy".to_owned());
    }
    let certificate = &data["certificate"];
    if !certificate.is_null() {
        let until = word(certificate, "until");
        let until = until.split_once('T').map_or(until, |(date, _)| date);
        parts.push(format!("certificate of {}, until {until}", word(certificate, "issuer")));
    }
    let url = word(data, "url");
    let problem = data["problem"].as_str();
    parts.extend(
        problem.map(|problem| problem.strip_prefix(&format!("connecting to {url}: ")).unwrap_or(problem).to_owned()),
    );
    format!("{url}: {}", parts.join(", "))
}

fn token(data: &Value) -> String {
    let took = data["seconds"].as_f64().map(text::seconds).unwrap_or_default();
    if let Some(problem) = data["problem"].as_str() {
        return format!("{took}, {problem}");
    }
    if data["kind"] == "password" {
        return format!("{took} (none: the password itself is sent)");
    }
    let cached = if data["cached"] == true { ", cached" } else { "" };
    let anonymous = if data["anonymous"] == true { ", anonymous" } else { "" };
    format!("{took} (scope {}{anonymous}{cached}) from {}", word(data, "scope"), word(data, "realm"))
}

fn head(data: &Value) -> String {
    let took = data["seconds"].as_f64().map(text::seconds).unwrap_or_default();
    let status = data["status"].as_u64().map_or_else(|| "no answer".to_owned(), |status| status.to_string());
    let rest = data["digest"].as_str().or(data["problem"].as_str()).unwrap_or("without a digest");
    // A problem that is nothing but the status.
    let url = rest.strip_suffix(&format!(" answered {status}")).filter(|url| !url.contains(' '));
    url.map_or_else(|| format!("{status} in {took}: {rest}"), |url| format!("{status} in {took} from {url}"))
}

/// The latest requests, a line each.
fn requests(data: &Value, now: SystemTime) -> Vec<String> {
    let lines = data["requests"].as_array().into_iter().flatten().zip(iter::once("requests").chain(iter::repeat("")));
    let lines: Vec<String> = lines.map(|(request, head)| format!("{head:<8} {}", brief(request, now))).collect();
    if lines.is_empty() { vec!["requests none that forebay remembers".to_owned()] } else { lines }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_is_a_line() {
        let now = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_800_000_000);
        let mut lines = Lines { now, width: None, digest: None };
        for (data, expected) in [
            (
                json!({ "step": "route", "upstream": "ghcr.io", "repository": "o/i", "reference": "3", "by": "name",
                        "access": "shared", "credentials": "own", "user": "ci-bot", "credentials_from": "/etc/ghcr.pw",
                        "paused_since": "2027-01-15T07:57:00Z", "problem": null }),
                "route    by name → ghcr.io, o/i 3 · access shared · credentials ci-bot (/etc/ghcr.pw) · PAUSED 3 min ago",
            ),
            (
                json!({ "step": "route", "upstream": "ghcr.io", "repository": "o/i", "reference": "3", "by": "name",
                        "access": "shared", "credentials": "none", "user": null, "credentials_from": null,
                        "paused_since": null, "problem": null,
                        "redirects": { "clients": ["10.0.0.0/8", "fd00::/8"], "endpoint": "https://s3.lan" } }),
                "route    by name → ghcr.io, o/i 3 · access shared · credentials none: anonymous · blobs over 1 MiB from \
                 https://s3.lan for 10.0.0.0/8, fd00::/8, where the object store has them",
            ),
            (
                json!({ "step": "route", "problem": "no upstream is configured for nvcr.io" }),
                "route    no upstream is configured for nvcr.io",
            ),
            (json!({ "step": "rules", "matching": [], "denied_by": null, "held_by": null }), "rules    none"),
            (
                json!({ "step": "rules", "matching": ["\"*\" (line 3)"], "denied_by": "\"*\" (line 3)" }),
                "rules    denied by \"*\" (line 3)",
            ),
            (
                json!({ "step": "connection", "url": "https://ghcr.io/", "by_proxy": false, "dns_seconds": 0.002,
                        "connect_seconds": 0.018, "tls_seconds": 0.021,
                        "certificate": { "issuer": "GTS CA", "until": "2027-02-01T00:00:00Z" }, "problem": null }),
                "connect  https://ghcr.io/: dns 2 ms, tcp 18 ms, tls 21 ms, certificate of GTS CA, until 2027-02-01",
            ),
            (
                json!({ "step": "connection", "url": "http://a/", "problem": "connecting to http://a/: refused" }),
                "connect  http://a/: refused",
            ),
            (
                json!({ "step": "token", "seconds": 0.09, "kind": "token", "realm": "https://ghcr.io/token",
                        "scope": "repository:o/i:pull", "anonymous": false, "cached": false, "problem": null }),
                "token    90 ms (scope repository:o/i:pull) from https://ghcr.io/token",
            ),
            (
                json!({ "step": "head", "seconds": 0.03, "status": 404, "digest": null, "problem": "http://a/b answered 404" }),
                "HEAD     404 in 30 ms from http://a/b",
            ),
            (
                json!({ "step": "head", "seconds": 0.03, "status": 200, "digest": "sha256:2e", "problem": null }),
                "HEAD     200 in 30 ms: sha256:2e",
            ),
            (json!({ "step": "cache", "digest": null }), "cache    nothing"),
            (
                json!({ "step": "cache", "digest": "sha256:1f", "confirmed": "2027-01-15T07:00:00Z", "tag": "too_old",
                        "manifest": "disk", "images": { "cached": 1, "all": 2 }, "blobs": { "cached": 3, "all": 4 },
                        "bytes": { "cached": 1024, "all": 2048 } }),
                "cache    sha256:1f, confirmed 1 h ago (too old), manifest on disk, 1 of 2 platforms, 3 of 4 blobs, \
                 1.0 KiB of 2.0 KiB",
            ),
            (
                json!({ "step": "cache", "digest": "sha256:2e", "confirmed": null, "manifest": null }),
                "cache    the same digest, the manifest is not here",
            ),
            (json!({ "step": "requests", "requests": [] }), "requests none that forebay remembers"),
            (
                json!({ "step": "requests", "requests": [
                    { "id": "58fd6720-4", "time": "2027-01-15T08:00:00.000Z", "peer": "10.0.4.31:5123",
                      "user_agent": "containerd/v2.1 go", "method": "HEAD", "status": 404, "outcome": "bypass",
                      "failure": "manifest_unknown" },
                    { "id": "58fd6720-1", "time": "2027-01-15T07:00:00.000Z", "peer": "10.0.4.32:5123",
                      "user_agent": null, "method": "GET", "status": 200, "outcome": "hit", "failure": null },
                ] }),
                "requests 0 s ago 10.0.4.31 containerd/v2.1 HEAD 404 bypass manifest_unknown → forebay log 58fd6720-4\n         1 h \
                 ago 10.0.4.32 GET 200 hit → forebay log 58fd6720-1",
            ),
            (json!({ "step": "route", "problem": "a\u{1b}[2Jb\n" }), "route    a?[2Jb?"),
            (
                json!({ "image": "ghcr.io/o/i:3", "pull": "serves_stale", "meaning": "ghcr.io cannot answer" }),
                "serves stale: ghcr.io cannot answer",
            ),
        ] {
            assert_eq!(lines.of(&data), expected);
        }
        lines.width = Some(40);
        let latest = json!({ "step": "requests", "requests": [
            { "id": "58fd6720-1", "time": "2027-01-15T07:00:00.000Z", "peer": "10.0.4.32:5123", "method": "GET",
              "status": 200, "outcome": "hit" },
        ] });
        let expected = "requests 1 h ago 10.0.4.32 GET 200 hit →\n         forebay log 58fd6720-1";
        assert_eq!(lines.of(&latest), expected);
        let end = json!({ "pull": "serves_stale", "meaning": "clients get what is cached: ghcr.io cannot answer" });
        assert_eq!(lines.of(&end), "serves stale: clients get what is\n         cached: ghcr.io cannot answer");
    }
}
