//! What processes cost according to /proc: CPU time, and their peak memory.

use std::{fs, io, time::Duration};

/// Measures CPU time, user and system, from now on.
pub struct Stopwatch {
    of: Of,
    start: Duration,
}

#[derive(Clone, Copy)]
enum Of {
    /// A process, its descendants, and those of them that have ended.
    Tree(u32),
    /// One process without its children: the servers are children of this process.
    Process(u32),
}

impl Stopwatch {
    pub fn of_tree(pid: u32) -> Self {
        Self::new(Of::Tree(pid))
    }

    pub fn of_process(pid: u32) -> Self {
        Self::new(Of::Process(pid))
    }

    fn new(of: Of) -> Self {
        Self { of, start: of.spent() }
    }

    pub fn elapsed(&self) -> Duration {
        self.of.spent().saturating_sub(self.start)
    }
}

impl Of {
    fn spent(self) -> Duration {
        match self {
            Of::Process(pid) => Stat::of(pid).map_or(Duration::ZERO, |stat| stat.own),
            Of::Tree(pid) => tree(pid).iter().map(|stat| stat.own + stat.ended).sum(),
        }
    }
}

/// CPU time of this process's children that have ended and been waited for.
pub fn of_ended_children() -> Duration {
    Stat::of(std::process::id()).map_or(Duration::ZERO, |stat| stat.ended)
}

/// CPU time of the calling thread (the kernel's sched-stats documentation: nanoseconds on the CPU).
pub fn of_thread() -> io::Result<Duration> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    let spent = text.split(' ').next().and_then(|spent| spent.parse().ok());
    spent.map(Duration::from_nanos).ok_or_else(|| io::Error::other("/proc/thread-self/schedstat cannot be read"))
}

/// The peak of resident memory of a process, in bytes.
pub fn peak_memory(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// A line of /proc/PID/stat (proc_pid_stat(5)).
struct Stat {
    pid: u32,
    parent: u32,
    own: Duration,
    ended: Duration,
}

impl Stat {
    fn of(pid: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The program's name, in parentheses, may contain any character.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let ticks = |index: usize| fields.get(index)?.parse::<u64>().ok();
        let time = |ticks: u64| Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64);
        Some(Self {
            pid,
            parent: fields.get(1)?.parse().ok()?,
            own: time(ticks(11)? + ticks(12)?),
            ended: time(ticks(13)? + ticks(14)?),
        })
    }
}

fn tree(root: u32) -> Vec<Stat> {
    let all: Vec<Stat> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| Stat::of(entry.ok()?.file_name().to_str()?.parse().ok()?))
        .collect();
    let mut members = vec![root];
    // A child may be listed before its parent: repeat until no new process is found.
    loop {
        let more: Vec<u32> = all
            .iter()
            .filter(|stat| members.contains(&stat.parent) && !members.contains(&stat.pid))
            .map(|stat| stat.pid)
            .collect();
        if more.is_empty() {
            break;
        }
        members.extend(more);
    }
    all.into_iter().filter(|stat| members.contains(&stat.pid)).collect()
}
