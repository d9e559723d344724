//! `forebay status`: is it healthy, and what needs a person?

use std::time::SystemTime;

use clap::Args;
use forebay::{peer, units, visible::printable};
use serde_json::{Value, json};

use super::{
    Failure, cluster_status,
    columns::{self, Columns},
    control,
    output::{print, print_json},
    running::RunningArguments,
    store_line, text,
};

#[derive(Debug, Args)]
pub(super) struct StatusArguments {
    /// Only whether it is ready for clients, as /readyz says
    #[arg(long)]
    ready: bool,
    /// How the cluster is: its members, and what each owns
    #[arg(long, conflicts_with = "ready")]
    cluster: bool,
    #[command(flatten)]
    running: RunningArguments,
}

impl StatusArguments {
    /// # Errors
    /// No forebay answers, it is not ready (`--ready`), or a person should look.
    pub(super) fn run(&self) -> Result<(), Failure> {
        if self.cluster {
            return cluster_status::run(&self.running);
        }
        let places = self.running.places()?;
        let status = match control::get(&places, "/api/v1/status") {
            Err(control::ControlError::NoToken) if self.ready => control::readiness(&places)?,
            status => status?,
        };
        if self.ready {
            return self.say_ready(&status);
        }
        if self.running.json {
            print_json(&status)?;
        } else {
            print(&page(&status, SystemTime::now(), columns::terminal_width()))?;
        }
        match status["attention"].as_array().map_or(0, Vec::len) {
            0 => Ok(()),
            1 => Err(Failure::Failed(anyhow::anyhow!("a person should look at this"))),
            several => Err(Failure::Failed(anyhow::anyhow!("a person should look at these {several}"))),
        }
    }

    fn say_ready(&self, status: &Value) -> Result<(), Failure> {
        let state = status["state"].as_str().unwrap_or_default();
        match self.running.json {
            true => print_json(&json!({ "state": state, "ready": status["ready"] }))?,
            false => print(&format!("{}\n", printable(state)))?,
        }
        match status["ready"].as_bool() {
            Some(true) => Ok(()),
            _ => Err(Failure::Failed(anyhow::anyhow!("it is not ready for clients"))),
        }
    }
}

/// How far a line goes in that belongs to the one above.
const INDENT: usize = 2;

/// The status for a person, in lines of at most `width` characters, if they can.
fn page(status: &Value, now: SystemTime, width: Option<usize>) -> String {
    let cache = &status["cache"];
    let word = |value: &Value| printable(value.as_str().unwrap_or_default());
    let free = &cache["free_bytes"];
    let objects = |kind: &str| text::counted(cache["kinds"][kind]["objects"].as_u64().unwrap_or_default(), kind);
    let mut lines = vec![format!(
        "forebay {}  {}  up {}  configuration {}",
        word(&status["version"]),
        word(&status["state"]),
        text::age(&status["started"], now),
        if status["config_reloaded"] == false { "NOT RELOADED" } else { "ok" },
    )];
    let mut line = format!(
        "cache  {} of {}  {} free  {}, {}, {}",
        text::size(&cache["bytes"]),
        text::size(&cache["max_bytes"]),
        if free.is_null() { "?".to_owned() } else { text::size(free) },
        objects("blob"),
        objects("manifest"),
        objects("tag"),
    );
    if let Some(pinned @ 1..) = cache["pinned_bytes"].as_u64() {
        line += &format!("  {} pinned", text::bytes(pinned));
    }
    if !cache["oldest_use"].is_null() {
        line += &format!("  oldest use {} ago", text::age(&cache["oldest_use"], now));
    }
    if cache["scanned"] == false {
        line += "  (the scan of the start is running)";
    }
    lines.push(line);
    if status["store"].is_object() {
        lines.push(store_line::of(&status["store"], now));
    }
    if let Some(until) = status["certificate_until"].as_str() {
        lines.push(format!("certificate until {}", printable(until)));
    }
    lines.extend(status["warm"].as_array().into_iter().flatten().map(|job| warm(job, now)));
    let line = |line: String| columns::wrapped(&line, width, INDENT) + "\n";
    let mut page: String = lines.into_iter().map(line).collect();
    for table in [sums(&status["sums"]), upstreams(&status["upstreams"], now)] {
        page += &format!("\n{}", table.fit(width));
    }
    page.extend(unconfigured(&status["unconfigured"]).map(line));
    let attention = status["attention"].as_array().into_iter().flatten().filter_map(Value::as_str);
    page.extend(attention.map(|sentence| line(format!("! {}", printable(sentence)))));
    page
}

