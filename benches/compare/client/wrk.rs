//! `wrk`: requests per second, and the latency that one in a hundred exceeds.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::framing::wrong;
use crate::cpu;
use forebay_test_support::real::program;

/// The result of one run of `wrk`.
pub struct Answered {
    pub per_second: f64,
    pub p99: Duration,
    /// The share of its one core that `wrk` did not need.
    pub idle: f64,
}

/// Runs one thread with this many connections for this long; every response must be a 200.
pub fn run(address: SocketAddr, path: &str, accept: &str, connections: u32, time: Duration) -> io::Result<Answered> {
    let mut command = program::command("wrk", "wrk");
    command
        .args(["--threads=1", "--latency", &format!("--connections={connections}")])
        .arg(format!("--duration={}s", time.as_secs().max(1)))
        .args(["--header", &format!("Accept: {accept}")])
        .arg(format!("http://{address}{path}"));
    let (before, start) = (cpu::of_ended_children(), Instant::now());
    let output = command.output()?;
    let (spent, wall) = (cpu::of_ended_children().saturating_sub(before), start.elapsed());
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() || text.contains("Non-2xx") || text.contains("Socket errors") {
        return Err(wrong(&format!("wrk says: {text}{}", String::from_utf8_lossy(&output.stderr))));
    }
    let word = |label: &str| text.lines().find_map(|line| line.trim().strip_prefix(label)).map(str::trim);
    let per_second = word("Requests/sec:").and_then(|word| word.parse().ok());
    let (Some(per_second), Some(p99)) = (per_second, word("99%").and_then(duration)) else {
        return Err(wrong(&format!("wrk's report is not understood: {text}")));
    };
    let idle = (1.0 - spent.as_secs_f64() / wall.as_secs_f64()).max(0.0);
    Ok(Answered { per_second, p99, idle })
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
