//! What sandboxes and the node use, sampled.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use model::SandboxPhase;
use node_wire::{NodeMetrics, Sample};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::entry::Entry;
use crate::start::Inner;

/// How often live sandboxes are sampled.
const EVERY: Duration = Duration::from_secs(5);

/// The processor counters at the last reading.
#[derive(Debug, Default)]
pub(crate) struct CpuClock {
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

/// Total and free bytes of the file system that `path` is on; free for us, reserved blocks out.
pub(crate) fn disk(path: &Path) -> Option<(u64, u64)> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some((stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize))
}

/// Whether the file system has numbers for more files. One that makes them as it goes counts none.
pub(crate) fn has_inodes(path: &Path) -> bool {
    const FEW: u64 = 10_000;
    rustix::fs::statvfs(path).map_or(true, |stat| stat.f_files == 0 || stat.f_favail > FEW)
}

impl Inner {
    pub(crate) fn node_metrics(&self) -> NodeMetrics {
        let (disk_total, disk_free) = disk(&self.config.data_dir).unwrap_or_default();
        let memory_total = meminfo("MemTotal");
        let mut metrics = NodeMetrics {
            cpu_count: u32::try_from(std::thread::available_parallelism().map_or(1, usize::from))
                .unwrap_or(u32::MAX),
            cpu_percent: self.cpu.percent(),
            memory_total_bytes: memory_total,
            memory_used_bytes: memory_total.saturating_sub(meminfo("MemAvailable")),
            disk_total_bytes: disk_total,
            disk_used_bytes: disk_total.saturating_sub(disk_free),
            ..NodeMetrics::default()
        };
        for entry in self.registry.all() {
            metrics.allocated_vcpus += entry.resources.vcpus;
            metrics.allocated_memory_bytes += entry.resources.memory_mib * 1024 * 1024;
        }
        metrics
    }
}

/// Samples every live sandbox until `stop`.
pub(crate) async fn sample(inner: Arc<Inner>, stop: CancellationToken) {
    loop {
        tokio::select! { biased; () = stop.cancelled() => return, () = tokio::time::sleep(EVERY) => {} }
        let live = inner.registry.all();
        for entry in live.into_iter().filter(|e| e.phase() == SandboxPhase::Live) {
            let usage = inner.cgroups.named(entry.lifecycle.as_str()).usage();
            let now = Instant::now();
            entry.push_sample(reading(&entry, &usage, now));
            entry.set_cpu(now, usage.cpu);
        }
    }
}

/// A sample of `entry` now. Blocking: looks at its files.
pub(crate) fn sample_now(inner: &Inner, entry: &Entry) -> Sample {
    let usage = inner.cgroups.named(entry.lifecycle.as_str()).usage();
    let mut sample = reading(entry, &usage, Instant::now());
    sample.disk_used_bytes =
        used_below(&inner.config.lifecycles().join(entry.lifecycle.as_str()).join("upper"));
    sample
}

fn reading(entry: &Entry, usage: &host::cgroup::Usage, now: Instant) -> Sample {
    let cpus = f64::from(entry.resources.vcpus.max(1));
    let pct = entry.last_cpu().map_or(0.0, |(at, cpu)| {
        let wall = now.duration_since(at).as_secs_f64();
        let spent = usage.cpu.saturating_sub(cpu).as_secs_f64();
        if wall > 0.0 { (spent / wall / cpus * 100.0).clamp(0.0, 100.0) } else { 0.0 }
    });
    Sample {
        at: SystemTime::now(),
        cpu_count: entry.resources.vcpus,
        cpu_used_pct: (pct * 100.0).round() / 100.0,
        mem_total_bytes: entry.resources.memory_mib * 1024 * 1024,
        mem_used_bytes: usage.memory_bytes.saturating_sub(usage.cache_bytes),
        mem_cache_bytes: usage.cache_bytes,
        disk_total_bytes: entry.resources.disk_mib * 1024 * 1024,
        disk_used_bytes: 0,
    }
}

/// Files looked at before an estimate is good enough.
const MAX_FILES: usize = 20_000;

/// Bytes on disk below `dir`.
fn used_below(dir: &Path) -> u64 {
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
