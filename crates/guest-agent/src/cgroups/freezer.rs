//! Lets control groups stand still and go on again, and remembers which ones are its doing.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::DropGuard;

use super::audit::{Audit, audit};
use super::walk::{Mode, walk};
use super::{TERMINALS, USER, group};
use crate::{log, tasks};

/// After this without another request everything goes on: who asked for a freeze may be gone.
const PATIENCE: Duration = Duration::from_mins(10);
/// How often is looked whether everything stands still, while somebody waits for it.
const POLL: Duration = Duration::from_millis(2);

/// What stands still, and what thaws it in the end.
pub(crate) struct Freezer {
    root: Option<PathBuf>,
    patience: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Frozen by the agent. A group the sandbox itself had frozen before is not among them, and so
    /// stays frozen when these are thawed.
    held: BTreeSet<PathBuf>,
    /// How many groups were looked at at most, while a freeze of the whole hierarchy is in force.
    hierarchy: Option<usize>,
    /// Counts freezes and thaws, so that who waits sees that there was another.
    round: u64,
    /// Thaws when nobody else does. Called off when dropped.
    watchdog: Option<DropGuard>,
}

/// What a freeze asked for. Nothing needs to stand still yet.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    pub(crate) visited: usize,
    pub(crate) left_alone: usize,
    pub(crate) truncated: bool,
    /// Frozen by the sandbox itself before.
    pub(crate) pre_frozen: usize,
    pub(crate) failed: usize,
    pub(crate) asked: Vec<PathBuf>,
    pub(crate) took: Duration,
    round: u64,
}

/// What became of the groups that were asked; each of them is in one of the counts.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    pub(crate) frozen: usize,
    pub(crate) not_frozen: usize,
    /// Removed meanwhile, or not to be read.
    pub(crate) unobservable: usize,
    pub(crate) took: Duration,
}

/// A group that does not go on.
#[derive(Debug, thiserror::Error)]
#[error("cannot thaw the control group {}", group.display())]
pub(crate) struct ThawError {
    group: PathBuf,
    source: io::Error,
}

impl Freezer {
    pub(super) fn new(root: Option<PathBuf>) -> Self {
        Self { root, patience: PATIENCE, state: Mutex::default() }
    }

    /// Lets the groups of users' processes go on if an agent before this one, which has ended,
    /// left them frozen. It would have remembered who else did that; nobody does now.
    pub(crate) fn thaw_left_behind(&self) {
        for name in [USER, TERMINALS] {
            let Some(group) = self.root.as_ref().map(|root| root.join(name)) else { return };
            if group::is_asked(&group)
                && let Err(error) = group::ask(&group, false)
            {
                log::odd(format_args!("the control group '{name}' stays frozen: {error}"));
            }
        }
    }

    /// Asks everything that `mode` means to stand still. Blocks for as long as many small files
    /// take to write; must be called inside the runtime.
    pub(crate) fn freeze(self: &Arc<Self>, mode: Mode, most: usize) -> Sweep {
        let started = Instant::now();
        let mut state = self.state.lock();
        let walk = self.root.as_ref().map(|root| walk(root, mode, most)).unwrap_or_default();
        let mut sweep = Sweep {
            visited: walk.visited,
            left_alone: walk.left_alone,
            truncated: walk.truncated,
            ..Sweep::default()
        };
        for target in walk.targets {
            if !state.held.contains(&target) && group::is_asked(&target) {
                sweep.pre_frozen += 1;
            } else if group::ask(&target, true).is_ok() {
                state.held.insert(target.clone());
                sweep.asked.push(target);
            } else {
                sweep.failed += 1;
            }
        }
        state.round += 1;
        sweep.round = state.round;
        if mode == Mode::Hierarchy && self.root.is_some() {
            state.hierarchy = Some(most);
        }
        state.watchdog = (!state.held.is_empty()).then(|| self.watch(state.round));
        sweep.took = started.elapsed();
        sweep
    }

