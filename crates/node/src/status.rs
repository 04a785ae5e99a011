//! The node's phase, and the document that says what a drain still waits for.

use std::time::{Duration, SystemTime};

use futures::StreamExt;
use futures::stream::{BoxStream, unfold};
use model::{Change, NodePhase, NodeRequest, SandboxPhase};
use node_wire::{AttemptStatus, Blocker, Class, ClassCount, DrainStatus, Expected, StatusError};
use tokio::time::Instant;

use crate::entry::{Entry, State};
use crate::start::Inner;

/// Where the node stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standing {
    pub phase: NodePhase,
    pub changed_at: SystemTime,
    /// Changes of the phase so far.
    pub epoch: u64,
    pub draining_since: Option<(Instant, SystemTime)>,
    /// When what still runs is ended.
    pub force_at: Option<(Instant, SystemTime)>,
}

impl Standing {
    pub(crate) fn starting() -> Self {
        Self {
            phase: NodePhase::Starting,
            changed_at: SystemTime::now(),
            epoch: 0,
            draining_since: None,
            force_at: None,
        }
    }
}

/// Changes are told at most this often.
const UPDATE_PAUSE: Duration = Duration::from_millis(100);

impl Inner {
    pub(crate) fn phase(&self) -> NodePhase {
        self.standing.lock().phase
    }

    /// The node has finished starting. It stays in a drain that was asked for meanwhile.
    pub(crate) fn opened(&self) {
        let mut standing = self.standing.lock();
        if standing.phase == NodePhase::Starting {
            set(&mut standing, NodePhase::Healthy);
        }
        drop(standing);
        self.pulse.beat();
        self.tell_failing();
    }

    /// Makes the change that `request` asks for, if any, of a node that is what is `expected`.
    ///
    /// Admission is closed before the drain can be seen: both happen under one lock, which every
    /// reader of the phase takes, too.
    pub(crate) fn change(
        &self,
        request: NodeRequest,
        expected: &Expected,
    ) -> Result<Change, StatusError> {
        let mut standing = self.standing.lock();
        expected.check(&self.instance, standing.phase, standing.epoch)?;
        let change = standing.phase.on(request)?;
        if let Change::To(next) = change {
            if next.is_draining() {
                self.gate.shut();
                self.draining.cancel();
                let now = (Instant::now(), SystemTime::now());
                standing.draining_since.get_or_insert(now);
            }
            set(&mut standing, next);
        }
        drop(standing);
        self.pulse.beat();
        Ok(change)
    }

    /// Whether the node is what is `expected`, now.
    pub(crate) fn check(&self, expected: &Expected) -> Result<(), StatusError> {
        let standing = self.standing.lock();
        expected.check(&self.instance, standing.phase, standing.epoch)
    }

    /// Moves on within a drain; never out of it.
    pub(crate) fn advance(&self, next: NodePhase) {
        let mut standing = self.standing.lock();
        if standing.phase.is_draining() && next.is_draining() && standing.phase != next {
            set(&mut standing, next);
        }
        drop(standing);
        self.pulse.beat();
    }

    pub(crate) fn drain_document(&self) -> DrainStatus {
        let standing = *self.standing.lock();
        let mut work: Vec<Blocker> =
            self.registry.all().iter().map(|entry| blocker(entry, &entry.state())).collect();
        work.extend(self.builds.blockers());
        work.sort_by_key(|blocker| std::cmp::Reverse(blocker.age));
        let count = |class| {
            let count = work.iter().filter(|blocker| blocker.class == class).count();
            ClassCount { class, count: u32::try_from(count).unwrap_or(u32::MAX) }
        };
        let counts = Class::ALL.map(count).to_vec();
        let eta = eta(&work, standing.force_at.map(|(_, at)| at));
        work.truncate(DrainStatus::MAX_BLOCKERS);
        DrainStatus {
            node: self.id.clone(),
            service_instance: self.instance.clone(),
            phase: standing.phase,
            changed_at: standing.changed_at,
            epoch: standing.epoch,
            accepting: !self.gate.is_shut() && standing.phase != NodePhase::Starting,
            draining_since: standing.draining_since.map(|(_, at)| at),
            force_at: standing.force_at.map(|(_, at)| at),
            counts,
            blockers: work,
            attempt: self.attempt_status(),
            eta,
            leaked: *self.leaked.lock(),
        }
    }

