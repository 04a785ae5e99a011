//! What sandboxes and the node use, sampled.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use host::cgroup::Usage;
use model::{SandboxId, SandboxPhase};
use node_wire::{NodeError, NodeMetrics, Sample};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::entry::Entry;
use crate::start::Inner;

/// How often live sandboxes are sampled.
const EVERY: Duration = Duration::from_secs(5);

impl Inner {
    pub(crate) fn node_metrics(&self) -> NodeMetrics {
        let mut metrics = self.backend.load();
        for entry in self.registry.all() {
            metrics.allocated_vcpus += entry.resources.vcpus;
            metrics.allocated_memory_bytes += entry.resources.memory_mib * 1024 * 1024;
        }
        metrics
    }

    /// Those of a live sandbox, the last one of now.
    pub(crate) async fn samples(self: Arc<Self>, id: &SandboxId) -> Result<Vec<Sample>, NodeError> {
        let entry = self.registry.get(id).filter(|entry| entry.phase() == SandboxPhase::Live);
        let entry = entry.ok_or_else(|| NodeError::NotFound(id.to_string()))?;
        let mut samples = entry.samples();
        let now = tokio::task::spawn_blocking(move || sample_now(&self, &entry)).await;
        samples.extend(now.ok());
        Ok(samples)
    }
}

/// Samples every live sandbox until `stop`.
pub(crate) async fn sample(inner: Arc<Inner>, stop: CancellationToken) {
    loop {
        tokio::select! { biased; () = stop.cancelled() => return, () = tokio::time::sleep(EVERY) => {} }
        let live = inner.registry.all();
        for entry in live.into_iter().filter(|e| e.phase() == SandboxPhase::Live) {
            let usage = inner.backend.usage(&entry.lifecycle);
            let now = Instant::now();
            entry.push_sample(reading(&entry, &usage, now));
            entry.set_cpu(now, usage.cpu);
        }
    }
}

/// A sample of `entry` now. Blocking: looks at its files.
fn sample_now(inner: &Inner, entry: &Entry) -> Sample {
    let usage = inner.backend.usage(&entry.lifecycle);
    let mut sample = reading(entry, &usage, Instant::now());
    sample.disk_used_bytes = inner.backend.written(&entry.lifecycle);
    sample
}

fn reading(entry: &Entry, usage: &Usage, now: Instant) -> Sample {
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
