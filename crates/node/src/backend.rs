//! What a node takes from the machine it is on, and gives back to it.
//!
//! Everything above this line is order, time and books, and knows no kernel; everything below knows
//! no phases. [`host::Host`] is the machine itself. The tests of the order have one of their own, on
//! which the clock stands still until everybody waits.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use ::host::HostError;
use ::host::census::{CensusError, Item};
use ::host::cgroup::{Peak, Support, Usage};
use ::host::net::FirewallError;
use async_trait::async_trait;
use futures::future::BoxFuture;
use images::base;
use lifecycle::{Budget, Expired};
use model::{Egress, LifecycleId, SandboxId};
use node_wire::{Journal, JournalMark, NewSnapshot, NodeMetrics};
use tokio_util::sync::CancellationToken;

use crate::adopt::AdoptError;
use crate::journal::JournalError;
use crate::ledger::{LedgerError, Record};
use crate::pause::HaltError;
use crate::pool::stock::Counts;
use crate::provision::{Cause, Order};
use crate::start::StartError;
use crate::teardown::{Step, StepError};

pub(crate) mod acquire;
mod closer;
pub(crate) mod host;

pub use acquire::CREATE_POINTS;
pub(crate) use acquire::{Acquire, LIVE_POINTS};
pub(crate) use closer::Closer;
pub(crate) use host::WayError;

/// The machine a node is on, with the node's claim on it.
#[async_trait]
pub(crate) trait Backend: fmt::Debug + Send + Sync {
    /// The driver's name in status.
    fn driver(&self) -> &'static str;

    /// Which limits are kept, and which cannot be here.
    fn support(&self) -> Vec<Support>;

    /// The boot of the machine that this is.
    fn boot_id(&self) -> &str;

    /// What `lifecycle` holds: nothing yet.
    fn holdings(self: Arc<Self>, lifecycle: &LifecycleId) -> Box<dyn Holdings>;

    /// What an earlier daemon left.
    ///
    /// # Errors
    /// When it cannot be listed, or read for want of something that may be there in a moment.
    fn leftovers(&self) -> Result<Vec<Leftover>, AdoptError>;

    /// What `lifecycle`, which an earlier daemon left live, holds, with its machine still running.
    /// Changes nothing on the machine.
    ///
    /// # Errors
    /// See [`NotAdopted`].
    fn adopt(
        self: Arc<Self>,
        lifecycle: &LifecycleId,
        record: &Record,
    ) -> Result<Box<dyn Holdings>, NotAdopted>;

    /// What an earlier daemon left of `lifecycle`, to be released. It goes by name, and keeps its
    /// slot from others until that is gone.
    fn left_behind(
        self: Arc<Self>,
        lifecycle: &LifecycleId,
        record: Option<Record>,
    ) -> Box<dyn Holdings>;

    /// Sets aside what bears our mark and belongs to no lifecycle, and says whether there is any. To
    /// be called when every lifecycle is adopted or left behind, and before new ones are made.
    ///
    /// # Errors
    /// When it cannot be listed.
    fn set_strays_aside(&self) -> Result<bool, HostError>;

    /// Paused sandboxes of which the files are kept and nothing else is there. Cheap.
    fn sealed(&self) -> Vec<Record>;

    /// One of them. Cheap.
    fn sealed_of(&self, id: &SandboxId) -> Option<Record>;

    /// Removes what is kept of `id`, of which no run may be there. Nothing there is fine.
    ///
    /// Cancel safety: yes; what was not removed is still known.
    ///
    /// # Errors
    /// See [`StepError`].
    async fn discard(&self, id: &SandboxId, budget: Budget) -> Result<(), StepError>;

    /// Removes what was set aside.
    ///
    /// Cancel safety: yes; what was not removed is kept from everybody.
    ///
    /// # Errors
    /// When it cannot be removed.
    async fn settle(&self, budget: Budget) -> Result<(), HostError>;

    /// Makes what sandboxes need of the machine as a whole. What was made before an error is
    /// closed by its closer.
    ///
    /// # Errors
    /// See [`StartError`].
    async fn bring_up(&self) -> Result<(), StartError>;

    /// Lets go of everything but what a sandbox needs to run on without a daemon, and says what went
    /// wrong. Every part of it is done whatever became of those before.
    ///
    /// Cancel safety: yes; the next daemon finds the rest by name.
    async fn leave(&self, budget: Budget) -> Vec<String>;

