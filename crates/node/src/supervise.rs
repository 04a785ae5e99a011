//! One task per lifecycle: it alone makes the sandbox, watches it, and takes it down.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use lifecycle::Budget;
use model::{EndReason, SandboxPhase};
use node_wire::{CreateError, Route, Started};
use observe::metrics::{CREATE, result_of};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::admission::Admitted;
use crate::backend::Holdings;
use crate::entry::Entry;
use crate::entry::wish::Move;
use crate::finish::{Why, finish};
use crate::ledger::micros;
use crate::pause::{Next, grant, halted, pause};
use crate::provision::{Order, ProvisionError, provision};
use crate::start::Inner;

/// An earlier daemon's pause or resume is brought to an end within this.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);

/// What a create holds until it is over.
pub(crate) struct Admission {
    pub pass: Admitted,
    pub starting: OwnedSemaphorePermit,
    pub limit: Duration,
    pub answer: oneshot::Sender<Result<Started, CreateError>>,
}

/// The whole life of one lifecycle.
///
/// A create is answered as started if, and only if, its end was not asked for before it was live:
/// [`Entry::set_live`] decides. One that is ended in the instant after that was live, however
/// short; its caller hears of the end as of every other.
pub(crate) async fn supervise(inner: Arc<Inner>, order: Order, admission: Admission) {
    let entry = Arc::clone(&order.entry);
    let mut held = Arc::clone(&inner.backend).holdings(&entry.lifecycle);
    let began = Instant::now();
    // A panic is a failed start like any other: what was acquired is in the holdings.
    let provisioned = provision(&inner.config.faults, &order, &mut *held);
    let outcome = AssertUnwindSafe(provisioned).catch_unwind().await;
    let outcome = outcome.unwrap_or_else(|panic| Err(ProvisionError::panicked(&*panic)));
    // Somebody may have asked for its end while the last step ran.
    let outcome = outcome.inspect(|made| entry.set_addr(made.address.into()));
    let outcome = outcome.and_then(|made| match entry.set_live(made.life) {
        true => {
            entry.set_kept(false);
            entry.set_on_timeout(order.spec.on_timeout);
            Ok(made.address)
        }
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
            if order.from.is_some()
                && let Err(error) = held.unseal()
            {
                tracing::warn!(error = %observe::chain(&error), "its record as a paused one is left");
            }
            tracing::info!("sandbox started");
            // In the registry and live: from here on it is counted without the pass.
            drop(pass);
            if answer.send(Ok(Started { status: entry.status(), route })).is_err() {
                tracing::debug!("the caller of the create has gone; the sandbox runs");
            }
            watch(inner, entry, held).await;
        }
        Err(error) => {
            let cancelled = entry.end_reason().is_some();
            if !cancelled {
                tracing::warn!(step = error.step, error = %observe::chain(&error), "start failed");
            }
            let wire = error.to_wire(&inner, limit);
            let failure = (!cancelled).then(|| error.to_record(held.log()));
            give_back(&order, &mut *held);
            let why = Why { failure, ..EndReason::StartFailed.into() };
            finish(&inner, &entry, held, why).await;
            drop(pass);
            // After the teardown: who reads this answer can rely on nothing being left.
            if answer.send(Err(wire)).is_err() {
                tracing::debug!("the caller of the failed create has gone");
            }
        }
    }
}

/// A start with the files of a paused sandbox has failed: they are kept on, also when it was about to be
/// live.
fn give_back(order: &Order, held: &mut dyn Holdings) {
    let Some(from) = order.from.as_ref().filter(|_| order.entry.is_kept()) else { return };
    let written = held.write(&mut |record| record.paused_at_us = from.paused_at_us);
    if let Err(error) = written {
        // Its next writing says so, too; that is before anything is removed.
        tracing::warn!(error = %observe::chain(&error), "not written that its files are kept");
    }
}

/// The rest of the life of a sandbox that an earlier daemon has left.
pub(crate) async fn watch_adopted(
    inner: Arc<Inner>,
    entry: Arc<Entry>,
    mut held: Box<dyn Holdings>,
) {
    // A daemon that was cut off may have halted it, or let it go on, and not have written so yet.
    let is_paused = entry.phase() == SandboxPhase::Paused;
    let settled = match is_paused {
        true => held.freeze(Budget::within(SETTLE_LIMIT)).await,
        false => held.thaw().await,
    };
    if let Err(error) = settled {
        tracing::error!(error = %observe::chain(&error), is_paused, "it may not be as it should be");
    }
    watch(inner, entry, held).await;
}

/// The rest of the life of a sandbox that is live or paused, whoever has made it.
pub(crate) async fn watch(inner: Arc<Inner>, entry: Arc<Entry>, mut held: Box<dyn Holdings>) {
    let reason = loop {
        let next = match entry.phase() {
            SandboxPhase::Paused => halted(&inner, &entry, &mut *held).await,
            _ => live(&inner, &entry, &mut *held).await,
        };
        match next {
            Next::Again => {}
            Next::End(reason) => break Some(reason),
            Next::Leave => break None,
        }
    };
    entry.close_moves();
    match reason {
        Some(reason) => finish(&inner, &entry, held, reason.into()).await,
        None => held.leave(),
    }
}

/// Watches a live sandbox until something ends or halts it.
async fn live(inner: &Arc<Inner>, entry: &Entry, held: &mut dyn Holdings) -> Next {
    loop {
        let deadline = entry.state().deadline;
        let asked = tokio::select! {
            biased;
            () = entry.ended().cancelled() => {
                return Next::End(entry.end_reason().unwrap_or(EndReason::Request));
            }
            () = inner.handing.over.cancelled() => return Next::Leave,
            // Before the clock: an end that is moved in the last instant is moved.
            asked = entry.asked_ends() => asked,
            wish = entry.next_wish() => return grant(inner, entry, held, wish).await,
            () = held.ended() => {
                tracing::warn!("the machine ended by itself");
                return Next::End(EndReason::Crashed);
            }
            () = tokio::time::sleep_until(deadline) => {
                if let Some(keep) = entry.pauses_now() {
                    return pause(inner, entry, held, (keep.into(), None)).await;
                }
                if entry.expire() {
                    return Next::End(EndReason::Timeout);
                }
                continue;
            }
        };
        move_end(entry, held, asked);
    }
}

/// Moves the end to what was asked for last. It is written first: who has an answer can rely on it
/// whatever becomes of this daemon.
fn move_end(entry: &Entry, held: &mut dyn Holdings, asked: Vec<Move>) {
    let Some(ends_at) = asked.last().map(|last| last.ends_at) else { return };
    let written = held.write(&mut |record| record.ends_at_us = Some(micros(ends_at)));
    let written = written.map_err(|error| {
        let error = observe::chain(&error).to_string();
        tracing::warn!(error, "the end of a sandbox could not be moved");
        error
    });
    if written.is_ok() {
        entry.move_end(ends_at);
    }
    for asker in asked {
        if asker.answer.send(written.clone()).is_err() {
            tracing::debug!("who moved the end has gone");
        }
    }
}
