//! Taking down what an earlier daemon left and this one cannot run on, beside the node's other work.
//!
//! What will not go is stuck like any other teardown that failed: it keeps its id and its slot, is
//! tried again, and keeps the node from stopping clean. The node opens all the same.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use lifecycle::Budget;
use model::{EndReason, SandboxPhase};
use node_wire::{AdoptEnd, AdoptReport};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::adopt::{Found, LeftBehind, Take};
use crate::entry::Entry;
use crate::finish::{Why, finish};
use crate::start::Inner;

/// How long the kernel is given to take links away by itself.
const UNLINK_LIMIT: Duration = Duration::from_secs(5);
/// Lifecycles reclaimed at a time.
pub(crate) const AT_A_TIME: usize = 16;

/// What is to be told of a start, as far as it has come.
pub(crate) struct Reclaim {
    entries: Vec<Arc<Entry>>,
    strays: bool,
    report: AdoptReport,
    began: Instant,
}

impl Reclaim {
    /// Begins to take down what was left behind, each as a task of its own: they go on without
    /// whoever waits for them.
    pub(crate) fn begin(inner: &Arc<Inner>, found: Found, began: Instant) -> Self {
        let Found { adopted, left_behind, strays } = found;
        let ended = left_behind.iter().filter(|left| !left.half_made);
        let end = |left: &LeftBehind| AdoptEnd { id: left.entry.id.clone(), reason: left.reason };
        let report = AdoptReport {
            finished: false,
            adopted,
            ended: ended.map(end).collect(),
            rolled_back: number(left_behind.iter().filter(|left| left.half_made).count()),
            stuck: 0,
            took: began.elapsed(),
        };
        let entries = left_behind.iter().map(|left| Arc::clone(&left.entry)).collect();
        for left in left_behind {
            let span = left.entry.span();
            inner.tasks.spawn(span, take_down(Arc::clone(inner), left));
        }
        *inner.adopted.lock() = Some(report.clone());
        Self { entries, strays, report, began }
    }

    /// Whether nothing was left but what runs on.
    pub(crate) fn is_done(&self) -> bool {
        self.entries.is_empty() && !self.strays
    }

    /// Opens the node when everything has been tried once and what belongs to nobody is removed, and
    /// goes on until it is, or until `stop`.
    ///
    /// Cancel safety: yes; what has begun goes on.
    pub(crate) async fn run(self, inner: &Inner, stop: &CancellationToken) {
        let work = async {
            let mut beats = inner.pulse.listen();
            beats.until(|| self.entries.iter().all(|entry| entry.state().rounds > 0)).await;
            // A link of nobody may be of one that is stuck and whose slot is not known: it is kept
            // from others until that has gone.
            let may_settle = self.stuck() == 0;
            if may_settle {
                settle(inner).await;
            }
            self.tell(inner);
            inner.opened();
            if !may_settle {
                beats.until(|| self.stuck() == 0).await;
                settle(inner).await;
            }
        };
        tokio::select! { biased; () = stop.cancelled() => {}, () = work => {} }
    }

    fn stuck(&self) -> usize {
        self.entries.iter().filter(|entry| entry.phase() != SandboxPhase::Stopped).count()
    }

    /// Says what has become of it all.
    pub(crate) fn tell(&self, inner: &Inner) {
        let report = AdoptReport {
            finished: true,
            stuck: number(self.stuck()),
            took: self.began.elapsed(),
            ..self.report.clone()
        };
        if report.is_empty() {
            tracing::info!("an earlier daemon has left nothing");
        } else {
            tracing::info!(
                adopted = report.adopted,
                ended = report.ended.len(),
                rolled_back = report.rolled_back,
                stuck = report.stuck,
                took_ms = report.took.as_millis(),
                "what an earlier daemon left is taken over"
            );
        }
        *inner.adopted.lock() = Some(report);
    }
}

/// Removes what belongs to no lifecycle.
async fn settle(inner: &Inner) {
    let [before, after] = Take::Settle.points();
    pass(inner, before).await;
    if let Err(error) = inner.backend.settle(Budget::within(UNLINK_LIMIT)).await {
        let error = observe::chain(&error).to_string();
        tracing::error!(error, "links of nobody are left; their slots are not used");
    }
    pass(inner, after).await;
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

async fn take_down(inner: Arc<Inner>, left: LeftBehind) {
    let LeftBehind { entry, held, reason, .. } = left;
    let permit = tokio::select! {
        biased;
        () = inner.handing.over.cancelled() => return held.leave(),
        permit = inner.reclaiming.acquire() => permit,
    };
    let [before, after] = Take::Finish.points();
    pass(&inner, before).await;
    let why = Why { reclaimed: held.found(), ..reason.into() };
    tracing::info!(reason = EndReason::as_str(reason), "a sandbox of an earlier daemon is ended");
    finish(&inner, &entry, held, why).await;
    pass(&inner, after).await;
    drop(permit);
}

/// Nothing hangs on the outcome: what is left is taken down whatever happens on the way.
async fn pass(inner: &Inner, point: &str) {
    let budget = Budget::within(inner.config.teardown_limit);
    let passed = AssertUnwindSafe(inner.config.faults.hit(point, budget)).catch_unwind().await;
    if !matches!(passed, Ok(Ok(()))) {
        tracing::warn!(point, "a fault was injected");
    }
}
