//! Slots: made ahead, used once.
//!
//! An index is free again only when the kernel has taken its link away; until then it is passed
//! over, so that no two sandboxes ever share an address or a user id.

use std::collections::{BTreeSet, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use host::identity::SLOTS;
use host::net::{Slot, is_linked, linked_slots};
use host::{HostError, Mark};
use lifecycle::{Budget, Expired, Owned};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

#[derive(Debug)]
pub(crate) struct Pool {
    mark: Mark,
    agent_port: u16,
    warm: usize,
    /// Helpers that hold namespaces while a slot is made are born in this cgroup.
    helpers: OwnedFd,
    state: Mutex<State>,
    taken: Notify,
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<Owned<Slot>>,
    /// Ready, being made or with a sandbox.
    in_use: BTreeSet<u16>,
    /// Closed; the kernel may still have the link.
    released: BTreeSet<u16>,
    next: u16,
    making: usize,
    closed: bool,
}

/// No slot could be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SlotError {
    #[error("all {SLOTS} slots are in use")]
    Exhausted,
    #[error("slots are closed")]
    Closed,
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("the thread that made the slot ended")]
    Thread(#[from] tokio::task::JoinError),
}

/// The pool waits this long after it failed to make a slot.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

impl Pool {
    pub(crate) fn new(mark: Mark, agent_port: u16, warm: u16, helpers: OwnedFd) -> Self {
        Self {
            mark,
            agent_port,
            warm: usize::from(warm),
            helpers,
            state: Mutex::default(),
            taken: Notify::new(),
        }
    }

    /// A slot from the pool, or one made now when it is empty.
    pub(crate) async fn take(self: &Arc<Self>) -> Result<Owned<Slot>, SlotError> {
        let ready = self.state.lock().ready.pop_front();
        self.taken.notify_one();
        match ready {
            Some(slot) => Ok(slot),
            None => self.make().await,
        }
    }

    /// The index may be used again once its link is gone.
    pub(crate) fn released(&self, index: u16) {
        let mut state = self.state.lock();
        state.in_use.remove(&index);
        state.released.insert(index);
    }

    /// Whether the slot is ready, being made or with a sandbox, or its link is on its way out.
    pub(crate) fn has(&self, index: u16) -> bool {
        let state = self.state.lock();
        state.in_use.contains(&index) || state.released.contains(&index)
    }

    /// Ready slots, for status.
    pub(crate) fn ready(&self) -> usize {
        self.state.lock().ready.len()
    }

    /// Keeps the pool filled until `stop`.
    pub(crate) async fn keep_filled(self: Arc<Self>, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let short = {
                let state = self.state.lock();
                !state.closed && state.ready.len() + state.making < self.warm
            };
            if !short {
                tokio::select! { biased; () = stop.cancelled() => return, () = self.taken.notified() => {} }
                continue;
            }
            match self.make().await {
                Ok(slot) => self.put(slot).await,
                Err(error) => {
                    tracing::warn!(error = %observe::chain(&error), "no slot could be made ahead");
                    tokio::select! { biased; () = stop.cancelled() => return, () = tokio::time::sleep(PAUSE_AFTER_FAILURE) => {} }
                }
            }
        }
    }

    async fn put(&self, slot: Owned<Slot>) {
        let refused = {
            let mut state = self.state.lock();
            if state.closed {
                Some(slot)
            } else {
                state.ready.push_back(slot);
                None
            }
        };
        if let Some(slot) = refused {
            self.close_slot(slot).await;
        }
    }

    async fn make(self: &Arc<Self>) -> Result<Owned<Slot>, SlotError> {
        let index = self.next_index()?;
        let pool = Arc::clone(self);
        // The result is counted in the thread: a caller that goes away loses no slot.
        let made = tokio::task::spawn_blocking(move || {
            let made = Slot::create(pool.mark, index, pool.agent_port, pool.helpers.as_fd());
            let mut state = pool.state.lock();
            state.making -= 1;
            if made.is_err() {
                state.in_use.remove(&index);
            }
            made
        });
        Ok(Owned::adopt(made.await??))
    }

    fn next_index(&self) -> Result<u16, SlotError> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(SlotError::Closed);
        }
        for _ in 0..SLOTS {
            let index = state.next;
            state.next = (state.next + 1) % SLOTS;
            if !state.in_use.contains(&index) && !is_linked(self.mark, index) {
                state.released.remove(&index);
                state.in_use.insert(index);
                state.making += 1;
                return Ok(index);
            }
        }
        Err(SlotError::Exhausted)
    }

    async fn close_slot(&self, slot: Owned<Slot>) {
        let index = slot.net().index;
        // Closing a slot is closing descriptors; it has nothing to wait for.
        match slot.close(Budget::within(Duration::from_secs(1))).await {
            Ok(_closed) => self.released(index),
            Err((_slot, error)) => tracing::error!(%error, index, "a slot could not be closed"),
        }
    }

    /// Lets go of every ready slot and makes none any more.
    pub(crate) async fn close(&self) {
        let ready = {
            let mut state = self.state.lock();
            state.closed = true;
            std::mem::take(&mut state.ready)
        };
        for slot in ready {
            self.close_slot(slot).await;
        }
    }

    /// Waits until the kernel has taken every link of ours away.
    ///
    /// Cancel safety: yes.
    pub(crate) async fn wait_unlinked(&self, budget: Budget) -> Result<(), Expired> {
        let gone = async {
            // The kernel tells of it by rtnetlink, to sockets that may overflow; a listing cannot
            // be missed and costs microseconds.
            while linked_slots(self.mark).is_ok_and(|left| !left.is_empty()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        budget.run("links of closed slots", gone).await
    }
}
