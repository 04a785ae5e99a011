//! Halting a sandbox and letting it go on, and taking a snapshot of it: what its supervisor does when
//! somebody wishes for it, or when its time is over.
//!
//! A pause is made when the record says so: from there on what the sandbox has written is kept,
//! whatever becomes of its machine, its daemon and its host. Its memory is kept as long as its
//! machine stands still on a node that does not drain.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures::FutureExt;
use lifecycle::Budget;
use model::{EndReason, Keep, OnTimeout, SandboxEvent};
use node_wire::{CreateError, NewSnapshot, NodeEvent, PauseError, PauseOrder};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::backend::Holdings;
use crate::entry::wish::{Began, Wish};
use crate::entry::{Entry, Life};
use crate::ledger::micros;
use crate::start::Inner;
use crate::teardown::words_of;

mod step;

pub use step::HALT_POINTS;
pub(crate) use step::{Halt, HaltError};

/// A machine stands still in milliseconds unless a process of it waits in the kernel.
pub(crate) const FREEZE_LIMIT: Duration = Duration::from_secs(10);
/// What was written has to get to the disk.
const SYNC_LIMIT: Duration = Duration::from_secs(60);
/// The guest agent answers as soon as it runs.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// One that runs answers in less than a millisecond, and in a sandbox whose programs have all of its
/// processors when its turn comes. One that does not in this time is taken for dead.
const SIGN_LIMIT: Duration = Duration::from_secs(2);
/// A copy of what a sandbox has written, and its way to the disk.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(300);
/// When a pause at the end of a sandbox's time is tried again that has failed.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// What a supervisor does after this.
#[derive(Debug)]
pub(crate) enum Next {
    Again,
    End(EndReason),
    /// The next daemon has it.
    Leave,
}

/// Does to a live sandbox what somebody wishes.
pub(crate) async fn grant(
    inner: &Arc<Inner>,
    entry: &Entry,
    held: &mut dyn Holdings,
    wish: Wish,
) -> Next {
    match wish {
        Wish::Pause { order, answer } => pause(inner, entry, held, (order, Some(answer))).await,
        Wish::Snapshot { new, answer } => snapshot(inner, entry, held, (new, answer)).await,
        Wish::Resume { answer, .. } => {
            tell(answer, Err(CreateError::AlreadyExists(entry.id.to_string())));
            Next::Again
        }
        // It has been resumed meanwhile.
        Wish::GiveUp => Next::Again,
    }
}

/// Pauses a live sandbox, for somebody or because its time is over.
pub(crate) async fn pause(
    inner: &Arc<Inner>,
    entry: &Entry,
    held: &mut dyn Holdings,
    (order, answer): (PauseOrder, Option<oneshot::Sender<Result<Began, PauseError>>>),
) -> Next {
    // While it is live: if it is to run on, nobody notices.
    let Some(agent_silent) = is_silent(inner, entry, held).await else { return Next::Again };
    // It is paused because its time is over, and that is about to be otherwise.
    if answer.is_none() && entry.is_end_asked() {
        return Next::Again;
    }
    let answer = match answer {
        Some(answer) if agent_silent && order.needs_agent() => {
            tell(answer, Err(PauseError::AgentSilent(entry.id.to_string())));
            return Next::Again;
        }
        // Nobody waits for it to answer again: its time is over.
        answer => answer,
    };
    // Its memory would go with the node.
    let keep = if inner.phase().is_draining() { Keep::Files } else { order.keep };
    let (id, lifecycle, at) = (entry.id.clone(), entry.lifecycle.clone(), SystemTime::now());
    entry.on(SandboxEvent::Pause, |_| {});
    // An end that was asked for in the life before must not become that of the life after.
    entry.drop_asked_ends();
    inner.announce(NodeEvent::Pausing { id: id.clone(), lifecycle: lifecycle.clone(), at });
    let halted = tokio::select! {
        biased;
        () = entry.ended().cancelled() => return cut_off(entry, held, at),
        halted = contained(halt(inner, held, keep, (at, agent_silent))) => halted,
    };
    match (halted, keep) {
        (Ok(()), Keep::Memory) => {
            entry.set_kept(true);
            entry.on(SandboxEvent::Freeze, |state| {
                state.paused_at = Some(at);
                state.agent_silent = agent_silent;
            });
            inner.announce(NodeEvent::Paused { id, lifecycle, memory: true, agent_silent, at });
            tracing::info!("sandbox paused");
            if let (Some(answer), Some(status)) = (answer, entry.to_paused()) {
                tell(answer, Ok(Began::Done(Box::new(status))));
            }
            Next::Again
        }
        (Ok(()), Keep::Files) => {
            entry.set_kept(true);
            answer.into_iter().for_each(|answer| tell(answer, Ok(Began::Ending)));
            Next::End(EndReason::Paused)
        }
        (Err(error), _) => {
            tracing::warn!(error = %observe::chain(&error), "a pause failed");
            let next = run_on(inner, entry, held).await;
            match answer {
                Some(answer) => tell(answer, Err(error.to_wire(inner))),
                None => entry.move_end(SystemTime::now() + AGAIN_AFTER),
            }
            next
        }
    }
}

