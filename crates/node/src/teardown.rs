//! The steps in which a lifecycle goes, and their order.

use std::any::Any;
use std::time::Duration;

use lifecycle::{Plan, StepName};

use crate::pause::HaltError;

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

    /// The step's name in errors and status, and its fault point.
    const fn names(self) -> [&'static str; 2] {
        macro_rules! names {
            ($name:literal) => {
                [$name, concat!("release.", $name)]
            };
        }
        match self {
            Self::Kill => names!("kill"),
            Self::Runtime => names!("runtime"),
            Self::Mounts => names!("mounts"),
            Self::Slot => names!("slot"),
            Self::Cgroup => names!("cgroup"),
            Self::Files => names!("files"),
            Self::Lease => names!("lease"),
            Self::Directory => names!("directory"),
        }
    }

    /// The step's name in errors, status and fault points.
    #[must_use]
    pub const fn name(self) -> &'static str {
        let [name, _] = self.names();
        name
    }

    pub(crate) const fn point(self) -> &'static str {
        let [_, point] = self.names();
        point
    }
}

/// Before what a paused sandbox has written is put where it is kept, in [`Step::Files`].
pub const SEAL_POINT: &str = "release.seal";

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
    Ledger(#[from] crate::ledger::LedgerError),
    #[error(transparent)]
    Way(#[from] crate::backend::WayError),
    #[error(transparent)]
    Unwritten(#[from] HaltError),
    #[error("keep its files")]
    Seal(#[source] std::io::Error),
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

/// The plan for a lifecycle, whatever it holds: a step for what was never made finds nothing.
pub(crate) fn plan() -> Plan<Step> {
    Plan::new(Step::ALL.to_vec())
}
