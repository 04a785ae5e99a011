//! The steps of pauses and snapshots, where a test can make them fail, and how they fail.

use lifecycle::Expired;
use node_wire::{CreateError, PauseError};

use crate::ledger::LedgerError;
use crate::start::Inner;

/// Why a machine could not be halted, let go on or copied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HaltError {
    #[error(transparent)]
    Host(#[from] host::HostError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("write its files to disk")]
    Sync(#[source] std::io::Error),
    #[error("its guest agent does not answer")]
    Guest(#[from] guest_wire::client::ClientError),
    #[error("make room for the snapshot")]
    Draft(#[source] images::PublishError),
    #[error("copy its files")]
    Copy(#[from] images::CopyError),
    #[error("publish the snapshot")]
    Publish(#[source] images::PublishError),
    #[error("it was made by an earlier release, whose sandboxes cannot be paused")]
    NotPortable,
    #[error(
        "it was made by {0} snapshots or forks of each other, as many as there may be; take its files \
         to a new sandbox of a template that is none, and go on from there"
    )]
    TooDeep(usize),
    #[error("the machine has ended")]
    Gone,
    #[error("it was given up for something that could not wait")]
    Cancelled,
    #[error("a step panicked: {0}")]
    Panicked(String),
    #[error(transparent)]
    Expired(#[from] Expired),
    #[error(transparent)]
    Injected(#[from] host::fault::Injected),
    #[error("a thread ended")]
    Thread(#[from] tokio::task::JoinError),
}

impl HaltError {
    fn is_disk_full(&self) -> bool {
        match self {
            Self::Ledger(error) => error.is_disk_full(),
            Self::Host(error) => error.is_disk_full(),
            Self::Sync(error) => error.kind() == std::io::ErrorKind::StorageFull,
            Self::Copy(error) => error.is_disk_full(),
            _ => false,
        }
    }

    pub(super) fn to_wire(&self, inner: &Inner) -> PauseError {
        if self.is_disk_full()
            && let CreateError::DiskFull { free_mib, reserve_mib } = inner.disk_full()
        {
            return PauseError::DiskFull { free_mib, reserve_mib };
        }
        match self {
            Self::TooDeep(_) => PauseError::Limit(self.to_string()),
            Self::Gone => PauseError::Lost(self.to_string()),
            _ => PauseError::Failed(self.to_string()),
        }
    }
}

/// The steps of a pause, of a resume and of a snapshot, with the fault points before and after each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Halt {
    /// Its guest agent gives a sign of life.
    Ask,
    /// Every process stands still.
    Freeze,
    /// The record says that it is paused.
    Write,
    /// Its files are on the disk.
    Sync,
    /// Its processes go on.
    Thaw,
    /// Its guest agent answers.
    Answer,
    /// The record says that it is live.
    Live,
    /// What it has written is copied.
    Copy,
    /// The copy is a template.
    Publish,
}

impl Halt {
    const ALL: [Self; 9] = [
        Self::Ask,
        Self::Freeze,
        Self::Write,
        Self::Sync,
        Self::Thaw,
        Self::Answer,
        Self::Live,
        Self::Copy,
        Self::Publish,
    ];

    pub(crate) const fn points(self) -> [&'static str; 2] {
        macro_rules! points {
            ($name:literal) => {
                [concat!($name, ".before"), concat!($name, ".after")]
            };
        }
        match self {
            Self::Ask => points!("pause.ask"),
            Self::Freeze => points!("pause.freeze"),
            Self::Write => points!("pause.write"),
            Self::Sync => points!("pause.sync"),
            Self::Thaw => points!("resume.thaw"),
            Self::Answer => points!("resume.answer"),
            Self::Live => points!("resume.live"),
            Self::Copy => points!("snapshot.copy"),
            Self::Publish => points!("snapshot.publish"),
        }
    }
}

const POINTS: usize = 2 * Halt::ALL.len();

/// Every fault point of a pause, then of a resume of what was halted, then of a snapshot.
pub const HALT_POINTS: [&str; POINTS] = {
    let mut points = [""; POINTS];
    let mut at = 0;
    while at < Halt::ALL.len() {
        let [before, after] = Halt::ALL[at].points();
        points[2 * at] = before;
        points[2 * at + 1] = after;
        at += 1;
    }
    points
};
