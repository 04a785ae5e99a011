//! How many sandboxes fit, and what runs out first.

use std::path::Path;

use super::{files, kernel};
use crate::identity::SLOTS;

/// What one sandbox may use, and what the host keeps for itself.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    pub memory_mib: u64,
    /// 0 where disk use is not limited: then only the idle number counts it.
    pub disk_mib: u64,
    pub disk_reserve_mib: u64,
    /// What the configuration allows.
    pub max_sandboxes: u32,
}

/// How often something is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Fit {
    pub what: &'static str,
    pub count: u64,
}

/// How many sandboxes fit by each measure. The least counts.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Capacity {
    /// Each doing nothing.
    pub idle: Vec<Fit>,
    /// Each using all it may.
    pub full: Vec<Fit>,
}

/// An idle sandbox, the kernel's share included (measured: 0.7 to 0.9 MiB of kernel memory and
/// page tables, and the agent).
const IDLE_MEMORY_MIB: u64 = 3;
const IDLE_DISK_MIB: u64 = 1;
/// The agent's threads.
const IDLE_PROCESSES: u64 = 6;
/// Programs and their threads, at a guess that errs upwards.
const FULL_PROCESSES: u64 = 128;
/// Namespaces, pidfd, socket, event file and lock, each held by the service.
const FILES: u64 = 12;
/// Connections while it is being used.
const FULL_FILES: u64 = 24;

/// Kept for the rest of the host.
const HOST_PROCESSES: u64 = 1024;
const HOST_FILES: u64 = 512;
const HOST_MEMORY_MIB: u64 = 256;

/// Estimates, from what is free now.
#[must_use]
pub fn capacity(data_dir: &Path, sizes: &Sizes) -> Capacity {
    let memory = files::available_memory_mib().saturating_sub(HOST_MEMORY_MIB);
    let disk = files::free_disk_mib(data_dir).unwrap_or(0).saturating_sub(sizes.disk_reserve_mib);
    let pid_max = kernel::number("/proc/sys/kernel/pid_max").unwrap_or(32_768);
    let threads_max = kernel::number("/proc/sys/kernel/threads-max").unwrap_or(pid_max);
    let processes = pid_max.min(threads_max).saturating_sub(HOST_PROCESSES);
    let open = files::open_files().saturating_sub(HOST_FILES);
    let count = |memory_mib: u64, disk_mib: u64, process: u64, file: u64| {
        let per = |have: u64, need: u64| have.checked_div(need).unwrap_or(u64::MAX);
        vec![
            Fit { what: "memory", count: per(memory, memory_mib) },
            Fit { what: "disk", count: per(disk, disk_mib) },
            Fit { what: "processes", count: per(processes, process) },
            Fit { what: "open files", count: per(open, file) },
            Fit { what: "slots", count: u64::from(SLOTS) },
            Fit { what: "max_sandboxes", count: u64::from(sizes.max_sandboxes) },
        ]
    };
    Capacity {
        idle: count(IDLE_MEMORY_MIB, IDLE_DISK_MIB, IDLE_PROCESSES, FILES),
        full: count(sizes.memory_mib, sizes.disk_mib, FULL_PROCESSES, FILES + FULL_FILES),
    }
}

/// What runs out first.
#[must_use]
pub fn least(fits: &[Fit]) -> Option<Fit> {
    fits.iter().copied().min_by_key(|fit| fit.count)
}
