//! Emptying a node: waiting until its work is over, or ending it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lifecycle::{Budget, Ended, Joined};
use model::{BuildId, Change, EndReason, LifecycleId, NodePhase, NodeRequest};
use node_wire::{Expected, StatusError};
use observe::metrics::{FORCE_ATTEMPTS, result_of};
use tokio::time::Instant;

use crate::entry::Entry;
use crate::start::Inner;

/// What an attempt to force has done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Sandboxes and builds that are gone.
    pub stopped: u32,
    /// Those of them that came after the attempt had begun.
    pub late: u32,
    /// What is left, with its failing step.
    pub failed: Vec<String>,
}

impl Inner {
    /// Makes the change and, for a forced drain, starts or joins an attempt.
    pub(crate) fn apply(
        self: &Arc<Self>,
        request: NodeRequest,
        expected: &Expected,
    ) -> Result<Option<Joined<Outcome>>, StatusError> {
        if request == NodeRequest::DrainForced && self.is_all_ended() {
            self.check(expected)?;
            // Nothing is left to end, so nothing changes, the time of the last change included.
            return Ok(Some(self.join_force()));
        }
        let change = self.change(request, expected)?;
        if matches!(change, Change::To(phase) if phase.is_draining()) {
            self.report_progress();
        }
        Ok((request == NodeRequest::DrainForced).then(|| self.join_force()))
    }

    /// Whether an attempt has ended everything.
    fn is_all_ended(&self) -> bool {
        let (_, running, last) = self.force.status();
        !running && last.is_some_and(|ended| ended.is_done())
    }

    /// The running attempt to end everything, or the next one.
    fn join_force(self: &Arc<Self>) -> Joined<Outcome> {
        let span = tracing::info_span!("force");
        let inner = Arc::clone(self);
        let over = Arc::clone(self);
        let work = |number| {
            // The attempt before may have failed since the node's phase was changed for this one.
            self.advance(NodePhase::Forcing);
            *self.force_started.lock() = Some(SystemTime::now());
            async move {
                let outcome = inner.force_all(number).await;
                let all_ended = outcome.failed.is_empty();
                FORCE_ATTEMPTS.count([result_of(all_ended)]);
                if all_ended {
                    tracing::info!(number, stopped = outcome.stopped, "everything was ended");
                    Ended::Done(outcome)
                } else {
                    tracing::error!(number, left = ?outcome.failed, "an attempt left something");
                    Ended::Failed(outcome)
                }
            }
        };
        // Who sees that forcing has failed may try again at once.
        self.force.join(&self.upkeep, span, work, move |ended| {
            over.advance(if ended.is_done() {
                NodePhase::Draining
            } else {
                NodePhase::ForceFailed
            });
        })
    }

    /// Ends every sandbox and build, late arrivals included. One that will not go costs its own
    /// budget and nobody else's time.
    async fn force_all(&self, number: u32) -> Outcome {
        let budget = Budget::within(self.config.force_limit);
        let mut beats = self.pulse.listen();
        let mut seen = Seen::default();
        tracing::info!(number, sandboxes = self.registry.len(), "ending everything");
        let all_tried = async {
            loop {
                seen.meet_builds(self.builds.cancel_all());
                let entries = self.registry.all();
                for entry in &entries {
                    if seen.meet(entry) {
                        entry.end(EndReason::NodeStop);
                    }
                }
                seen.begun = true;
                let waiting = entries.iter().any(|entry| !seen.has_failed(entry));
                // Who is inside the gate may still come into the registry.
                if !waiting && self.gate.inside() == 0 && self.builds.running() == 0 {
                    return;
                }
                beats.next().await;
            }
        };
        let in_time = budget.run("force", all_tried).await.is_ok();
        let left: Vec<Arc<Entry>> = self.registry.all();
        let mut failed: Vec<String> = left.iter().map(|entry| describe(entry)).collect();
        let building = self.builds.running_ids();
        failed.extend(building.iter().map(|id| format!("build {id}: runs")));
        if !in_time && failed.is_empty() && self.gate.inside() > 0 {
            failed.push(format!("{} starts have not ended", self.gate.inside()));
        }
        let is_left = |id: &LifecycleId| left.iter().any(|entry| entry.lifecycle == *id);
        let late = seen.late.iter().filter(|id| !is_left(id)).count()
            + seen.late_builds.iter().filter(|id| !building.contains(id)).count();
        let builds = seen.builds.iter().filter(|id| !building.contains(id)).count();
        let stopped = seen.rounds.len().saturating_sub(left.len() + seen.kept) + builds;
        let number_of = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Outcome { stopped: number_of(stopped), late: number_of(late), failed }
    }

