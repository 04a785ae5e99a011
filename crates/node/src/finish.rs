//! Taking a lifecycle down, round after round, until nothing of it is left.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures::FutureExt;
use lifecycle::{Budget, Plan, StepName};
use model::{EndReason, SandboxEvent};
use node_wire::NodeEvent;
use observe::metrics::{END, RELEASE_STEP, result_of};
use rand::Rng;

use crate::backend::Holdings;
use crate::entry::Entry;
use crate::ledger::{End, Failure, micros};
use crate::start::Inner;
use crate::teardown::{SEAL_POINT, Step, StepError, plan};

/// First and longest pause between rounds of a teardown that does not get done.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Why a lifecycle is taken down.
#[derive(Debug)]
pub(crate) struct Why {
    /// Unless somebody has given another before.
    pub reason: EndReason,
    /// Of a start that failed.
    pub failure: Option<Failure>,
    /// What an earlier daemon had left.
    pub reclaimed: Vec<String>,
}

impl From<EndReason> for Why {
    fn from(reason: EndReason) -> Self {
        Self { reason, failure: None, reclaimed: Vec::new() }
    }
}

/// Takes the lifecycle down, however often it has to be tried, and leaves the registry last.
///
/// A start that failed answers its caller after the first round: what is stuck then is visible.
/// To be called within the lifecycle's span, which all of its records have.
pub(crate) async fn finish(
    inner: &Arc<Inner>,
    entry: &Arc<Entry>,
    held: Box<dyn Holdings>,
    why: Why,
) {
    entry.end(why.reason);
    let reason = entry.end_reason().unwrap_or(why.reason);
    let mut teardown = Teardown {
        inner: Arc::clone(inner),
        entry: Arc::clone(entry),
        held,
        plan: plan(),
        reason,
        announced: !entry.is_kept(),
    };
    entry.on(SandboxEvent::End, |_| {});
    // Before anything is killed: what a daemon finds dead that comes after this one, it finds ended.
    teardown.write_end(why);
    teardown.first().await;
}

struct Teardown {
    inner: Arc<Inner>,
    entry: Arc<Entry>,
    held: Box<dyn Holdings>,
    plan: Plan<Step>,
    reason: EndReason,
    /// Whether its end was announced; of one that is kept a pause will be.
    announced: bool,
}

/// What a round has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Round {
    Gone,
    Stuck,
    /// This daemon has no time for the rest; the next one does it.
    Left,
}

impl Teardown {
    async fn first(mut self) {
        let reason = self.reason;
        if self.announced {
            self.announce_end(reason);
        }
        self.entry.on(SandboxEvent::Release, |_| {});
        let began = Instant::now();
        let round = self.round().await;
        if round == Round::Left {
            tracing::info!(reason = reason.as_str(), "the next daemon ends the sandbox");
            return self.held.leave();
        }
        let gone = round == Round::Gone;
        END.record([reason.as_str(), result_of(gone)], began.elapsed());
        self.tell(gone);
        if gone {
            tracing::info!(reason = reason.as_str(), "sandbox ended");
            return self.done();
        }
        let tasks = self.inner.tasks.clone();
        tasks.spawn(tracing::Span::current(), self.retry());
    }

    fn announce_end(&self, reason: EndReason) {
        self.inner.announce(NodeEvent::Ended {
            id: self.entry.id.clone(),
            lifecycle: self.entry.lifecycle.clone(),
            reason,
            at: SystemTime::now(),
        });
    }

    /// Writes down why it ends, and what it has used. It goes without, too: a full disk keeps
    /// nothing from being released.
    fn write_end(&mut self, Why { failure, reclaimed, .. }: Why) {
        let (inner, id) = (&self.inner, &self.entry.lifecycle);
        let (usage, peak) = (inner.backend.usage(id), inner.backend.peak(id));
        let end = End {
            reason: self.reason,
            at_us: micros(self.entry.state().ended_at.unwrap_or_else(SystemTime::now)),
            cpu_us: u64::try_from(usage.cpu.as_micros()).unwrap_or(u64::MAX),
            memory_peak_bytes: peak.memory_bytes,
            pids: peak.pids,
            reclaimed,
        };
        let written = self.held.write(&mut |record| {
            // An earlier daemon had begun with it, and knew better.
            record.ending.get_or_insert_with(|| end.clone());
            // Of one that goes on it is needed again.
            record.access_token = record.access_token.take().filter(|_| self.entry.is_kept());
            record.failure = record.failure.take().or_else(|| failure.clone());
        });
        if let Err(error) = written {
            let error = observe::chain(&error).to_string();
            tracing::warn!(error, "the end of a sandbox could not be written down yet");
        }
    }

    /// Says once that a teardown did not go as it should: at its first round, if that left
    /// something, or when it is gone, if it was forced.
    fn tell(&self, gone: bool) {
        let forced = self.reason == EndReason::NodeStop;
        if gone && !forced {
            return;
        }
        self.inner.announce(NodeEvent::TornDown {
            id: self.entry.id.clone(),
            lifecycle: self.entry.lifecycle.clone(),
            reason: self.reason,
            forced,
            left: self.left(),
            at: SystemTime::now(),
        });
    }

    async fn retry(mut self) {
        let mut pause = RETRY_FIRST;
        loop {
            let jitter = rand::rng().random_range(0.8..1.2);
            tokio::select! {
                biased;
                () = self.inner.handing.over.cancelled() => return self.held.leave(),
                () = self.entry.retry_asked() => {}
                () = tokio::time::sleep(pause.mul_f64(jitter)) => {}
            }
            pause = (pause * 2).min(RETRY_MAX);
            match self.round().await {
                Round::Gone => {
                    tracing::info!(rounds = self.plan.rounds(), "a stuck sandbox is gone");
                    return self.done();
                }
                Round::Left => return self.held.leave(),
                Round::Stuck => {}
            }
        }
    }