/// Whether the guest agent of a live sandbox gives no sign of life. `None` when the sandbox ends.
async fn is_silent(inner: &Inner, entry: &Entry, held: &dyn Holdings) -> Option<bool> {
    let budget = Budget::within(SIGN_LIMIT);
    let sign = contained(async {
        pass(inner, Halt::Ask, 0, budget).await?;
        held.answers(budget).await?;
        pass(inner, Halt::Ask, 1, budget).await
    });
    let sign = tokio::select! {
        biased;
        () = entry.ended().cancelled() => return None,
        () = held.ended() => return None,
        sign = sign => sign,
    };
    if let Err(error) = &sign {
        let error = observe::chain(error).to_string();
        tracing::warn!(error, "the guest agent of a sandbox that is to be paused is silent");
    }
    Some(sign.is_err())
}

async fn halt(
    inner: &Inner,
    held: &mut dyn Holdings,
    keep: Keep,
    (at, agent_silent): (SystemTime, bool),
) -> Result<(), HaltError> {
    if !held.is_portable() {
        return Err(HaltError::NotPortable);
    }
    if keep == Keep::Memory {
        let budget = Budget::within(FREEZE_LIMIT);
        pass(inner, Halt::Freeze, 0, budget).await?;
        held.freeze(budget).await?;
        pass(inner, Halt::Freeze, 1, budget).await?;
    }
    let budget = Budget::within(SYNC_LIMIT);
    pass(inner, Halt::Write, 0, budget).await?;
    held.write(&mut |record| {
        record.paused_at_us = Some(micros(at));
        record.agent_silent = agent_silent;
    })?;
    pass(inner, Halt::Write, 1, budget).await?;
    if keep == Keep::Memory {
        pass(inner, Halt::Sync, 0, budget).await?;
        held.sync(budget).await?;
        pass(inner, Halt::Sync, 1, budget).await?;
    }
    Ok(())
}

pub(crate) async fn pass(
    inner: &Inner,
    step: Halt,
    side: usize,
    budget: Budget,
) -> Result<(), HaltError> {
    let [before, after] = step.points();
    Ok(inner.config.faults.hit(if side == 0 { before } else { after }, budget).await?)
}

/// Its end was asked for while it was paused. Whoever asked wants it gone; a node that stops does
/// not: it is as good as paused then.
fn cut_off(entry: &Entry, held: &mut dyn Holdings, at: SystemTime) -> Next {
    let kept = !entry.is_unwanted() && held.is_portable();
    if kept {
        let written = held.write(&mut |record| record.paused_at_us = Some(micros(at)));
        if let Err(error) = written {
            tracing::warn!(error = %observe::chain(&error), "it may be taken for one that has ended");
        }
    }
    entry.set_kept(kept);
    Next::End(entry.end_reason().unwrap_or(EndReason::NodeStop))
}

/// Lets a sandbox go on whose pause or snapshot has failed. One that cannot has ended.
async fn run_on(inner: &Inner, entry: &Entry, held: &mut dyn Holdings) -> Next {
    let written = held.write(&mut |record| record.paused_at_us = None);
    if let Err(error) = held.thaw().await {
        tracing::error!(error = %observe::chain(&error), "a sandbox that was halted does not go on");
        return Next::End(EndReason::Crashed);
    }
    if let Err(error) = written {
        // A daemon that comes after this one would halt it.
        tracing::warn!(error = %observe::chain(&error), "a sandbox runs on as one that is paused");
    }
    entry.on(SandboxEvent::Thaw, |_| {});
    inner.announce(NodeEvent::Resumed {
        id: entry.id.clone(),
        lifecycle: entry.lifecycle.clone(),
        at: SystemTime::now(),
    });
    Next::Again
}

/// Keeps a paused sandbox, until somebody wants it to go on or it must give up its memory.
pub(crate) async fn halted(inner: &Arc<Inner>, entry: &Entry, held: &mut dyn Holdings) -> Next {
    let wish = tokio::select! {
        biased;
        () = entry.ended().cancelled() => {
            return Next::End(entry.end_reason().unwrap_or(EndReason::Request));
        }
        () = inner.handing.over.cancelled() => return Next::Leave,
        () = inner.draining.cancelled() => return Next::End(EndReason::NodeStop),
        wish = entry.next_wish() => wish,
        () = held.ended() => {
            tracing::warn!("the machine of a paused sandbox ended by itself; its files are kept");
            return Next::End(EndReason::Crashed);
        }
    };
    match wish {
        Wish::Resume { ttl, on_timeout, answer } => {
            resume(inner, entry, held, (ttl, on_timeout, answer)).await
        }
        Wish::GiveUp => Next::End(EndReason::Paused),
        Wish::Pause { answer, .. } => {
            tell(answer, Err(PauseError::Paused(entry.id.to_string())));
            Next::Again
        }
        Wish::Snapshot { answer, .. } => {
            tell(answer, Err(PauseError::Paused(entry.id.to_string())));
            Next::Again
        }
    }
}