/// What came of the last run of a section of `[[warm]]`.
fn warm(job: &Value, now: SystemTime) -> String {
    let (images, last) = (text::counted(job["images"].as_u64().unwrap_or_default(), "image"), &job["last"]);
    let mut line = format!("warm   {images} {}", job["schedule"].as_str().unwrap_or_default());
    if !last.is_null() {
        let ago = text::age(&last["began"], now);
        let [fetched, cached, failed] = ["fetched", "cached", "failed"].map(|key| &last[key]);
        line += &format!("  {fetched} fetched, {cached} cached, {failed} failed  {ago} ago");
    }
    match (job["running"] == true, text::wait(&job["next"], now)) {
        (true, _) => line + "  (running)",
        (false, wait) if wait.is_empty() => line,
        (false, wait) => format!("{line}  next in {wait}"),
    }
}

/// What clients got, a row for each window of time.
fn sums(sums: &Value) -> Columns {
    let head = ["SINCE", "PULLS", "HITS", "TO CLIENTS", "CACHED", "FROM UPSTREAMS", "SAVED", "ERRORS"];
    let mut columns = Columns::new(head).with_least(["FROM UPSTREAMS"]);
    for (name, window) in [("1 h", "hour"), ("1 d", "day"), ("start", "since_start")] {
        let sums = &sums[window];
        let count = |key: &str| sums[key].as_u64();
        // Of a window that is longer than forebay has run, nothing is known.
        let Some(pulls) = count("pulls") else { continue };
        let percent = |part: &str, whole: u64| units::percent(count(part)?, whole);
        let hits = percent("hits", pulls);
        let cached = percent("cached_bytes", count("sent_bytes").unwrap_or_default());
        let [sent, received] = ["sent_bytes", "received_bytes"].map(|key| text::size(&sums[key]));
        // Upstreams may have sent more than clients got.
        let saved = count("saved_bytes").map_or_else(|| "nothing yet".to_owned(), text::bytes);
        columns.row([
            name.to_owned(),
            pulls.to_string(),
            hits.unwrap_or_default(),
            sent,
            cached.unwrap_or_default(),
            received,
            saved,
            count("errors").unwrap_or_default().to_string(),
        ]);
    }
    columns
}

/// What clients asked for lately and is not configured; `None`: nothing.
fn unconfigured(names: &Value) -> Option<String> {
    let names = names.as_array()?;
    let word = |entry: &Value, key: &str| printable(entry[key].as_str().unwrap_or_default());
    let told = names.iter().map(|entry| {
        let address = peer::address(&word(entry, "peer"));
        format!("{} ({}×, from {address})", word(entry, "name"), entry["requests"])
    });
    let told: Vec<String> = told.collect();
    let first = word(names.first()?, "name");
    let to_write = columns::unbroken(&format!("[[upstream]] name = {first:?}"));
    Some(format!("asked for and not configured: {}; to serve it: {to_write}", told.join(", ")))
}

