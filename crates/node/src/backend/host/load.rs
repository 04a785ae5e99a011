//! What the machine and its sandboxes use, as the kernel tells it.

use std::fs;
use std::path::Path;

use node_wire::NodeMetrics;
use parking_lot::Mutex;

use crate::backend::Disk;

/// The processor counters at the last reading.
#[derive(Debug, Default)]
pub(super) struct CpuClock {
    last: Mutex<Option<(u64, u64)>>,
}

impl CpuClock {
    /// Percent of all processors used since the last call.
    fn percent(&self) -> f64 {
        let Some((busy, total)) = read_cpu() else { return 0.0 };
        let last = self.last.lock().replace((busy, total));
        let (was_busy, was_total) = last.unwrap_or_default();
        let spent = total.saturating_sub(was_total);
        if spent == 0 {
            return 0.0;
        }
        ratio(busy.saturating_sub(was_busy), spent) * 100.0
    }
}

/// Busy and total ticks since boot (proc(5), /proc/stat).
fn read_cpu() -> Option<(u64, u64)> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let fields: Vec<u64> =
        text.lines().next()?.split_ascii_whitespace().skip(1).flat_map(str::parse).collect();
    let total: u64 = fields.iter().take(8).sum();
    let idle: u64 = fields.iter().skip(3).take(2).sum();
    Some((total - idle, total))
}

#[expect(clippy::cast_precision_loss, reason = "a percentage")]
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// A number of `/proc/meminfo`, in bytes.
fn meminfo(key: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text.lines().find_map(|line| {
        line.strip_prefix(key)?.strip_prefix(':')?.trim().strip_suffix(" kB")?.trim().parse().ok()
    });
    kib.unwrap_or(0_u64) * 1024
}

/// The file system that `path` is on.
pub(super) fn disk(path: &Path) -> Option<Disk> {
    const FEW: u64 = 10_000;
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(Disk {
        total_bytes: stat.f_blocks * stat.f_frsize,
        free_bytes: stat.f_bavail * stat.f_frsize,
        // One that makes them as it goes counts none.
        has_inodes: stat.f_files == 0 || stat.f_favail > FEW,
    })
}

/// What the machine has and uses.
pub(super) fn load(cpu: &CpuClock, disk: Option<Disk>) -> NodeMetrics {
    let (total, free) = disk.map_or((0, 0), |disk| (disk.total_bytes, disk.free_bytes));
    let memory_total = meminfo("MemTotal");
    NodeMetrics {
        cpu_count: u32::try_from(std::thread::available_parallelism().map_or(1, usize::from))
            .unwrap_or(u32::MAX),
        cpu_percent: cpu.percent(),
        memory_total_bytes: memory_total,
        memory_used_bytes: memory_total.saturating_sub(meminfo("MemAvailable")),
        disk_total_bytes: total,
        disk_used_bytes: total.saturating_sub(free),
        ..NodeMetrics::default()
    }
}

/// Files looked at before an estimate is good enough.
const MAX_FILES: usize = 20_000;

/// Bytes on disk below `dir`.
pub(super) fn used_below(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let (mut bytes, mut seen, mut dirs) = (0, 0, vec![dir.to_path_buf()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            seen += 1;
            if seen > MAX_FILES {
                return bytes;
            }
            let Ok(meta) = entry.metadata() else { continue };
            bytes += meta.blocks() * 512;
            if meta.is_dir() {
                dirs.push(entry.path());
            }
        }
    }
    bytes
}