type Resumption = (Duration, OnTimeout, oneshot::Sender<Result<(), CreateError>>);

async fn resume(
    inner: &Inner,
    entry: &Entry,
    held: &mut dyn Holdings,
    (ttl, on_timeout, answer): Resumption,
) -> Next {
    let began = Instant::now();
    let life = Life::of(ttl);
    let thawed = tokio::select! {
        biased;
        () = entry.ended().cancelled() => {
            return Next::End(entry.end_reason().unwrap_or(EndReason::Request));
        }
        thawed = contained(thaw(inner, held, life, on_timeout)) => thawed,
    };
    if let Err(error) = thawed {
        tracing::warn!(error = %observe::chain(&error), "a paused sandbox could not go on");
        let message = error.to_string();
        tell(answer, Err(CreateError::Failed { step: "resume", message }));
        return halt_again(entry, held).await;
    }
    entry.set_kept(false);
    entry.on(SandboxEvent::Thaw, |state| {
        state.paused_at = None;
        state.agent_silent = false;
        state.on_timeout = on_timeout;
    });
    entry.set_life(life);
    tracing::info!(ms = began.elapsed().as_millis(), "sandbox resumed");
    tell(answer, Ok(()));
    Next::Again
}

async fn thaw(
    inner: &Inner,
    held: &mut dyn Holdings,
    life: Life,
    on_timeout: OnTimeout,
) -> Result<(), HaltError> {
    let budget = Budget::within(ANSWER_LIMIT);
    pass(inner, Halt::Thaw, 0, budget).await?;
    held.thaw().await?;
    pass(inner, Halt::Thaw, 1, budget).await?;
    pass(inner, Halt::Answer, 0, budget).await?;
    tokio::select! {
        biased;
        answers = held.answers(budget) => answers?,
        () = held.ended() => return Err(HaltError::Gone),
    }
    pass(inner, Halt::Answer, 1, budget).await?;
    pass(inner, Halt::Live, 0, budget).await?;
    held.write(&mut |record| {
        record.paused_at_us = None;
        record.agent_silent = false;
        record.started_at_us = Some(micros(life.started_at));
        record.ends_at_us = Some(micros(life.ends_at));
        record.on_timeout = on_timeout;
    })?;
    pass(inner, Halt::Live, 1, budget).await
}

/// Halts one that did not go on. What cannot be halted gives up its memory; its files are kept.
async fn halt_again(entry: &Entry, held: &mut dyn Holdings) -> Next {
    let at = micros(entry.state().paused_at.unwrap_or_else(SystemTime::now));
    let frozen = held.freeze(Budget::within(FREEZE_LIMIT)).await;
    let written = held.write(&mut |record| record.paused_at_us = Some(at)).map_err(HaltError::from);
    match frozen.and(written) {
        Ok(()) => Next::Again,
        Err(error) => {
            let error = observe::chain(&error).to_string();
            tracing::error!(error, "a paused sandbox does not stand still; its memory is given up");
            Next::End(EndReason::Crashed)
        }
    }
}

/// Takes a snapshot of a live sandbox.
async fn snapshot(
    inner: &Arc<Inner>,
    entry: &Entry,
    held: &mut dyn Holdings,
    (new, answer): (NewSnapshot, oneshot::Sender<Result<Duration, PauseError>>),
) -> Next {
    entry.on(SandboxEvent::Checkpoint, |_| {});
    let cancel = CancellationToken::new();
    let taken = {
        let work = contained(held.snapshot(&new, &cancel, Budget::within(SNAPSHOT_LIMIT)));
        tokio::pin!(work);
        tokio::select! {
            biased;
            taken = &mut work => taken,
            () = entry.ended().cancelled() => { cancel.cancel(); work.await }
            // The next daemon finds it running.
            () = inner.handing.begun.cancelled() => { cancel.cancel(); work.await }
        }
    };
    if let Err(error) = &taken {
        tracing::warn!(error = %observe::chain(error), "a snapshot failed");
    }
    // It runs on by then, unless that was what failed.
    let next = match held.thaw().await {
        Ok(()) => {
            entry.on(SandboxEvent::Seal, |_| {});
            Next::Again
        }
        Err(error) => {
            tracing::error!(error = %observe::chain(&error), "after a snapshot it does not go on");
            Next::End(EndReason::Crashed)
        }
    };
    // When it is live again: who has the answer may ask for the next thing.
    tell(
        answer,
        taken.map_err(|error| match entry.end_reason() {
            Some(reason) => PauseError::Lost(reason.as_str().into()),
            None => error.to_wire(inner),
        }),
    );
    next
}

/// A step that panics is a step that failed.
async fn contained<T>(work: impl Future<Output = Result<T, HaltError>>) -> Result<T, HaltError> {
    let done = AssertUnwindSafe(work).catch_unwind().await;
    done.unwrap_or_else(|panic| Err(HaltError::Panicked(words_of(&*panic))))
}

fn tell<T>(answer: oneshot::Sender<T>, what: T) {
    if answer.send(what).is_err() {
        tracing::debug!("who asked has gone");
    }
}