    /// Lets the next daemon have the claim, with everything that bears its mark.
    fn hand_over(&self);

    /// The tasks that keep it going, each until `stop`.
    fn upkeep(self: Arc<Self>, stop: &CancellationToken) -> Vec<Upkeep>;

    /// Gives back what `closer` is about, within `budget`. May be repeated. It has nothing to do
    /// for those that are about the node's own tasks.
    ///
    /// Cancel safety: yes; what was not given back is found by the next call.
    ///
    /// # Errors
    /// See [`CloseError`].
    async fn close(&self, closer: Closer, budget: Budget) -> Result<(), CloseError>;

    /// Everything here that is this node's.
    ///
    /// # Errors
    /// When a part of it cannot be read.
    async fn census(&self, budget: Budget) -> Result<Vec<Item>, CensusError>;

    /// Ends the claim. Nothing may be left.
    ///
    /// # Errors
    /// When its lock or its block cannot be given back; then they are with the process.
    fn give_back(&self) -> Result<(), HostError>;

    /// How many slots are where.
    fn slots(&self) -> Counts;

    /// How many slots are ready. Cheap.
    fn ready_slots(&self) -> usize;

    /// Whether the slot is ready, being made or with a sandbox, or on its way out.
    fn has_slot(&self, index: u16) -> bool;

    /// The file system the node's files are on; `None` when it cannot be asked.
    fn disk(&self) -> Option<Disk>;

    /// What the machine has and uses. What is promised to sandboxes is left zero.
    fn load(&self) -> NodeMetrics;

    /// What `lifecycle` uses. Cheap.
    fn usage(&self, lifecycle: &LifecycleId) -> Usage;

    /// Replaces the rules of `lifecycle` for connections to the outside. False when its machine has
    /// ended. Blocks for about a millisecond, and longer where a daemon has to serve them.
    ///
    /// Cancel safety: no.
    ///
    /// # Errors
    /// When they could not be set; some of them may be in force.
    async fn restrict(&self, lifecycle: &LifecycleId, rules: &Egress) -> Result<bool, WayError>;

    /// What the guest agent of `lifecycle`, which is at `address`, has noted after `mark`. `None` of one
    /// that keeps no journal. Has no limit of its own.
    ///
    /// Cancel safety: yes.
    ///
    /// # Errors
    /// See [`JournalError`].
    async fn journal(
        &self,
        lifecycle: &LifecycleId,
        address: IpAddr,
        mark: &JournalMark,
    ) -> Result<Option<Journal>, JournalError>;

    /// The most that `lifecycle` has had. Cheap.
    fn peak(&self, lifecycle: &LifecycleId) -> Peak;

    /// What is written of lifecycles that have gone, in no order. Blocking.
    fn past(&self) -> Vec<Record>;

    /// Bytes on disk that `lifecycle` has written. Blocking: looks at its files.
    fn written(&self, lifecycle: &LifecycleId) -> u64;

