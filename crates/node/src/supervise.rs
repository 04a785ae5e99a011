//! One task per lifecycle: it alone makes the sandbox, watches it, and takes it down.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures::FutureExt;
use host::process::Process;
use lifecycle::{Budget, StepName};
use model::{EndReason, SandboxEvent};
use node_wire::{CreateError, NodeEvent, Route, Started};
use observe::metrics::{CREATE, END, RELEASE_STEP, result_of};
use rand::Rng;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::admission::Admitted;
use crate::entry::Entry;
use crate::provision::{Order, ProvisionError, ended, provision};
use crate::start::Inner;
use crate::teardown::{Holdings, Step, StepError, plan, release};

/// What a create holds until it is over.
pub(crate) struct Admission {
    pub pass: Admitted,
    pub starting: OwnedSemaphorePermit,
    pub limit: Duration,
    pub answer: oneshot::Sender<Result<Started, CreateError>>,
}

/// First and longest pause between rounds of a teardown that does not get done.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// The whole life of one lifecycle.
pub(crate) async fn supervise(inner: Arc<Inner>, order: Order, admission: Admission) {
    let entry = Arc::clone(&order.entry);
    let mut held = Holdings::default();
    let began = Instant::now();
    // A panic is a failed start like any other: what was acquired is in the holdings.
    let outcome = AssertUnwindSafe(provision(&inner, &order, &mut held)).catch_unwind().await;
    let outcome = outcome.unwrap_or_else(|panic| Err(ProvisionError::panicked(&*panic)));
    // Somebody may have asked for its end while the last step ran.
    let outcome = outcome.and_then(|addr| match entry.set_live(order.spec.ttl) {
        true => Ok(addr),
        false => Err(ProvisionError::cancelled("live")),
    });
    CREATE.record([result_of(outcome.is_ok())], began.elapsed());
    let Admission { pass, starting, limit, answer } = admission;
    drop(starting);
    match outcome {
        Ok(addr) => {
            let route = Route {
                sandbox: entry.id.clone(),
                lifecycle: entry.lifecycle.clone(),
                addr: addr.into(),
            };
            tracing::info!("sandbox started");
            // In the registry and live: from here on it is counted without the pass.
            drop(pass);
            if answer.send(Ok(Started { status: entry.status(), route })).is_err() {
                tracing::debug!("the caller of the create has gone; the sandbox runs");
            }
            let reason = live(&entry, held.machine.process.as_ref()).await;
            finish(&inner, &entry, &mut held, reason).await;
        }
        Err(error) => {
            let cancelled = entry.end_reason().is_some();
            if !cancelled {
                tracing::warn!(step = error.step, error = %observe::chain(&error), "start failed");
            }
            let wire = error.to_wire(&inner, limit);
            finish(&inner, &entry, &mut held, EndReason::StartFailed).await;
            drop(pass);
            // After the teardown: who reads this answer can rely on nothing being left.
            if answer.send(Err(wire)).is_err() {
                tracing::debug!("the caller of the failed create has gone");
            }
        }
    }
}

/// Watches a live sandbox until something ends it.
async fn live(entry: &Entry, process: Option<&Process>) -> EndReason {
    let mut state = entry.watch();
    loop {
        let deadline = state.borrow_and_update().deadline;
        tokio::select! {
            biased;
            () = entry.ended().cancelled() => return entry.end_reason().unwrap_or(EndReason::Request),
            () = ended(process) => {
                tracing::warn!("the machine ended by itself");
                return EndReason::Crashed;
            }
            () = tokio::time::sleep_until(deadline) => {
                // Unless its end was moved in the same instant.
                if entry.expire() {
                    return EndReason::Timeout;
                }
            }
            changed = state.changed() => if changed.is_err() { return EndReason::Request },
        }
    }
}

