//! A machine without a kernel. It keeps a table of what every lifecycle holds, keeps whatever is not
//! released, and writes down everything that a kernel could not have borne: what is acquired twice,
//! released while something needs it, or closed under somebody.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use host::census::{CensusError, Item, Kind, Owner};
use host::cgroup::{Peak, Support, Usage};
use host::fault::Injected;
use host::{Faults, HostError};
use images::base;
use lifecycle::Budget;
use model::{Egress, LifecycleId, SandboxId};
use node_wire::{Journal, JournalMark, NodeMetrics};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::adopt::AdoptError;
use crate::backend::{
    Backend, CloseError, Closer, Disk, Holdings, Leftover, NotAdopted, Upkeep, WayError,
};
use crate::fake::holdings::FakeHoldings;
use crate::fake::table::{SLOTS, Table};
use crate::journal::JournalError;
use crate::leave::LeaveStep;
use crate::ledger::Record;
use crate::pool::stock::Counts;
use crate::start::StartError;
use crate::teardown::StepError;

mod crash;
mod holdings;
mod journal;
mod table;

pub(crate) use crash::OF_LIVE;
pub(crate) use table::{Class, Manner};

pub(crate) struct Fake {
    faults: Faults,
    table: Mutex<Table>,
    obeying: watch::Sender<bool>,
    /// Beats when a process has gone.
    deaths: watch::Sender<()>,
    /// Whether its disk has no room.
    pub is_full: AtomicBool,
    /// How much of its memory is used, of a hundred parts.
    memory_pct: AtomicU64,
    /// Cancelled to make the first of its upkeep tasks panic, and the second end.
    pub upkeep_panics: CancellationToken,
    pub upkeep_ends: CancellationToken,
    /// Cancelled to let builds succeed.
    pub builds_end: CancellationToken,
}

impl fmt::Debug for Fake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fake").finish_non_exhaustive()
    }
}

impl Fake {
    /// A machine that no node has claimed.
    pub(crate) fn new(faults: Faults) -> Arc<Self> {
        Arc::new(Self {
            faults,
            table: Mutex::new(Table { boot_id: "this boot", ..Table::default() }),
            obeying: watch::Sender::new(false),
            deaths: watch::Sender::new(()),
            is_full: AtomicBool::new(false),
            memory_pct: AtomicU64::new(10),
            upkeep_panics: CancellationToken::new(),
            upkeep_ends: CancellationToken::new(),
            builds_end: CancellationToken::new(),
        })
    }

    /// So much of its memory is used from now on, of a hundred parts.
    pub(crate) fn set_memory(&self, used_pct: u64) {
        self.memory_pct.store(used_pct, Ordering::SeqCst);
    }

    /// What an earlier daemon has left of `lifecycle`.
    pub(crate) fn plant(&self, lifecycle: &str, classes: &[Class]) {
        classes.iter().for_each(|class| self.table.lock().add(lifecycle, *class));
    }

    /// How the machine of the sandbox `id` behaves from now on.
    pub(crate) fn behave(&self, id: &str, manner: Manner) {
        self.table.lock().manners.insert(id.parse().unwrap(), manner);
    }

    /// Calls `hook` when the guest agent of `id` has answered, before the node hears of it.
    pub(crate) fn at_init(&self, id: &str, hook: impl FnOnce() + Send + 'static) {
        self.table.lock().at_init.insert(id.parse().unwrap(), Box::new(hook));
    }

    /// Every machine that was killed dies, from now on.
    pub(crate) fn obey(&self) {
        self.obeying.send_replace(true);
    }

    /// Makes this closer hang from now on.
    pub(crate) fn hang(&self, closer: Option<Closer>) {
        self.table.lock().hangs = closer;
    }

    /// Sandboxes of which the files are kept.
    pub(crate) fn sealed_ids(&self) -> Vec<String> {
        self.table.lock().sealed.keys().cloned().collect()
    }

    /// Whether the processes of a lifecycle stand still.
    pub(crate) fn is_frozen(&self, lifecycle: &str) -> bool {
        self.table.lock().frozen.contains(lifecycle)
    }

    pub(crate) fn snapshots(&self) -> usize {
        self.table.lock().snapshots.len()
    }

    /// Everything any lifecycle holds.
    pub(crate) fn held(&self) -> Vec<(String, Class)> {
        self.table.lock().held.iter().cloned().collect()
    }

    pub(crate) fn has_slot_of(&self, lifecycle: &str) -> bool {
        self.table.lock().slots.values().any(|whose| whose == lifecycle)
    }

    /// The closers of this machine in the order in which they ran.
    pub(crate) fn closed(&self) -> Vec<Closer> {
        self.table.lock().closed.clone()
    }

