//! Stopping a node: drain, force, and the closers; and a census at the end to prove it.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use host::census::{Item, Kind, Owner};
use lifecycle::Budget;
use model::{LifecycleId, NodePhase, NodeRequest};
use node_wire::{Expected, LeakItem, Leaks};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::entry::Entry;
use crate::start::{Inner, Node};
use crate::status::Standing;

/// How long a stop waits before it forces, and what it does then.
#[derive(Debug, Clone, Copy)]
pub struct StopPlan {
    /// Work may end by itself for this long; `None`: for ever.
    pub graceful: Option<Duration>,
    /// Attempts to force go on for this long after that.
    pub force: Duration,
}

impl StopPlan {
    /// Ends everything at once.
    #[must_use]
    pub fn at_once(force: Duration) -> Self {
        Self { graceful: Some(Duration::ZERO), force }
    }
}

/// How a stop that is under way is hurried. Cancelling one never slows it down.
#[derive(Debug, Clone, Default)]
pub struct Escalation {
    /// Do not wait any longer: force.
    pub force: CancellationToken,
    /// Do not wait for anything: what is left stays under its names for the next start.
    pub give_up: CancellationToken,
}

/// What is left of a node that was shut down.
#[derive(Debug)]
pub struct ShutdownReport {
    /// Sandboxes that were there when the stop began.
    pub ended: usize,
    /// Whether anything had to be forced.
    pub forced: bool,
    /// Attempts to force that were made.
    pub attempts: u32,
    /// Objects that are still on the host. Empty is the proof of a clean stop.
    pub left: Vec<Item>,
    /// What went wrong on the way, in order.
    pub errors: Vec<String>,
    pub took: Duration,
}

impl ShutdownReport {
    /// Whether nothing is left and nothing failed.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.left.is_empty() && self.errors.is_empty()
    }
}

/// The time the closers have together, and the census after them, whatever the sandboxes took.
pub(crate) const RESERVE: Duration = Duration::from_secs(20);
/// The same when somebody has given up.
const HURRIED: Duration = Duration::from_millis(800);
/// How long a build that has ended can still be asked after before the node is closed: E2B's
/// clients poll every few seconds.
const POLLS: Duration = Duration::from_secs(15);
/// The pause between attempts to force.
const ATTEMPT_PAUSE: Duration = Duration::from_secs(1);

impl Node {
    /// Ends every sandbox within `budget` and releases everything the node has.
    ///
    /// Cancel safety: no.
    pub async fn shutdown(&self, budget: Budget) -> ShutdownReport {
        self.stop(StopPlan::at_once(budget.remaining()), &Escalation::default()).await
    }

    /// Drains, forces if it must, releases everything and takes a census. Every step runs whatever
    /// failed before. The node cannot be used again; a stop that left something can be repeated.
    ///
    /// Cancel safety: no.
    pub async fn stop(&self, plan: StopPlan, escalation: &Escalation) -> ShutdownReport {
        let began = Instant::now();
        let inner = &self.inner;
        // A paused one is paused still when its memory has gone.
        let goes = |entry: &Arc<Entry>| !entry.is_kept();
        let ended = inner.registry.all().iter().filter(|entry| goes(entry)).count();
        let mut errors = Vec::new();
        if let Err(error) = inner.apply(NodeRequest::Drain, &Expected::default()) {
            errors.push(format!("drain: {error}"));
        }
        let in_time = inner.drained(plan, escalation).await;
        let forced = !in_time
            && (inner.registry.all().iter().any(goes)
                || inner.gate.inside() > 0
                || inner.builds.running() > 0);
        if !in_time {
            inner.force_until_empty(Budget::within(plan.force), &escalation.give_up).await;
        }
        let last =
            Budget::within(if escalation.give_up.is_cancelled() { HURRIED } else { RESERVE });
        errors.extend(inner.close_all(last.keeping(last.remaining() / 4)).await);
        errors.extend(inner.what_is_left());
        let left = self.census(last).await.unwrap_or_else(|error| {
            errors.push(format!("census: {}", observe::chain(&error)));
            Vec::new()
        });
        if left.is_empty() && errors.is_empty() {
            if let Err(error) = inner.backend.give_back() {
                errors.push(format!("claim: {}", observe::chain(&error)));
            }
            inner.advance(NodePhase::Stopped);
        } else {
            // What is left may still go by itself.
            inner.rounds.resume();
        }
        let attempts = inner.force.status().0;
        let report =
            ShutdownReport { ended, forced, attempts, left, errors, took: began.elapsed() };
        tracing::info!(
            took_ms = report.took.as_millis(),
            phase = inner.phase().as_str(),
            stopped = report.ended,
            forced = report.forced,
            attempts = report.attempts,
            leaked = report.left.len(),
            failed = report.errors.len(),
            "node stopped"
        );
        report
    }