    /// Whether nothing is left that a drain waits for.
    pub(crate) fn is_empty(&self) -> bool {
        self.gate.inside() == 0 && self.registry.len() == 0 && self.builds.running() == 0
    }

    /// Logs how the drain goes, as long as it goes. One task, however often it is asked for.
    fn report_progress(self: &Arc<Self>) {
        if std::mem::replace(&mut *self.reporting.lock(), true) {
            return;
        }
        let inner = Arc::clone(self);
        let stop = self.upkeep.stop_token().clone();
        self.upkeep.spawn(tracing::info_span!("drain"), async move {
            let began = Instant::now();
            let mut beats = inner.pulse.listen();
            loop {
                inner.log_progress(began.elapsed());
                let pause = cadence(began.elapsed());
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    () = beats.until(|| inner.is_empty()) => {
                        tracing::info!(took_ms = began.elapsed().as_millis(), "nothing is left to wait for");
                        return;
                    }
                    () = tokio::time::sleep(pause) => {}
                }
            }
        });
    }

    fn log_progress(&self, elapsed: Duration) {
        let document = self.drain_document();
        let counts: BTreeMap<&str, u32> = document
            .counts
            .iter()
            .filter(|c| c.count > 0)
            .map(|c| (c.class.as_str(), c.count))
            .collect();
        let oldest = document.blockers.first();
        tracing::info!(
            phase = document.phase.as_str(),
            elapsed_s = elapsed.as_secs(),
            remaining = document.remaining(),
            ?counts,
            oldest = oldest.map_or("", |b| b.id.as_str()),
            oldest_state = oldest.map_or("", |b| b.state.as_str()),
            oldest_age_s = oldest.map_or(0, |b| b.age.as_secs()),
            "draining"
        );
    }
}

/// Progress is told often at first, then ever less.
pub(crate) const fn cadence(elapsed: Duration) -> Duration {
    match elapsed.as_secs() {
        0..60 => Duration::from_secs(5),
        60..3600 => Duration::from_secs(60),
        _ => Duration::from_secs(15 * 60),
    }
}

/// What an attempt has met so far.
#[derive(Debug, Default)]
struct Seen {
    /// The round of each lifecycle's teardown when the attempt met it.
    rounds: BTreeMap<LifecycleId, u32>,
    late: BTreeSet<LifecycleId>,
    builds: BTreeSet<BuildId>,
    late_builds: BTreeSet<BuildId>,
    /// Paused sandboxes, which are so still when their memory has gone.
    kept: usize,
    begun: bool,
}

impl Seen {
    /// Whether the attempt meets this one for the first time.
    fn meet(&mut self, entry: &Entry) -> bool {
        if self.rounds.contains_key(&entry.lifecycle) {
            return false;
        }
        self.rounds.insert(entry.lifecycle.clone(), entry.state().rounds);
        if entry.is_kept() {
            self.kept += 1;
        } else if self.begun {
            self.late.insert(entry.lifecycle.clone());
        }
        true
    }

    fn meet_builds(&mut self, ids: Vec<BuildId>) {
        for id in ids {
            if self.builds.insert(id.clone()) && self.begun {
                self.late_builds.insert(id);
            }
        }
    }

    /// Whether a round that ended after the attempt had met it has left something. (One that left
    /// nothing has left the registry, too.) It counts even if the next round runs already: several
    /// that hang are not waited for until they rest at the same time.
    fn has_failed(&self, entry: &Entry) -> bool {
        let rounds = entry.state().rounds;
        rounds > self.rounds.get(&entry.lifecycle).copied().unwrap_or(rounds)
    }
}

fn describe(entry: &Entry) -> String {
    let state = entry.state();
    let what = match state.step {
        _ if !state.left.is_empty() => state.left.join("; "),
        Some((step, since)) => format!("{}: runs for {} s", step.name(), since.elapsed().as_secs()),
        None => format!("{:?} for {} s", state.phase, state.since.elapsed().as_secs()),
    };
    format!("{}: {what}", entry.id)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::cadence;

    #[test]
    fn progress_is_told_every_5_seconds_then_every_minute_then_every_quarter_of_an_hour() {
        let at = |elapsed_s| cadence(Duration::from_secs(elapsed_s)).as_secs();
        assert_eq!([at(0), at(59), at(60), at(3599), at(3600)], [5, 5, 60, 60, 900]);
    }
}
