//! `GET /metrics`: what the sandbox uses, as its own kernel files tell.

use std::io;
use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use guest_wire::rest::Metrics;
use http::StatusCode;
use parking_lot::Mutex;

use super::NO_STORE;
use crate::agent::Agent;
use crate::{log, tasks};

const MIB: u64 = 1024 * 1024;

/// Remembers the CPU counters of the previous call.
#[derive(Default)]
pub(crate) struct CpuMeter {
    previous: Mutex<CpuTicks>,
}

/// Counters since boot, over all CPUs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct CpuTicks {
    busy: u64,
    total: u64,
}

impl CpuMeter {
    /// Per cent used since the previous call, with two decimals.
    fn advance(&self, now: CpuTicks) -> f64 {
        let previous = std::mem::replace(&mut *self.previous.lock(), now);
        let total = now.total.saturating_sub(previous.total);
        let busy = now.busy.saturating_sub(previous.busy).min(total);
        if total == 0 {
            return 0.0;
        }
        let hundredths = busy.saturating_mul(10_000) / total;
        f64::from(u32::try_from(hundredths).unwrap_or(10_000)) / 100.0
    }
}

pub(crate) async fn metrics(State(agent): State<Arc<Agent>>) -> Response {
    match tasks::blocking(move || collect(&agent.cpu)).await {
        Some(Ok(metrics)) => ([NO_STORE], axum::Json(metrics)).into_response(),
        Some(Err(error)) => {
            log::odd(format_args!("metrics could not be collected: {error}"));
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
        None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn collect(meter: &CpuMeter) -> io::Result<Metrics> {
    let (cpu_count, ticks) = parse_stat(&std::fs::read_to_string("/proc/stat")?);
    let memory = parse_meminfo(&std::fs::read_to_string("/proc/meminfo")?);
    let disk = rustix::fs::statvfs("/")?;
    let disk_total = disk.f_blocks.saturating_mul(disk.f_frsize);
    let disk_free = disk.f_bavail.saturating_mul(disk.f_frsize);
    Ok(Metrics {
        ts: jiff::Timestamp::now().as_second(),
        cpu_count,
        cpu_used_pct: meter.advance(ticks),
        mem_total_mib: memory.total / MIB,
        mem_used_mib: memory.used / MIB,
        mem_total: memory.total,
        mem_used: memory.used,
        mem_cache: memory.cache,
        disk_used: disk_total.saturating_sub(disk_free),
        disk_total,
    })
}

/// Bytes of memory this machine has, if it tells.
pub(crate) fn memory_total() -> Option<u64> {
    let memory = parse_meminfo(&std::fs::read_to_string("/proc/meminfo").ok()?);
    Some(memory.total).filter(|total| *total > 0)
}

/// How many CPUs there are, and their counters together. Fields are those of proc(5).
fn parse_stat(text: &str) -> (u32, CpuTicks) {
    const IDLE: usize = 3;
    const IOWAIT: usize = 4;
    /// Guest time after these is contained in user time already.
    const COUNTED: usize = 8;
    let mut cpus = 0;
    let mut ticks = CpuTicks::default();
    for line in text.lines().filter(|line| line.starts_with("cpu")) {
        let mut fields = line.split_ascii_whitespace();
        if fields.next() != Some("cpu") {
            cpus += 1;
            continue;
        }
        for (index, field) in fields.take(COUNTED).enumerate() {
            let count = field.parse::<u64>().unwrap_or(0);
            ticks.total = ticks.total.saturating_add(count);
            if index != IDLE && index != IOWAIT {
                ticks.busy = ticks.busy.saturating_add(count);
            }
        }
    }
    (cpus, ticks)
}

/// All in bytes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Memory {
    total: u64,
    used: u64,
    cache: u64,
}

fn parse_meminfo(text: &str) -> Memory {
    let bytes_of = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib = line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse::<u64>().ok());
        kib.unwrap_or(0).saturating_mul(1024)
    };
    let total = bytes_of("MemTotal");
    let cache = bytes_of("Cached").saturating_add(bytes_of("SReclaimable"));
    let unused = [bytes_of("MemFree"), bytes_of("Buffers"), cache];
    let used = unused.into_iter().fold(total, u64::saturating_sub);
    Memory { total, used, cache }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_use_is_the_busy_share_since_the_previous_call() {
        let stat =
            "cpu  10 0 10 70 10 0 0 0 5 0\ncpu0 5 0 5 35 5 0 0 0 5 0\ncpu1 5 0 5 35 5\nintr 1";
        let (cpus, ticks) = parse_stat(stat);
        assert_eq!((cpus, ticks), (2, CpuTicks { busy: 20, total: 100 }));
        let meter = CpuMeter::default();
        assert!((meter.advance(ticks) - 20.0).abs() < f64::EPSILON);
        assert!((meter.advance(ticks) - 0.0).abs() < f64::EPSILON);
        let later = CpuTicks { busy: 21, total: 103 };
        assert!((meter.advance(later) - 33.33).abs() < f64::EPSILON);
    }

    #[test]
    fn caches_do_not_count_as_used() {
        let text = "MemTotal: 1000 kB\nMemFree: 400 kB\nBuffers: 50 kB\nCached: 100 kB\n\
                    SwapCached: 7 kB\nSReclaimable: 20 kB\n";
        let memory = parse_meminfo(text);
        let kib = 1024;
        let expected = Memory { total: 1000 * kib, used: 430 * kib, cache: 120 * kib };
        assert_eq!(memory, expected);
    }
}