    /// Lifecycles in the order in which they were killed.
    pub(crate) fn killed(&self) -> Vec<String> {
        self.table.lock().killed.clone()
    }

    /// What should never have happened.
    pub(crate) fn wrongs(&self) -> Vec<String> {
        self.table.lock().wrongs.clone()
    }

    /// Whether nothing is left, the claim included.
    pub(crate) fn is_given_back(&self) -> bool {
        let table = self.table.lock();
        table.held.is_empty() && table.node.is_empty() && !table.claimed
    }

    fn refuse(&self, why: String) -> Injected {
        self.table.lock().wrong(why.clone());
        Injected(why)
    }

    fn begin_close(&self, closer: Closer) -> bool {
        let mut table = self.table.lock();
        table.closed.push(closer);
        table.closing = true;
        if table.releasing > 0 {
            table.wrong(format!("{closer:?} closed beside a release"));
        }
        table.hangs == Some(closer)
    }

    async fn close_slots(&self, budget: Budget) -> Result<(), CloseError> {
        let unlinked = async {
            while !self.table.lock().slots.is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        Ok(budget.run("links of closed slots", unlinked).await?)
    }
}

impl Fake {
    fn close_firewall(&self) -> Result<(), CloseError> {
        if self.table.lock().slots.is_empty() {
            return Ok(());
        }
        Err(self.refuse("no firewall around a slot".into()).into())
    }