    /// Makes the base template; `progress` is told what is being done.
    ///
    /// Told to cancel, it ends by itself, and nothing is left of it. Cancel safety: no.
    ///
    /// # Errors
    /// See [`base::BuildError`].
    async fn build(
        &self,
        progress: &(dyn Fn(&'static str) + Send + Sync),
        cancel: &CancellationToken,
        budget: Budget,
    ) -> Result<(), base::BuildError>;
}

/// Everything one lifecycle holds. Whoever has this is the only one who acquires and releases for it.
#[async_trait]
pub(crate) trait Holdings: fmt::Debug + Send + Sync {
    /// Acquires `what`, and everything of [`Acquire::ALL`] before it must be there. On an error it
    /// still holds what was made.
    ///
    /// Cancel safety: no. It ends by itself when the order's stop says so.
    ///
    /// # Errors
    /// See [`Cause`].
    async fn acquire(&mut self, what: Acquire, order: &Order) -> Result<(), Cause>;

    /// Changes what is written of the lifecycle; nothing of one that nothing is written of.
    ///
    /// # Errors
    /// When it could not be written; it is written with the next change, or with the last step.
    fn write(&mut self, change: &mut (dyn FnMut(&mut Record) + Send)) -> Result<(), LedgerError>;

    /// Whether what it has written can be kept apart from it.
    fn is_portable(&self) -> bool;

    /// Halts every process and waits until all stand still.
    ///
    /// Cancel safety: yes; it stays in force, also after an error.
    ///
    /// # Errors
    /// See [`HaltError`].
    async fn freeze(&mut self, budget: Budget) -> Result<(), HaltError>;

    /// Lets the processes go on. May be repeated.
    ///
    /// # Errors
    /// See [`HaltError`].
    async fn thaw(&mut self) -> Result<(), HaltError>;

    /// Waits until what the sandbox has written is on the disk, with its record.
    ///
    /// Cancel safety: yes.
    ///
    /// # Errors
    /// See [`HaltError`].
    async fn sync(&mut self, budget: Budget) -> Result<(), HaltError>;

    /// Waits for an answer of the guest agent.
    ///
    /// Cancel safety: yes.
    ///
    /// # Errors
    /// See [`HaltError`].
    async fn answers(&self, budget: Budget) -> Result<(), HaltError>;

    /// Makes a template of what the sandbox has written, and says how long it stood still for that.
    ///
    /// Cancel safety: no; `cancel` ends it.
    ///
    /// # Errors
    /// See [`HaltError`]; nothing of the template is left then, and the sandbox may stand still.
    async fn snapshot(
        &mut self,
        new: &NewSnapshot,
        cancel: &CancellationToken,
        budget: Budget,
    ) -> Result<Duration, HaltError>;

    /// Whether it is written of the lifecycle that its files are kept when it goes.
    fn is_kept(&self) -> bool;

    /// Puts what the sandbox has written, which is on the disk, where paused ones are. It is there in
    /// spite of a power cut when this has ended. May be repeated.
    ///
    /// Cancel safety: yes; it is done all the same.
    ///
    /// # Errors
    /// When it could not be moved. It is in one of the two places.
    async fn seal(&mut self) -> Result<(), StepError>;

    /// Gives up what is kept of the sandbox apart from this run, which is live now and has it all.
    ///
    /// # Errors
    /// When something of it is still there. It is not in the way of anything.
    fn unseal(&mut self) -> Result<(), HaltError>;

    /// The last lines of what the machine's maker had to say.
    fn log(&self) -> Vec<String>;

    /// What there is of it, in words for its owner. Cheap.
    fn found(&self) -> Vec<String>;

    /// Gives everything up as it is: the next daemon finds it by name.
    fn leave(self: Box<Self>);

    /// Runs one release step. May be repeated; what is gone, or never was, is fine.
    ///
    /// Cancel safety: yes; what was not released is still held, and the step can be repeated.
    ///
    /// # Errors
    /// See [`StepError`].
    async fn release(&mut self, step: Step, budget: Budget) -> Result<(), StepError>;

    /// Waits for the end of the machine; for ever when there is none.
    ///
    /// Cancel safety: yes.
    async fn ended(&self);

    /// Where the sandbox can be reached, once it has a slot.
    fn address(&self) -> Option<Ipv4Addr>;
}

/// Something could not be closed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CloseError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Firewall(#[from] FirewallError),
    #[error(transparent)]
    Expired(#[from] Expired),
    #[error(transparent)]
    Injected(#[from] ::host::fault::Injected),
    #[error("kept, because sandboxes are left")]
    Kept,
}

/// A lifecycle that was left live cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotAdopted {
    /// What is there by its process's number, if anything, is not its machine.
    #[error("its machine has ended")]
    Gone,
    /// It runs, and could not go on as a sandbox of this node.
    #[error("{0}")]
    Refused(String),
    /// Nobody can say now. Nothing may be done to it.
    #[error("{0}")]
    Unclear(String),
}

/// Something an earlier daemon left under a lifecycle's name.
#[derive(Debug)]
pub(crate) struct Leftover {
    pub name: String,
    /// Who it was for, when that can still be read.
    pub record: Option<Record>,
}

/// A task that keeps the machine going.
pub(crate) struct Upkeep {
    pub name: &'static str,
    pub work: BoxFuture<'static, ()>,
}

/// A file system.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Disk {
    pub total_bytes: u64,
    /// For us; reserved blocks out.
    pub free_bytes: u64,
    /// Whether it has numbers for more files.
    pub has_inodes: bool,
}
