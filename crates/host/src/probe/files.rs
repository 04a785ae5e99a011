//! Descriptors, disk space, memory.

use std::fs;
use std::path::Path;

use rustix::process::{Resource, getrlimit};

use super::{ALL, Finding, Level, overlay};

/// Descriptors for some thousand sandboxes; the service raises its own limit up to the hard one.
const ENOUGH_FILES: u64 = 16_384;

/// With less a sandbox of the usual size may not get far.
const LEAST_DISK_MIB: u64 = 2048;
const LEAST_MEMORY_MIB: u64 = 512;

pub(super) fn limits() -> Vec<Finding> {
    const NAME: &str = "open files";
    let most = open_files();
    let files = if most >= ENOUGH_FILES {
        Finding::ok(NAME, ALL, format!("at most {most}"))
    } else {
        let fix = "raise it: `ulimit -Hn 65536`, or LimitNOFILE= in the service's unit";
        Finding::lack(NAME, ALL, Level::Degraded, format!("at most {most}"), fix)
    };
    vec![files, memory()]
}

/// The hard limit: what the service can raise its own to.
pub(super) fn open_files() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
}

fn memory() -> Finding {
    let available = available_memory_mib();
    let detail = format!("{available} MiB available");
    if available >= LEAST_MEMORY_MIB {
        return Finding::ok("memory", ALL, detail);
    }
    Finding::lack("memory", ALL, Level::Degraded, detail, "free memory, or use a larger machine")
}

pub(super) fn room(data_dir: &Path) -> Vec<Finding> {
    const NAME: &str = "disk";
    let shown = data_dir.display();
    let Some(free) = free_disk_mib(data_dir) else {
        let detail = format!("the free space of {shown} cannot be read");
        return vec![Finding::lack(NAME, ALL, Level::Degraded, detail, "set another data_dir")];
    };
    let detail = format!("{free} MiB free for {shown}");
    if free >= LEAST_DISK_MIB {
        return vec![Finding::ok(NAME, ALL, detail)];
    }
    // A service starts on a full disk all the same: it may have sandboxes there that run, and
    // those that must not start it refuses itself.
    vec![Finding::lack(NAME, ALL, Level::Degraded, detail, "free space, or set another data_dir")]
}

pub(super) fn free_disk_mib(data_dir: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(overlay::existing(data_dir)).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize) / (1024 * 1024))
}

pub(super) fn available_memory_mib() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}
