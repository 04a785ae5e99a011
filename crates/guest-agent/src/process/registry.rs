//! Which processes there are, and which ended a moment ago.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::hub::{Held, Hub};
use super::running::{Origin, Running};
use super::stdio::AgentEnds;
use crate::hold::Hold;
use crate::journal::Journal;
use crate::reaper::Reaper;
use crate::tasks;
use crate::unread::Unread;

/// How long a client that comes late still hears how a process ended.
const RETENTION: Duration = Duration::from_secs(30);
/// How many ends are kept at most; the oldest goes first.
const RETAINED_MAX: usize = 1024;
/// How many processes of clients may run at once. What those start themselves is not counted.
const RUNNING_MAX: usize = 4096;

/// All processes started by clients.
pub(crate) struct Processes {
    pub(crate) reaper: Arc<Reaper>,
    journal: Arc<Journal>,
    pub(super) held: Held,
    pub(super) holds: Holds,
    table: Mutex<Table>,
}

/// What an upgrade stops.
#[derive(Default)]
pub(super) struct Holds {
    /// Writes to processes.
    pub(super) input: Arc<Hold>,
    /// Reads from processes.
    pub(super) output: Arc<Hold>,
}

#[derive(Default)]
struct Table {
    running: HashMap<u32, Arc<Running>>,
    ended: VecDeque<Ended>,
    /// Places taken by processes that are being started.
    starting: usize,
}

/// What is remembered of a process: the names to ask by, how it ended, and what nobody was there
/// to hear before that.
#[derive(Clone)]
pub(super) struct Ended {
    pub(super) at: Instant,
    pub(super) pid: u32,
    pub(super) tag: Option<String>,
    pub(super) hub: Arc<Hub>,
}

/// What a request names a process by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Selector {
    Pid(u32),
    Tag(String),
}

impl Selector {
    fn names(&self, pid: u32, tag: Option<&String>) -> bool {
        match self {
            Self::Pid(wanted) => pid == *wanted,
            Self::Tag(wanted) => tag == Some(wanted),
        }
    }
}

/// No process goes by that name.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotFound {
    #[error("process with pid {0} not found")]
    Pid(u32),
    #[error("process with tag {0} not found")]
    Tag(String),
}

/// Too many run already.
#[derive(Debug, thiserror::Error)]
#[error("{RUNNING_MAX} processes run already: end one of them first")]
pub(super) struct TooManyProcesses;

/// The right to start one process, given back when dropped.
pub(super) struct Place(Arc<Processes>);

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.0.table.lock();
        table.starting = table.starting.saturating_sub(1);
    }
}

impl Processes {
    pub(crate) fn new(reaper: Arc<Reaper>, journal: Arc<Journal>) -> Self {
        let (held, holds) = (Held::default(), Holds::default());
        Self { reaper, journal, held, holds, table: Mutex::default() }
    }

    /// How much of what processes said waits for readers. What waits for them elsewhere is to be
    /// counted as well.
    pub(crate) fn unread(&self) -> &Arc<Unread> {
        &self.held.unread
    }

    /// Parks writes to processes that have not begun.
    pub(crate) fn input_hold(&self) -> &Arc<Hold> {
        &self.holds.input
    }

    /// Parks those who read from processes.
    pub(crate) fn output_hold(&self) -> &Arc<Hold> {
        &self.holds.output
    }

    /// Reserves room for one more process, before anything is made for it.
    pub(super) fn place(self: &Arc<Self>) -> Result<Place, TooManyProcesses> {
        let mut table = self.table.lock();
        if table.running.len().saturating_add(table.starting) >= RUNNING_MAX {
            return Err(TooManyProcesses);
        }
        table.starting = table.starting.saturating_add(1);
        Ok(Place(Arc::clone(self)))
    }

