//! Tasks that keep this machine in order while a node runs on it.

use std::sync::Arc;
use std::time::Duration;

use host::process::{Orphans, zombie_children};
use tokio_util::sync::CancellationToken;

use crate::backend::host::Host;
use crate::ledger::{ended_dir, prune};

/// How often descendants that fell to the daemon are looked for.
const ORPHANS_EVERY: Duration = Duration::from_secs(10);
/// Between the two looks at the last of them.
const ORPHANS_PAUSE: Duration = Duration::from_millis(50);
/// How often records of ended sandboxes are looked through for those to forget.
const PRUNE_EVERY: Duration = Duration::from_secs(60);

/// Reaps what nobody waits for: children of a runtime that was ended in the middle of a call.
pub(super) async fn reap_orphans(stop: CancellationToken) {
    let mut orphans = Orphans::default();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(ORPHANS_EVERY) => {}
        }
        let reaped = orphans.sweep();
        if reaped > 0 {
            tracing::info!(reaped, "orphans reaped");
        }
    }
}

/// Takes the status of the last children that nobody waits for.
pub(super) async fn reap_last_orphans() {
    if zombie_children().is_empty() {
        return;
    }
    let mut orphans = Orphans::default();
    // The first sweep finds them, the second is sure that nobody else wants them.
    orphans.sweep();
    tokio::time::sleep(ORPHANS_PAUSE).await;
    orphans.sweep();
}

/// Keeps the records of ended sandboxes as few and as young as they may be.
pub(super) async fn forget_ended(host: Arc<Host>, stop: CancellationToken) {
    let (kept, max_age) = (host.config.ended_kept, host.config.ended_max);
    let dir = ended_dir(&host.config.lifecycles());
    drop(host);
    loop {
        let dir = dir.clone();
        let pruned = tokio::task::spawn_blocking(move || prune(&dir, kept, max_age)).await;
        if let Ok(Err(error)) = pruned {
            tracing::warn!(%error, "records of ended sandboxes cannot be looked through");
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PRUNE_EVERY) => {}
        }
    }
}
