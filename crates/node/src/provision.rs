//! Making a sandbox, step by step. What a step acquires is put into the holdings at once, so that a
//! failure at any point leaves exactly what the teardown knows of.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use host::Faults;
use host::fault::Injected;
use images::Template;
use machine::{BootError, Stop};
use model::{SandboxEvent, SandboxSpec};
use node_wire::CreateError;

use crate::backend::{Acquire, Holdings, LIVE_POINTS, WayError};
use crate::entry::{Entry, Life};
use crate::ledger::{Failure, LedgerError, Record, micros};
use crate::pool::SlotError;
use crate::start::Inner;

/// The guest agent's answer to one `/init` is waited for this long; the connection itself waits in
/// the slot's socket until the agent accepts it.
const INIT_LIMIT: Duration = Duration::from_secs(10);

/// A start that failed, with the name of the step.
#[derive(Debug, thiserror::Error)]
#[error("{step}")]
pub(crate) struct ProvisionError {
    pub step: &'static str,
    #[source]
    pub cause: Cause,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Cause {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Lease(#[from] images::LeaseError),
    #[error(transparent)]
    Slot(#[from] SlotError),
    #[error(transparent)]
    Host(#[from] host::HostError),
    #[error(transparent)]
    Boot(#[from] BootError),
    #[error(transparent)]
    Guest(#[from] guest_wire::client::ClientError),
    #[error("the machine ended before its guest agent answered")]
    EndedEarly,
    #[error(transparent)]
    Stopped(#[from] machine::Stopped),
    #[error(transparent)]
    Injected(#[from] Injected),
    #[error(transparent)]
    Way(#[from] WayError),
    #[error("take the files that were kept of it")]
    Unseal(#[source] std::io::Error),
    #[error("it has no {0} yet")]
    Without(&'static str),
    #[error("the step panicked: {0}")]
    Panicked(String),
}

impl Cause {
    fn is_cancelled(&self) -> bool {
        match self {
            Self::Boot(error) => error.is_cancelled(),
            Self::Stopped(machine::Stopped::Cancelled) => true,
            _ => false,
        }
    }

    fn is_expired(&self) -> bool {
        match self {
            Self::Boot(error) => error.is_expired(),
            Self::Stopped(machine::Stopped::Expired(_)) => true,
            _ => false,
        }
    }

    fn is_disk_full(&self) -> bool {
        match self {
            Self::Ledger(error) => error.is_disk_full(),
            Self::Way(error) => error.is_disk_full(),
            Self::Host(error) | Self::Boot(BootError::Host(error)) => error.is_disk_full(),
            Self::Boot(BootError::Write { source, .. }) => {
                source.kind() == std::io::ErrorKind::StorageFull
            }
            _ => false,
        }
    }
}

impl ProvisionError {
    fn new(what: Acquire, cause: Cause) -> Self {
        // The record is written on after its directory was made.
        let what = if matches!(cause, Cause::Ledger(_)) { Acquire::Directory } else { what };
        Self { step: what.name(), cause }
    }

    pub(crate) fn cancelled(step: &'static str) -> Self {
        Self { step, cause: Cause::Stopped(machine::Stopped::Cancelled) }
    }

    pub(crate) fn panicked(panic: &(dyn std::any::Any + Send)) -> Self {
        Self { step: "start", cause: Cause::Panicked(crate::teardown::words_of(panic)) }
    }

    /// What is written of it.
    pub(crate) fn to_record(&self, log: Vec<String>) -> Failure {
        let error = observe::chain(&self.cause).to_string();
        Failure { step: self.step.to_owned(), error, log }
    }

    /// What the caller of the create is told. The chain stays in the log.
    pub(crate) fn to_wire(&self, inner: &Inner, limit: Duration) -> CreateError {
        if self.cause.is_cancelled() {
            return CreateError::Cancelled;
        }
        if self.cause.is_expired() {
            let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
            return CreateError::Expired { step: self.step, limit_ms };
        }
        if self.cause.is_disk_full() {
            return inner.disk_full();
        }
        if matches!(self.cause, Cause::Slot(SlotError::Exhausted)) {
            return CreateError::Full { limit: u32::from(host::identity::SLOTS) };
        }
        CreateError::Failed { step: self.step, message: self.cause.to_string() }
    }
}

/// What a create is about.
#[derive(Debug)]
pub(crate) struct Order {
    pub entry: Arc<Entry>,
    pub spec: SandboxSpec,
    pub template: Arc<Template>,
    /// The paused sandbox whose files it starts with.
    pub from: Option<Record>,
    pub stop: Stop,
}

/// Where a sandbox is that was made, and from when to when it lives.
#[derive(Debug)]
pub(crate) struct Made {
    pub address: Ipv4Addr,
    pub life: Life,
}

/// Makes the sandbox. Always runs to its end; on an error the holdings have what was acquired.
pub(crate) async fn provision(
    faults: &Faults,
    order: &Order,
    held: &mut dyn Holdings,
) -> Result<Made, ProvisionError> {
    order.entry.on(SandboxEvent::Acquire, |_| {});
    for what in Acquire::ALL {
        let acquired = acquire(faults, order, held, what).await;
        acquired.map_err(|cause| ProvisionError::new(what, cause))?;
    }
    let address = held.address();
    let address = address.ok_or_else(|| ProvisionError::new(Acquire::Slot, Cause::Without("slot")));
    let life = Life::of(order.spec.ttl);
    let written = write_life(faults, order, held, life).await;
    written.map_err(|cause| ProvisionError { step: "live", cause })?;
    Ok(Made { address: address?, life })
}

/// Writes down that it is live: from here on a daemon that comes after this one takes it over.
async fn write_life(
    faults: &Faults,
    order: &Order,
    held: &mut dyn Holdings,
    life: Life,
) -> Result<(), Cause> {
    let [before, after] = LIVE_POINTS;
    faults.hit(before, order.stop.budget).await?;
    held.write(&mut |record| {
        record.started_at_us = Some(micros(life.started_at));
        record.ends_at_us = Some(micros(life.ends_at));
        // What it has written is its own again.
        record.paused_at_us = None;
    })?;
    Ok(faults.hit(after, order.stop.budget).await?)
}

async fn acquire(
    faults: &Faults,
    order: &Order,
    held: &mut dyn Holdings,
    what: Acquire,
) -> Result<(), Cause> {
    faults.hit(what.before(), order.stop.budget).await?;
    held.acquire(what, order).await?;
    Ok(faults.hit(what.after(), order.stop.budget).await?)
}

/// The guest agent's first answer, unless the machine ends before, the order is stopped, or it takes
/// too long.
pub(crate) async fn answer_of(
    order: &Order,
    answer: impl Future<Output = Result<(), Cause>>,
    ended: impl Future<Output = ()>,
) -> Result<(), Cause> {
    let budget = order.stop.budget.slice(INIT_LIMIT);
    let stop = Stop { budget, cancelled: order.stop.cancelled.clone() };
    let answered = async {
        tokio::select! {
            biased;
            answer = answer => answer,
            () = ended => Err(Cause::EndedEarly),
        }
    };
    stop.race("init", answered).await?
}
