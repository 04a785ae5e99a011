//! Giving up the memory of paused sandboxes when the host runs short of it. Their files are kept: what
//! is paused is the first thing that a host can do without.

use std::sync::Arc;
use std::time::Duration;

use model::SandboxPhase;
use node_wire::NodeMetrics;
use tokio_util::sync::CancellationToken;

use crate::entry::Entry;
use crate::entry::wish::Wish;
use crate::start::Inner;

/// How often the host's memory is looked at.
const EVERY: Duration = Duration::from_secs(5);
/// Of a hundred parts of its memory a host should have this many for those that run.
const RESERVE_PCT: u64 = 10;

/// Makes the sandbox that was paused first give up its memory as long as the host is short of it, until
/// `stop`. One at a time: what it frees is seen at the next look.
pub(crate) async fn relieve(inner: Arc<Inner>, stop: CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        if !is_short(&inner.backend.load()) {
            continue;
        }
        let paused = |entry: &Arc<Entry>| entry.phase() == SandboxPhase::Paused;
        let first = inner.registry.all().into_iter().filter(paused);
        if let Some(entry) = first.min_by_key(|entry| entry.state().paused_at) {
            tracing::warn!(
                sandbox.id = %entry.id,
                "the host is short of memory; that of a paused sandbox is given up, its files are kept"
            );
            entry.wish(Wish::GiveUp);
        }
    }
}

fn is_short(load: &NodeMetrics) -> bool {
    let free = load.memory_total_bytes.saturating_sub(load.memory_used_bytes);
    free < load.memory_total_bytes / 100 * RESERVE_PCT
}