    /// Enters a process and follows it to its end.
    pub(super) fn follow(
        self: &Arc<Self>,
        origin: Origin,
        ends: AgentEnds,
        hub: Arc<Hub>,
    ) -> Arc<Running> {
        let reaper = Arc::clone(&self.reaper);
        let (running, outputs) = Running::new(origin, ends, hub, reaper, &self.holds);
        let running = Arc::new(running);
        self.insert(Arc::clone(&running));
        let (processes, followed) = (Arc::clone(self), Arc::clone(&running));
        tasks::spawn(async move {
            followed.follow(outputs, &processes.journal).await;
            processes.retire(&followed);
        });
        running
    }

    /// Enters a process that was just started. Ends kept under its number or tag are forgotten:
    /// whoever asks means the new one.
    fn insert(&self, process: Arc<Running>) {
        let pid = process.wire_pid();
        let mut table = self.table.lock();
        table.ended.retain(|old| {
            let same_tag = old.tag.is_some() && old.tag.as_ref() == process.tag();
            old.pid != pid && !same_tag
        });
        table.running.insert(pid, process);
    }

    /// Moves a process that has ended to those that are only remembered.
    fn retire(&self, process: &Arc<Running>) {
        let pid = process.wire_pid();
        let mut table = self.table.lock();
        let table = &mut *table;
        // Its number may belong to a younger process already, if its output outlived it.
        if !table.running.get(&pid).is_some_and(|running| Arc::ptr_eq(running, process)) {
            return;
        }
        table.running.remove(&pid);
        forget_old(&mut table.ended);
        if table.ended.len() >= RETAINED_MAX {
            table.ended.pop_front();
        }
        let (tag, hub) = (process.tag().cloned(), Arc::clone(&process.hub));
        table.ended.push_back(Ended { at: Instant::now(), pid, tag, hub });
    }

    /// Every running process, and every end that is kept, the oldest first: each process once.
    pub(super) fn all(&self) -> (Vec<Arc<Running>>, Vec<Ended>) {
        let table = &mut *self.table.lock();
        forget_old(&mut table.ended);
        (table.running.values().cloned().collect(), table.ended.iter().cloned().collect())
    }

    /// Enters an end that is kept already, after those that are older.
    pub(super) fn remember(&self, ended: Ended) {
        let all = &mut self.table.lock().ended;
        let place = all.partition_point(|other| other.at <= ended.at);
        all.insert(place, ended);
    }

    /// Every running process, in no particular order.
    pub(super) fn list(&self) -> Vec<Arc<Running>> {
        self.table.lock().running.values().cloned().collect()
    }

    /// A running process. Of several with the same tag, any.
    pub(super) fn running(&self, selector: &Selector) -> Result<Arc<Running>, NotFound> {
        let table = self.table.lock();
        let found = match selector {
            Selector::Pid(pid) => table.running.get(pid),
            Selector::Tag(_) => table
                .running
                .iter()
                .find(|(pid, process)| selector.names(**pid, process.tag()))
                .map(|(_pid, process)| process),
        };
        found.cloned().ok_or_else(|| match selector {
            Selector::Pid(pid) => NotFound::Pid(*pid),
            Selector::Tag(tag) => NotFound::Tag(tag.clone()),
        })
    }

    /// The number of a running process, or of one that ended a moment ago, and what it says.
    pub(super) fn hub(&self, selector: &Selector) -> Result<(u32, Arc<Hub>), NotFound> {
        let running = self.running(selector);
        // In this order: a process goes from the first to the second and never back.
        running.map(|process| (process.wire_pid(), Arc::clone(&process.hub))).or_else(|not_found| {
            let mut table = self.table.lock();
            forget_old(&mut table.ended);
            let mut ended = table.ended.iter().rev();
            let found = ended.find(|ended| selector.names(ended.pid, ended.tag.as_ref()));
            found.map(|ended| (ended.pid, Arc::clone(&ended.hub))).ok_or(not_found)
        })
    }
}

fn forget_old(ended: &mut VecDeque<Ended>) {
    while ended.front().is_some_and(|oldest| oldest.at.elapsed() > RETENTION) {
        ended.pop_front();
    }
}