    /// The last of all closers.
    fn close_cgroups(&self) -> Result<(), CloseError> {
        let mut table = self.table.lock();
        table.closing = false;
        match table.held.iter().find(|(_, class)| *class == Class::Cgroup) {
            Some((id, _)) => Err(Injected(format!("{id} has a cgroup")).into()),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Backend for Fake {
    fn driver(&self) -> &'static str {
        "fake"
    }

    fn support(&self) -> Vec<Support> {
        Vec::new()
    }

    fn holdings(self: Arc<Self>, lifecycle: &LifecycleId) -> Box<dyn Holdings> {
        Box::new(FakeHoldings::new(self, lifecycle))
    }

    fn boot_id(&self) -> &str {
        self.table.lock().boot_id
    }

    fn leftovers(&self) -> Result<Vec<Leftover>, AdoptError> {
        let names: BTreeSet<String> = self.held().into_iter().map(|(name, _)| name).collect();
        let table = self.table.lock();
        let record = |name: &String| table.records.get(name).cloned();
        Ok(names.into_iter().map(|name| Leftover { record: record(&name), name }).collect())
    }

    fn adopt(
        self: Arc<Self>,
        lifecycle: &LifecycleId,
        record: &Record,
    ) -> Result<Box<dyn Holdings>, NotAdopted> {
        self.take_over(lifecycle.as_str())?;
        Ok(Box::new(FakeHoldings::of(self, lifecycle, Some(record))))
    }

    fn left_behind(
        self: Arc<Self>,
        lifecycle: &LifecycleId,
        record: Option<Record>,
    ) -> Box<dyn Holdings> {
        Box::new(FakeHoldings::of(self, lifecycle, record.as_ref()))
    }

    fn set_strays_aside(&self) -> Result<bool, HostError> {
        Ok(self.table.lock().strays)
    }

    fn sealed(&self) -> Vec<Record> {
        self.table.lock().sealed.values().cloned().collect()
    }

    fn sealed_of(&self, id: &SandboxId) -> Option<Record> {
        self.table.lock().sealed.get(id.as_str()).cloned()
    }

    async fn discard(&self, id: &SandboxId, _budget: Budget) -> Result<(), StepError> {
        self.table.lock().sealed.remove(id.as_str());
        Ok(())
    }

    async fn settle(&self, _budget: Budget) -> Result<(), HostError> {
        self.table.lock().strays = false;
        Ok(())
    }

    async fn leave(&self, _budget: Budget) -> Vec<String> {
        let mut errors = Vec::new();
        let parts = [
            (LeaveStep::Orphans, None),
            (LeaveStep::Slots, Some(Closer::Slots)),
            (LeaveStep::Helpers, Some(Closer::Helpers)),
            // It stays.
            (LeaveStep::Firewall, None),
        ];
        for (step, goes) in parts {
            let close = async { self.table.lock().node.retain(|there| Some(*there) != goes) };
            step.run(&self.faults, &mut errors, close).await;
        }
        errors
    }

    fn hand_over(&self) {
        self.table.lock().claimed = false;
    }

    async fn bring_up(&self) -> Result<(), StartError> {
        let mut table = self.table.lock();
        if std::mem::replace(&mut table.claimed, true) {
            table.wrong("claimed by two".into());
        }
        table.node = vec![Closer::Slots, Closer::Firewall, Closer::Helpers, Closer::Cgroups];
        Ok(())
    }

    fn upkeep(self: Arc<Self>, stop: &CancellationToken) -> Vec<Upkeep> {
        let (panics, ends) = (self.upkeep_panics.clone(), self.upkeep_ends.clone());
        let (first, second) = (stop.clone(), stop.clone());
        let first = async move {
            tokio::select! {
                () = first.cancelled() => {}
                () = panics.cancelled() => panic!("told to"),
            }
        };
        let second = async move {
            tokio::select! { () = second.cancelled() => {}, () = ends.cancelled() => {} }
        };
        vec![
            Upkeep { name: "first", work: Box::pin(first) },
            Upkeep { name: "second", work: Box::pin(second) },
        ]
    }

    async fn close(&self, closer: Closer, budget: Budget) -> Result<(), CloseError> {
        if self.begin_close(closer) {
            return std::future::pending().await;
        }
        let closed = match closer {
            Closer::Rounds | Closer::Upkeep | Closer::Orphans | Closer::Helpers => Ok(()),
            Closer::Slots => self.close_slots(budget).await,
            Closer::Firewall => self.close_firewall(),
            Closer::Cgroups => self.close_cgroups(),
        };
        if closed.is_ok() {
            self.table.lock().node.retain(|there| *there != closer);
        }
        closed
    }

    async fn census(&self, _budget: Budget) -> Result<Vec<Item>, CensusError> {
        let table = self.table.lock();
        let of_lifecycles = table.held.iter().map(|(id, class)| {
            let kind = match class {
                Class::Directory | Class::Lease | Class::Files => Kind::LifecycleDirectory,
                Class::Slot => Kind::Link,
                Class::Cgroup => Kind::Cgroup,
                Class::Mount => Kind::Mount,
                Class::Runtime | Class::Process => Kind::Process,
            };
            Item { kind, name: format!("{class:?}"), owner: Owner::Lifecycle(id.clone()) }
        });
        let of_node = table.node.iter().map(|closer| {
            let kind = match closer {
                Closer::Firewall => Kind::FirewallTable,
                _ => Kind::Cgroup,
            };
            Item { kind, name: format!("{closer:?}"), owner: Owner::Node }
        });
        Ok(of_lifecycles.chain(of_node).collect())
    }

    fn give_back(&self) -> Result<(), HostError> {
        let mut table = self.table.lock();
        if !table.held.is_empty() || !table.node.is_empty() || !table.claimed {
            table.wrong("the claim was given back too early, or twice".into());
        }
        table.claimed = false;
        Ok(())
    }

    fn slots(&self) -> Counts {
        let out = self.table.lock().slots.len();
        Counts { out, free: usize::from(SLOTS) - out, ..Counts::default() }
    }

    fn ready_slots(&self) -> usize {
        0
    }

    fn has_slot(&self, index: u16) -> bool {
        self.table.lock().slots.contains_key(&index)
    }

    fn disk(&self) -> Option<Disk> {
        let free_bytes = if self.is_full.load(Ordering::SeqCst) { 0 } else { u64::MAX };
        Some(Disk { total_bytes: u64::MAX, free_bytes, has_inodes: true })
    }

    fn load(&self) -> NodeMetrics {
        NodeMetrics {
            memory_total_bytes: 100 << 30,
            memory_used_bytes: self.memory_pct.load(Ordering::SeqCst) << 30,
            ..NodeMetrics::default()
        }
    }

    fn usage(&self, _lifecycle: &LifecycleId) -> Usage {
        Usage::default()
    }

    async fn restrict(&self, lifecycle: &LifecycleId, _rules: &Egress) -> Result<bool, WayError> {
        Ok(self.table.lock().has(lifecycle.as_str(), Class::Process))
    }

    async fn journal(
        &self,
        lifecycle: &LifecycleId,
        _address: IpAddr,
        mark: &JournalMark,
    ) -> Result<Option<Journal>, JournalError> {
        self.ask_journal(lifecycle.as_str(), mark).await
    }

    fn peak(&self, lifecycle: &LifecycleId) -> Peak {
        let runs = self.table.lock().has(lifecycle.as_str(), Class::Process);
        Peak { memory_bytes: None, pids: Some(u64::from(runs)) }
    }

    fn past(&self) -> Vec<Record> {
        self.table.lock().past.clone()
    }

    fn written(&self, _lifecycle: &LifecycleId) -> u64 {
        0
    }

    async fn build(
        &self,
        progress: &(dyn Fn(&'static str) + Send + Sync),
        cancel: &CancellationToken,
        _budget: Budget,
    ) -> Result<(), base::BuildError> {
        progress("pretending");
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(base::BuildError::Cancelled),
            () = self.builds_end.cancelled() => Ok(()),
        }
    }
}