    /// One round of the teardown, when it may run.
    async fn round(&mut self) -> Round {
        let inner = Arc::clone(&self.inner);
        let _running = tokio::select! {
            biased;
            running = inner.rounds.begin() => running,
            () = inner.handing.over.cancelled() => return Round::Left,
        };
        if self.plan.rounds() > 0 {
            self.entry.on(SandboxEvent::Release, |_| {});
        }
        if self.entry.is_unwanted() {
            self.keep_nothing();
        }
        self.plan.begin();
        tokio::select! {
            biased;
            () = inner.rounds.cut() => tracing::warn!("a round was cut off: the node is closing"),
            () = self.steps() => {}
        }
        match self.plan.is_done() {
            true => Round::Gone,
            false if inner.handing.over.is_cancelled() => Round::Left,
            false => self.stuck(),
        }
    }

    /// Says what is left.
    fn stuck(&mut self) -> Round {
        let left = self.left();
        tracing::error!(?left, rounds = self.plan.rounds(), "sandbox is stuck");
        self.entry.on(SandboxEvent::Fail, |state| {
            state.rounds += 1;
            state.left = left;
            state.pending = self.plan.pending().to_vec();
            state.step = None;
        });
        Round::Stuck
    }

    async fn steps(&mut self) {
        let budget = Budget::within(self.inner.config.teardown_limit);
        while let Some(step) = self.plan.next_step() {
            self.entry.begin_step(step);
            let began = Instant::now();
            let released = self.step(step, budget).await;
            let (took, result) = (began.elapsed(), result_of(released.is_ok()));
            RELEASE_STEP.record([step.name(), result], took);
            tracing::debug!(step = step.name(), result, ms = took.as_millis(), "release step");
            self.plan.settle(
                step,
                released.map_err(|error| {
                    let error = observe::chain(&error).to_string();
                    tracing::warn!(step = step.name(), error, "a release step failed");
                    error
                }),
            );
        }
    }

    /// One step within its own time, which begins when it may run.
    async fn step(&mut self, step: Step, budget: Budget) -> Result<(), StepError> {
        let inner = Arc::clone(&self.inner);
        // One that will not die keeps nobody else waiting: killing needs no permit. Large layers
        // wait for each other only.
        let queue = match step {
            Step::Kill => None,
            Step::Files => Some(&inner.removing),
            _ => Some(&inner.releasing),
        };
        let released = async {
            if step == Step::Files {
                self.keep_files(budget.slice(step.limit())).await?;
            }
            let _permit = match queue {
                Some(queue) => budget.run("queue", queue.acquire()).await?.ok(),
                None => None,
            };
            let slice = budget.slice(step.limit());
            inner.config.faults.hit(step.point(), slice).await?;
            self.held.release(step, slice).await
        };
        let released = AssertUnwindSafe(released).catch_unwind().await;
        released.unwrap_or_else(|panic| Err(StepError::panicked(&*panic)))
    }

    /// What is not confirmed, each with why.
    fn left(&self) -> Vec<String> {
        let failure = |step: &Step| {
            let failed = self.plan.failures().iter().find(|failed| failed.step == *step);
            let error = failed.map_or("was not over", |failed| failed.error.as_str());
            format!("{}: {error}", step.name())
        };
        self.plan.pending().iter().map(failure).collect()
    }

    /// Puts what a paused sandbox has written where it is kept. The disk may take its time for that,
    /// and whoever wants the sandbox gone does not wait for it.
    async fn keep_files(&mut self, budget: Budget) -> Result<(), StepError> {
        if !self.held.is_kept() {
            return Ok(());
        }
        let (inner, unwanted) = (Arc::clone(&self.inner), self.entry.unwanted().clone());
        let written = async {
            let _permit = budget.run("queue", inner.sealing.acquire()).await?;
            inner.config.faults.hit(SEAL_POINT, budget).await?;
            Ok::<_, StepError>(self.held.sync(budget).await?)
        };
        tokio::select! {
            biased;
            () = unwanted.cancelled() => {
                self.keep_nothing();
                Ok(())
            }
            written = written => {
                written?;
                self.held.seal().await
            }
        }
    }

    /// Its owner wants nothing of it any more.
    fn keep_nothing(&mut self) {
        if let Err(error) = self.held.write(&mut |record| record.paused_at_us = None) {
            // What is kept after all goes when whoever ends it has waited for its end.
            tracing::warn!(error = %observe::chain(&error), "its files may be kept for a moment");
        }
    }

    fn done(self) {
        if self.entry.is_kept() {
            self.inner.announce(NodeEvent::Paused {
                id: self.entry.id.clone(),
                lifecycle: self.entry.lifecycle.clone(),
                memory: false,
                agent_silent: false,
                at: SystemTime::now(),
            });
        } else if !self.announced && self.inner.backend.sealed_of(&self.entry.id).is_none() {
            // Its owner wanted it gone before it was kept. Of what is kept its removal says so.
            self.announce_end(EndReason::Request);
        }
        self.inner.registry.remove(&self.entry, |entry| {
            entry.on(SandboxEvent::Confirm, |state| {
                state.rounds += 1;
                state.left.clear();
                state.pending.clear();
                state.step = None;
            });
        });
    }
}