/// The upstreams, a row each.
pub(super) fn upstreams(upstreams: &Value, now: SystemTime) -> Columns {
    let head = ["UPSTREAM", "STATE", "CREDENTIALS", "LATENCY", "P95", "PULLS LEFT", "LAST FAILURE"];
    let mut columns =
        Columns::new(head).with_names("UPSTREAM").with_least(["P95", "LATENCY", "CREDENTIALS", "PULLS LEFT"]);
    for upstream in upstreams.as_array().into_iter().flatten() {
        let word = |key: &str| upstream[key].as_str().unwrap_or_default();
        let state = match word("state") {
            // Capitals, for eyes that run over it.
            bad @ ("down" | "credentials_refused" | "paused") => bad.to_uppercase().replace('_', " "),
            "unknown" => "not asked yet".to_owned(),
            state => state.to_owned(),
        };
        let credentials = match (word("credentials"), upstream["account"].as_str()) {
            ("none", _) => "anonymous",
            ("own", Some(account)) => account,
            (whose, _) => whose,
        };
        let millis = |key: &str| upstream["latency"][key].as_f64().map(text::seconds).unwrap_or_default();
        let pulls = &upstream["pulls"];
        let left = match (pulls["remaining"].as_u64(), pulls["limit"].as_u64()) {
            (Some(remaining), Some(limit)) => format!("{remaining}/{limit}"),
            (Some(remaining), None) => remaining.to_string(),
            _ => String::new(),
        };
        let failure = &upstream["last_failure"];
        let failure = failure["cause"].as_str().map(|cause| format!("{cause} {} ago", text::age(&failure["at"], now)));
        columns.row([
            word("name").to_owned(),
            state,
            credentials.to_owned(),
            millis("median_seconds"),
            millis("p95_seconds"),
            left,
            failure.unwrap_or_default(),
        ]);
    }
    columns
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_person_sees_what_needs_a_look() {
        let status = json!({
            "version": "0.1.0", "state": "ready", "ready": true, "started": "2027-01-03T08:00:00Z",
            "config_reloaded": true, "certificate_until": "2027-06-01T00:00:00Z",
            "cache": {
                "bytes": 76_450_000_000_u64, "max_bytes": 107_374_182_400_u64, "free_bytes": null,
                "in_flight_bytes": 0, "scanned": true, "oldest_use": "2027-01-12T08:00:00Z",
                "kinds": {"blob": {"objects": 18402}, "manifest": {"objects": 40}, "tag": {"objects": 12}},
            },
            "sums": {"day": {
                "pulls": 9204, "hits": 8999, "sent_bytes": 5_368_709_120_u64, "cached_bytes": 4_831_838_208_u64,
                "received_bytes": 1_073_741_824, "saved_bytes": 4_294_967_296_u64, "errors": 14,
            }},
            "upstreams": [
                {
                    "name": "docker.io", "state": "ok", "credentials": "own", "account": "ci-bot", "down_since": null, "last_failure": null,
                    "latency": {"median_seconds": 0.0314, "p95_seconds": 1.5},
                    "pulls": {"limit": 200, "remaining": 143, "at": "2027-01-15T07:59:00Z"},
                },
                {
                    "name": "harbor.lan", "state": "credentials_refused", "credentials": "own", "down_since": null,
                    "last_failure": {"cause": "credentials", "at": "2027-01-15T07:58:30Z"}, "latency": null, "pulls": null,
                },
            ],
            "unconfigured": [{"name": "nvcr.io", "requests": 61, "peer": "[2001:db8::1]:5123"}],
            "attention": ["harbor.lan refuses forebay's own credentials: what is cached is still served"],
        });
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let expected = "\
forebay 0.1.0  ready  up 12 d  configuration ok
cache  71.2 GiB of 100.0 GiB  ? free  18402 blobs, 40 manifests, 12 tags  oldest use 3 d ago
certificate until 2027-06-01T00:00:00Z

SINCE  PULLS  HITS    TO CLIENTS  CACHED  FROM UPSTREAMS  SAVED    ERRORS
1 d    9204   97.8 %  5.0 GiB     90.0 %  1.0 GiB         4.0 GiB  14

UPSTREAM    STATE                CREDENTIALS  LATENCY  P95    PULLS LEFT  LAST FAILURE
docker.io   ok                   ci-bot       31 ms    1.5 s  143/200     -
harbor.lan  CREDENTIALS REFUSED  own          -        -      -           credentials 1 min ago
asked for and not configured: nvcr.io (61×, from 2001:db8::1); to serve it: [[upstream]] name = \"nvcr.io\"
! harbor.lan refuses forebay's own credentials: what is cached is still served
";
        assert_eq!(page(&status, now, None), expected);
        let expected = "\
forebay 0.1.0  ready  up 12 d  configuration ok
cache  71.2 GiB of 100.0 GiB  ? free  18402 blobs, 40 manifests, 12
  tags  oldest use 3 d ago
certificate until 2027-06-01T00:00:00Z

SINCE  PULLS  HITS    TO CLIENTS  CACHED  SAVED    ERRORS
1 d    9204   97.8 %  5.0 GiB     90.0 %  4.0 GiB  14

UPSTREAM    STATE                PULLS LEFT  LAST FAILURE
docker.io   ok                   143/200     -
harbor.lan  CREDENTIALS REFUSED  -           credentials 1 min ago
asked for and not configured: nvcr.io (61×, from 2001:db8::1); to
  serve it: [[upstream]] name = \"nvcr.io\"
! harbor.lan refuses forebay's own credentials: what is cached is
  still served
";
        assert_eq!(page(&status, now, Some(67)), expected);
        // What is to be copied is in one line.
        assert!(page(&status, now, Some(40)).contains("\n  [[upstream]] name = \"nvcr.io\"\n"));
    }

    #[test]
    fn a_warm_is_told_with_its_last_run() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let mut job = json!({ "images": 12, "schedule": "every 6h", "running": true, "last": null });
        assert_eq!(super::warm(&job, now), "warm   12 images every 6h  (running)");
        job["running"] = false.into();
        job["last"] = json!({ "began": "2027-01-15T06:00:00Z", "fetched": 8, "cached": 3, "failed": 1 });
        job["next"] = "2027-01-15T12:00:00Z".into();
        let expected = "warm   12 images every 6h  8 fetched, 3 cached, 1 failed  2 h ago  next in 4 h";
        assert_eq!(super::warm(&job, now), expected);
    }

    #[test]
    fn a_day_without_pulls_has_no_ratio() {
        let mut day = json!({
            "pulls": 0, "hits": 0, "sent_bytes": 0, "received_bytes": 2048, "saved_bytes": -2048, "errors": 0,
        });
        let lines = |day: &Value| -> Vec<String> {
            sums(&json!({ "day": day })).to_string().lines().map(str::to_owned).collect()
        };
        let told = lines(&day);
        let words: Vec<&str> = told[1].split("  ").map(str::trim).filter(|word| !word.is_empty()).collect();
        assert_eq!(words, ["1 d", "0", "-", "0 B", "-", "2.0 KiB", "nothing yet", "0"]);
        day["pulls"] = Value::Null;
        assert_eq!(lines(&day).len(), 1);
    }
}