    fn attempt_status(&self) -> Option<AttemptStatus> {
        let (number, running, last) = self.force.status();
        let started_at = (*self.force_started.lock())?;
        let outcome = last.filter(|_| !running).map(|ended| ended.outcome().clone());
        let outcome = outcome.unwrap_or_default();
        Some(AttemptStatus {
            number,
            started_at,
            running,
            stopped: outcome.stopped,
            late: outcome.late,
            failed: outcome.failed,
        })
    }

    /// The document now and after every change.
    pub(crate) fn drain_stream(self: &std::sync::Arc<Self>) -> BoxStream<'static, DrainStatus> {
        let start = (std::sync::Arc::clone(self), self.pulse.listen(), true);
        unfold(start, |(inner, mut beats, first)| async move {
            if !first {
                beats.next().await;
                tokio::time::sleep(UPDATE_PAUSE).await;
            }
            let document = inner.drain_document();
            Some((document, (inner, beats, false)))
        })
        .boxed()
    }
}

fn set(standing: &mut Standing, next: NodePhase) {
    tracing::info!(from = standing.phase.as_str(), to = next.as_str(), "node phase changed");
    standing.phase = next;
    standing.changed_at = SystemTime::now();
    standing.epoch += 1;
}

fn blocker(entry: &Entry, state: &State) -> Blocker {
    let class = match state.phase {
        SandboxPhase::Reserved | SandboxPhase::Booting => Class::Starting,
        SandboxPhase::Live | SandboxPhase::Checkpointing => Class::Live,
        SandboxPhase::Pausing
        | SandboxPhase::Paused
        | SandboxPhase::Stopping
        | SandboxPhase::TearingDown
        | SandboxPhase::Stopped => Class::Stopping,
        SandboxPhase::Stuck => Class::Stuck,
    };
    Blocker {
        class,
        id: entry.id.to_string(),
        state: class.as_str().to_owned(),
        age: state.since.elapsed(),
        ends_at: (state.phase == SandboxPhase::Live).then_some(state.ends_at),
        last_error: (!state.left.is_empty()).then(|| state.left.join("; ")),
    }
}

/// The last of the known ends; unknown when one piece of work has none and nobody forces it.
fn eta(work: &[Blocker], force_at: Option<SystemTime>) -> Option<Duration> {
    let left = |at: SystemTime| at.duration_since(SystemTime::now()).unwrap_or_default();
    let forced = force_at.map(left);
    let mut latest = Duration::ZERO;
    for blocker in work {
        let by_itself = blocker.ends_at.map(left);
        let end = match (by_itself, forced) {
            (Some(own), Some(forced)) => own.min(forced),
            (Some(own), None) => own,
            (None, Some(forced)) => forced,
            (None, None) => return None,
        };
        latest = latest.max(end);
    }
    Some(latest)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use node_wire::{Blocker, Class};

    use super::eta;

    fn work(ends_in_s: Option<u64>) -> Blocker {
        Blocker {
            class: Class::Live,
            id: "i".into(),
            state: "live".into(),
            age: Duration::ZERO,
            ends_at: ends_in_s.map(|s| SystemTime::now() + Duration::from_secs(s)),
            last_error: None,
        }
    }

    #[test]
    fn the_last_known_end_is_the_estimate_and_forcing_bounds_it() {
        let near = |got: Option<Duration>, want_s: u64| {
            let got = got.unwrap().as_secs_f64();
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            let want = want_s as f64;
            assert!((got - want).abs() < 2.0, "{got} is not near {want}");
        };
        near(eta(&[], None), 0);
        near(eta(&[work(Some(60)), work(Some(600))], None), 600);
        assert_eq!(eta(&[work(Some(60)), work(None)], None), None);
        let force_at = Some(SystemTime::now() + Duration::from_secs(30));
        near(eta(&[work(Some(10)), work(None), work(Some(600))], force_at), 30);
    }
}