    /// Everything on the host that carries this node's mark.
    ///
    /// # Errors
    /// When a part of it cannot be read.
    pub async fn census(&self, budget: Budget) -> Result<Vec<Item>, host::census::CensusError> {
        self.inner.backend.census(budget).await
    }
}

impl Inner {
    /// Waits until everything has ended by itself. `false` when it is time to force.
    async fn drained(&self, plan: StopPlan, escalation: &Escalation) -> bool {
        if let Some(graceful) = plan.graceful {
            let at = (Instant::now() + graceful, std::time::SystemTime::now() + graceful);
            let mut standing = self.standing.lock();
            *standing = Standing { force_at: Some(at), ..*standing };
        }
        let limit = async {
            match plan.graceful {
                Some(graceful) => tokio::time::sleep(graceful).await,
                None => std::future::pending().await,
            }
        };
        let hurry = async {
            tokio::select! {
                () = escalation.force.cancelled() => {}
                () = escalation.give_up.cancelled() => {}
                () = limit => {}
            }
        };
        let mut hurry = pin!(hurry);
        let mut beats = self.pulse.listen();
        tokio::select! {
            biased;
            () = beats.until(|| self.is_empty()) => {}
            () = hurry.as_mut() => return false,
        }
        tokio::select! {
            biased;
            () = hurry => {}
            () = self.builds_told() => {}
        }
        true
    }

    /// Lets whoever polls a build that ended in this drain hear of it, for a while.
    async fn builds_told(&self) {
        let since = self.standing.lock().draining_since.map(|(_, at)| at);
        let Some(since) = since else { return };
        let mut beats = self.pulse.listen();
        let told = beats.until(|| !self.builds.is_untold(since));
        if Budget::within(POLLS).run("a poll of a build", told).await.is_err() {
            tracing::info!("nobody has asked how a build ended; it is forgotten");
        }
    }

    /// Attempt after attempt until nothing is left or `budget` ends.
    async fn force_until_empty(
        self: &std::sync::Arc<Self>,
        budget: Budget,
        give_up: &CancellationToken,
    ) {
        let attempts = async {
            loop {
                let joined = self.apply(NodeRequest::DrainForced, &Expected::default());
                let ended = match joined {
                    Ok(Some(joined)) => joined.ended().await,
                    Ok(None) | Err(_) => None,
                };
                if ended.is_some_and(|ended| ended.is_done()) || self.is_empty() {
                    return;
                }
                tokio::time::sleep(ATTEMPT_PAUSE).await;
            }
        };
        tokio::select! {
            biased;
            () = give_up.cancelled() => {}
            // Past it, what is left is told by what_is_left.
            over = budget.run("force", attempts) => drop(over),
        }
    }

    fn what_is_left(&self) -> Vec<String> {
        let document = self.drain_document();
        let tell = |b: &node_wire::Blocker| {
            let error = b.last_error.as_deref().unwrap_or("no error yet");
            format!("{} {} is {}: {error}", b.class.as_str(), b.id, b.state)
        };
        document.blockers.iter().map(tell).collect()
    }

    /// Every lifecycle in the registry.
    pub(crate) fn lifecycles(&self) -> BTreeSet<LifecycleId> {
        self.registry.all().iter().map(|entry| entry.lifecycle.clone()).collect()
    }

    /// Splits a census by whether the registry accounts for the object.
    /// `before` are the lifecycles that were in it before the census: one that has ended meanwhile
    /// was owned when it was counted.
    pub(crate) fn sort_out(&self, items: Vec<Item>, before: &BTreeSet<LifecycleId>) -> Leaks {
        let mut known = self.lifecycles();
        known.extend(before.iter().cloned());
        let is_ours = |id: &str| known.iter().any(|known| known.as_str() == id);
        let mut leaks = Leaks::default();
        for item in items {
            let owned = match &item.owner {
                Owner::Lifecycle(id) => is_ours(id),
                Owner::Slot(index) => self.backend.has_slot(*index),
                Owner::Node => true,
            };
            let told = LeakItem {
                kind: kind_name(item.kind).to_owned(),
                name: item.name,
                owner: match item.owner {
                    Owner::Lifecycle(id) => format!("lifecycle {id}"),
                    Owner::Slot(index) => format!("slot {index}"),
                    Owner::Node => "node".to_owned(),
                },
            };
            if owned { leaks.owned.push(told) } else { leaks.leaked.push(told) }
        }
        *self.leaked.lock() = Some(u32::try_from(leaks.leaked.len()).unwrap_or(u32::MAX));
        leaks
    }
}

const fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Process => "process",
        Kind::Cgroup => "cgroup",
        Kind::Link => "link",
        Kind::FirewallTable => "firewall-table",
        Kind::Mount => "mount",
        Kind::LifecycleDirectory => "lifecycle-directory",
    }
}
