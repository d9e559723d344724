//! `wrk`: requests per second, and the latency that one in a hundred exceeds.

use std::{
    fs, io,
    net::SocketAddr,
    process::{Command, Output},
    time::{Duration, Instant},
};

use tempfile::NamedTempFile;

use super::framing::wrong;
use crate::cpu;
use forebay_test_support::real::program;

/// The result of one run of `wrk`.
pub struct Answered {
    pub requests: f64,
    pub per_second: f64,
    pub p99: Duration,
    /// The share of its one core that `wrk` did not need.
    pub idle: f64,
}

/// Runs one thread with this many connections for this long; every response must be a 200.
pub fn run(address: SocketAddr, path: &str, accept: &str, connections: u32, time: Duration) -> io::Result<Answered> {
    let mut command = command(connections, time);
    command.args(["--latency", "--header", &format!("Accept: {accept}"), &format!("http://{address}{path}")]);
    let (before, start) = (cpu::of_ended_children(), Instant::now());
    let output = command.output()?;
    let (spent, wall) = (cpu::of_ended_children().saturating_sub(before), start.elapsed());
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() || text.contains("Non-2xx") || text.contains("Socket errors") {
        return Err(failed(&output));
    }
    let word = |label: &str| text.lines().find_map(|line| line.trim().strip_prefix(label)).map(str::trim);
    let per_second = word("Requests/sec:").and_then(|word| word.parse().ok());
    let (Some(requests), Some(per_second), Some(p99)) = (requests(&text), per_second, word("99%").and_then(duration))
    else {
        return Err(failed(&output));
    };
    let idle = (1.0 - spent.as_secs_f64() / wall.as_secs_f64()).max(0.0);
    Ok(Answered { requests, per_second, p99, idle })
}

/// Requests at least so many manifests, each by a tag of its own that does not exist.
pub fn missing_tags(address: SocketAddr, repository: &str, tags: u32) -> io::Result<()> {
    let script = format!(
        "local tag = 0\n\
         request = function()\n\
             tag = tag + 1\n\
             return wrk.format('GET', '/v2/{repository}/manifests/missing-' .. tag)\n\
         end\n"
    );
    let file = NamedTempFile::with_suffix(".lua")?;
    fs::write(file.path(), script)?;
    // Each run begins with the first tag, so one run has to be long enough.
    for seconds in [8, 32, 128] {
        let mut command = command(16, Duration::from_secs(seconds));
        let output = command.arg("--script").arg(file.path()).arg(format!("http://{address}")).output()?;
        if requests(&String::from_utf8_lossy(&output.stdout)).is_some_and(|sent| sent >= f64::from(tags)) {
            return Ok(());
        }
    }
    Err(wrong("the upstream is too slow for so many tags"))
}

fn command(connections: u32, time: Duration) -> Command {
    let mut command = program::command("wrk", "wrk");
    command
        .args(["--threads=1", &format!("--connections={connections}")])
        .arg(format!("--duration={}s", time.as_secs().max(1)));
    command
}

/// `  12345 requests in 2.00s, 1.23GB read`.
fn requests(report: &str) -> Option<f64> {
    report.lines().find_map(|line| line.split_once(" requests in ")?.0.trim().parse().ok())
}

fn failed(output: &Output) -> io::Error {
    let [report, errors] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    wrong(&format!("wrk says: {report}{errors}"))
}

/// `812.00us`, `1.45ms`, `2.01s`.
fn duration(word: &str) -> Option<Duration> {
    let unit = word.find(|character: char| character.is_ascii_alphabetic())?;
    let number: f64 = word[..unit].parse().ok()?;
    let scale = match &word[unit..] {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        _ => return None,
    };
    Some(Duration::from_secs_f64(number * scale))
}