/// Takes the lifecycle down, however often it has to be tried, and leaves the registry last.
///
/// A start that failed answers its caller after the first round: what is stuck then is visible.
pub(crate) async fn finish(
    inner: &Arc<Inner>,
    entry: &Arc<Entry>,
    held: &mut Holdings,
    reason: EndReason,
) {
    entry.end(reason);
    let reason = entry.end_reason().unwrap_or(reason);
    entry.on(SandboxEvent::End, |_| {});
    inner.announce(NodeEvent::Ended {
        id: entry.id.clone(),
        lifecycle: entry.lifecycle.clone(),
        reason,
        at: SystemTime::now(),
    });
    entry.on(SandboxEvent::Release, |_| {});
    let mut plan = plan();
    let began = Instant::now();
    let gone = round(inner, entry, held, &mut plan).await;
    END.record([reason.as_str(), result_of(gone)], began.elapsed());
    if gone {
        tracing::info!(reason = reason.as_str(), "sandbox ended");
        return done(inner, entry);
    }
    let mut rest = std::mem::take(held);
    let (inner, entry) = (Arc::clone(inner), Arc::clone(entry));
    let span = tracing::Span::current();
    let tasks = inner.tasks.clone();
    tasks.spawn(span, async move {
        let mut pause = RETRY_FIRST;
        loop {
            let jitter = rand::rng().random_range(0.8..1.2);
            tokio::select! {
                () = entry.retry_asked() => {}
                () = tokio::time::sleep(pause.mul_f64(jitter)) => {}
            }
            pause = (pause * 2).min(RETRY_MAX);
            entry.on(SandboxEvent::Release, |_| {});
            if round(&inner, &entry, &mut rest, &mut plan).await {
                tracing::info!(rounds = plan.rounds(), "a stuck sandbox is gone");
                return done(&inner, &entry);
            }
        }
    });
}

/// One round of the teardown. Whether it is over.
async fn round(
    inner: &Arc<Inner>,
    entry: &Entry,
    held: &mut Holdings,
    plan: &mut lifecycle::Plan<Step>,
) -> bool {
    let budget = Budget::within(inner.config.teardown_limit);
    plan.begin();
    while let Some(step) = plan.next_step() {
        let began = Instant::now();
        let released = run_step(inner, entry, held, step, budget).await;
        RELEASE_STEP.record([step.name(), result_of(released.is_ok())], began.elapsed());
        plan.settle(
            step,
            released.map_err(|error| {
                let error = observe::chain(&error).to_string();
                tracing::warn!(step = step.name(), error, "a release step failed");
                error
            }),
        );
    }
    let done = plan.is_done();
    if !done {
        let left = plan.failures().iter().map(|f| format!("{}: {}", f.step.name(), f.error));
        let left: Vec<String> = left.collect();
        tracing::error!(?left, rounds = plan.rounds(), "sandbox is stuck");
        entry.on(SandboxEvent::Fail, |state| {
            state.rounds += 1;
            state.left = left;
            state.pending = plan.pending().to_vec();
        });
    }
    done
}

/// One step within its own time, which begins when it may run.
async fn run_step(
    inner: &Arc<Inner>,
    entry: &Entry,
    held: &mut Holdings,
    step: Step,
    budget: Budget,
) -> Result<(), StepError> {
    // One that will not die keeps nobody else waiting: killing needs no permit. Large layers wait
    // for each other only.
    let queue = match step {
        Step::Kill => None,
        Step::Files => Some(&inner.removing),
        _ => Some(&inner.releasing),
    };
    let _permit = match queue {
        Some(queue) => budget.run("queue", queue.acquire()).await?.ok(),
        None => None,
    };
    let slice = budget.slice(step.limit());
    let released = release(inner, entry.lifecycle.as_str(), held, step, slice);
    let released = AssertUnwindSafe(released).catch_unwind().await;
    released.unwrap_or_else(|panic| Err(StepError::panicked(&*panic)))
}

fn done(inner: &Inner, entry: &Arc<Entry>) {
    inner.registry.remove(entry, |entry| {
        entry.on(SandboxEvent::Confirm, |state| {
            state.rounds += 1;
            state.left.clear();
            state.pending.clear();
        });
    });
}