    /// Waits until all that `sweep` asked stands still, `limit` is over, or somebody thaws it.
    ///
    /// Cancel safety: yes, this only looks.
    pub(crate) async fn settle(&self, sweep: &Sweep, limit: Duration) -> Settled {
        let started = Instant::now();
        // After that nothing stands still any more.
        let limit = limit.min(self.patience);
        let mut settled = Settled::default();
        let mut pending = sweep.asked.clone();
        loop {
            let asked = pending.len();
            let Some(seen) = tasks::blocking(move || look(pending)).await else {
                settled.unobservable += asked;
                break;
            };
            settled.frozen += seen.frozen;
            settled.unobservable += asked - seen.frozen - seen.pending.len();
            pending = seen.pending;
            let left = limit.saturating_sub(started.elapsed());
            if pending.is_empty() || left.is_zero() || self.state.lock().round != sweep.round {
                settled.not_frozen = pending.len();
                break;
            }
            tokio::time::sleep(POLL.min(left)).await;
        }
        settled.took = started.elapsed();
        settled
    }

    /// Which groups stand still, and how many were looked at if that was the whole hierarchy.
    pub(crate) fn hand_over(&self) -> (Vec<PathBuf>, Option<usize>) {
        let state = self.state.lock();
        (state.held.iter().cloned().collect(), state.hierarchy)
    }

    /// Goes on for the agent before this one: what it has frozen is thawed when that would have been,
    /// and not much later if nobody asks for it.
    pub(crate) fn take_over(self: &Arc<Self>, held: Vec<PathBuf>, hierarchy: Option<usize>) {
        let mut state = self.state.lock();
        state.round += 1;
        state.held = held.into_iter().collect();
        state.hierarchy = hierarchy;
        state.watchdog = (!state.held.is_empty()).then(|| self.watch(state.round));
    }

    /// Lets go on what the agent has frozen, and nothing else. What could not be thawed is tried
    /// again by the next call.
    ///
    /// # Errors
    /// The first group that does not go on; the others do.
    pub(crate) fn thaw(&self) -> Result<(), ThawError> {
        self.thaw_in(&mut self.state.lock())
    }

    fn thaw_in(&self, state: &mut State) -> Result<(), ThawError> {
        let mut failure = None;
        state.round += 1;
        state.held.retain(|target| match group::ask(target, false) {
            Ok(()) => false,
            Err(error) if group::is_gone(&error) => false,
            Err(source) => {
                failure.get_or_insert_with(|| ThawError { group: target.clone(), source });
                true
            }
        });
        state.hierarchy = None;
        if state.held.is_empty() {
            state.watchdog = None;
        }
        failure.map_or(Ok(()), Err)
    }

    /// How well a freeze of the whole hierarchy has held. `None` if there is none in force.
    pub(crate) fn audit(&self) -> Option<Audit> {
        let state = self.state.lock();
        let (root, most) = (self.root.as_ref()?, state.hierarchy?);
        Some(audit(walk(root, Mode::Hierarchy, most), &state.held))
    }

    /// Whether there is nothing to audit or to thaw. Never waits.
    pub(crate) fn is_idle(&self) -> bool {
        let state = self.state.try_lock();
        state.is_some_and(|state| state.held.is_empty() && state.hierarchy.is_none())
    }

    /// Nothing ticks while nothing is frozen: this is there from a freeze to the next thaw.
    fn watch(self: &Arc<Self>, round: u64) -> DropGuard {
        let freezer = Arc::clone(self);
        tasks::unless_dropped(self.patience, async move {
            let thawed = tasks::blocking(move || {
                let mut state = freezer.state.lock();
                // Somebody was faster by a moment.
                if state.round != round {
                    return Ok(());
                }
                log::odd(format_args!("thawed by itself after {:?}", freezer.patience));
                freezer.thaw_in(&mut state)
            });
            if let Some(Err(error)) = thawed.await {
                log::odd(format_args!("{error}: {}", error.source));
            }
        })
    }
}

struct Look {
    frozen: usize,
    pending: Vec<PathBuf>,
}

fn look(groups: Vec<PathBuf>) -> Look {
    let mut seen = Look { frozen: 0, pending: Vec::new() };
    for target in groups {
        match group::events(&target) {
            Ok(events) if events.frozen => seen.frozen += 1,
            Ok(_not_yet) => seen.pending.push(target),
            Err(_unobservable) => {}
        }
    }
    seen
}

#[cfg(test)]
mod tests;
