//! What the system says of processes.

use std::fs;

/// CPU time up to a moment, in nanoseconds.
#[derive(Debug, Default, Clone, Copy)]
pub struct Usage {
    /// Of the processes under test.
    pub target: u64,
    /// Of this process and the others of the benchmark.
    pub own: u64,
    /// Of everything on the machine.
    pub busy: u64,
    /// Taken away by the host.
    pub stolen: u64,
}

impl Usage {
    pub fn of(target: &[u32], own: &[u32]) -> Self {
        let (busy, stolen) = machine();
        let sum = |pids: &[u32]| pids.iter().map(|pid| cpu(*pid)).sum::<u64>();
        Usage { target: sum(target), own: sum(own) + cpu(std::process::id()), busy, stolen }
    }
}

/// User and system time of a process: that of its threads in nanoseconds, and not the sum that
/// `stat` has, which counts in steps of 10 ms.
fn cpu(pid: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let time = |entry: fs::DirEntry| -> Option<u64> {
        fs::read_to_string(entry.path().join("schedstat")).ok()?.split(' ').next()?.parse().ok()
    };
    threads.filter_map(time).sum()
}

fn machine() -> (u64, u64) {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    let at = |index: usize| ticks.get(index).copied().unwrap_or_default() * 10_000_000;
    // user, nice, system, irq and softirq; then steal: proc(5)
    (at(0) + at(1) + at(2) + at(5) + at(6), at(7))
}

/// Resident memory of processes in bytes.
pub fn resident(pids: &[u32]) -> u64 {
    let of = |pid: &u32| -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
    };
    pids.iter().filter_map(of).sum()
}
