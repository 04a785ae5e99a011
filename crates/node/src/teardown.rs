//! What a lifecycle may hold, and the order in which it goes.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use host::cgroup::Cgroup;
use host::net::Slot;
use host::process::Process;
use images::Lease;
use lifecycle::{Budget, Owned, Plan, Release, StepName, close_in};
use machine::Part;

use crate::ledger::LifecycleDir;
use crate::start::Inner;

/// The release steps, in the order they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Kill every process and wait until there is none.
    Kill,
    /// The runtime's record of the machine.
    Runtime,
    /// Mounts in the daemon's view.
    Mounts,
    /// Namespaces, links and addresses.
    Slot,
    /// The cgroup directories.
    Cgroup,
    /// The writable layer and the driver's files.
    Files,
    /// The right to the template's files.
    Lease,
    /// The lifecycle directory itself: the proof that nothing is left.
    Directory,
}

impl Step {
    pub const ALL: [Self; 8] = [
        Self::Kill,
        Self::Runtime,
        Self::Mounts,
        Self::Slot,
        Self::Cgroup,
        Self::Files,
        Self::Lease,
        Self::Directory,
    ];

    /// The step's name in errors, status and fault points.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Runtime => "runtime",
            Self::Mounts => "mounts",
            Self::Slot => "slot",
            Self::Cgroup => "cgroup",
            Self::Files => "files",
            Self::Lease => "lease",
            Self::Directory => "directory",
        }
    }
}

impl StepName for Step {
    fn needs(self) -> &'static [Self] {
        match self {
            Self::Kill => &[],
            Self::Runtime | Self::Mounts | Self::Slot | Self::Cgroup => &[Self::Kill],
            Self::Files => &[Self::Runtime, Self::Mounts],
            Self::Lease => &[Self::Mounts],
            Self::Directory => &[Self::Runtime, Self::Slot, Self::Cgroup, Self::Files, Self::Lease],
        }
    }

    fn limit(self) -> Duration {
        match self {
            Self::Kill => Duration::from_secs(10),
            Self::Runtime | Self::Cgroup => Duration::from_secs(5),
            Self::Mounts | Self::Slot | Self::Lease | Self::Directory => Duration::from_secs(2),
            Self::Files => Duration::from_secs(60),
        }
    }
}

/// A step that did not end well.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StepError {
    #[error(transparent)]
    Host(#[from] host::HostError),
    #[error(transparent)]
    Machine(#[from] machine::ReleaseError),
    #[error(transparent)]
    Ledger(#[from] crate::ledger::LedgerError),
    #[error(transparent)]
    Injected(#[from] host::fault::Injected),
    #[error("the thread that removed files ended")]
    Thread(#[from] tokio::task::JoinError),
    #[error(transparent)]
    Expired(#[from] lifecycle::Expired),
    #[error("the step panicked: {0}")]
    Panicked(String),
}

impl StepError {
    pub(crate) fn panicked(panic: &(dyn Any + Send)) -> Self {
        Self::Panicked(words_of(panic))
    }
}

/// What a panic says.
pub(crate) fn words_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no words".into())
}

/// Everything one lifecycle holds. Empty for one that another daemon left: then the names do.
#[derive(Debug, Default)]
pub(crate) struct Holdings {
    pub lease: Option<Lease>,
    pub slot: Option<Owned<Slot>>,
    pub cgroup: Option<Owned<Cgroup>>,
    pub machine: machine::Held,
    pub dir: Option<Owned<LifecycleDir>>,
}

/// The plan for a lifecycle, whatever it holds: a step for what was never made finds nothing.
pub(crate) fn plan() -> Plan<Step> {
    Plan::new(Step::ALL.to_vec())
}

/// Runs one step for `lifecycle`. May be repeated.
pub(crate) async fn release(
    inner: &Arc<Inner>,
    lifecycle: &str,
    held: &mut Holdings,
    step: Step,
    budget: Budget,
) -> Result<(), StepError> {
    inner.config.faults.hit(&format!("release.{}", step.name()), budget).await?;
    let lifecycles = inner.config.lifecycles();
    let dir = LifecycleDir::named(&lifecycles, lifecycle);
    match step {
        Step::Kill => kill(inner, lifecycle, held, budget).await,
        Step::Runtime => {
            Ok(inner.driver.release(Part::Runtime, lifecycle, dir.path(), budget).await?)
        }
        Step::Mounts => {
            close_in(&mut held.machine.mount, budget).await?;
            Ok(inner.driver.release(Part::Mounts, lifecycle, dir.path(), budget).await?)
        }
        Step::Slot => {
            let index = held.slot.as_ref().map(|slot| slot.net().index);
            close_in(&mut held.slot, budget).await?;
            if let Some(index) = index {
                inner.pool.released(index);
            }
            Ok(())
        }
        Step::Cgroup => match &held.cgroup {
            Some(_) => Ok(close_in(&mut held.cgroup, budget).await?),
            None => Ok(inner.cgroups.named(lifecycle).release(budget).await?),
        },
        Step::Files => remove_files(inner, lifecycle, budget).await,
        Step::Lease => {
            drop(held.lease.take());
            Ok(())
        }
        Step::Directory => match &held.dir {
            Some(_) => Ok(close_in(&mut held.dir, budget).await?),
            None => Ok(dir.release(budget).await?),
        },
    }
}

/// Kills every process, and takes the status of the first: a zombie keeps its number.
async fn kill(
    inner: &Arc<Inner>,
    lifecycle: &str,
    held: &mut Holdings,
    budget: Budget,
) -> Result<(), StepError> {
    let cgroup = inner.cgroups.named(lifecycle);
    // A start that was cut off may have made its first process and not have said which it is.
    let unnamed: Vec<Process> = match held.machine.process {
        Some(_) => Vec::new(),
        None => cgroup.pids()?.into_iter().flat_map(Process::open).collect(),
    };
    cgroup.kill(budget).await?;
    for process in held.machine.process.iter().chain(&unnamed) {
        budget.run("reap", process.exited()).await??;
    }
    held.machine.process = None;
    Ok(())
}

/// A writable layer may be large: removing it is not for the threads that serve.
async fn remove_files(
    inner: &Arc<Inner>,
    lifecycle: &str,
    budget: Budget,
) -> Result<(), StepError> {
    let (inner, lifecycle) = (Arc::clone(inner), lifecycle.to_owned());
    let dir = inner.config.lifecycles().join(&lifecycle);
    let handle = tokio::runtime::Handle::current();
    let removed = tokio::task::spawn_blocking(move || {
        handle.block_on(inner.driver.release(Part::Files, &lifecycle, &dir, budget))
    });
    Ok(removed.await??)
}
