//! Slots: made ahead, used once.
//!
//! An index is free again only when the kernel has taken its link away, so that no two sandboxes ever
//! share an address or a user id, and when the host has forgotten the connections from and to its
//! address: to the firewall, packets of a stranger could belong to one of them. That is done for many
//! at a time and beside the creates, as the kernel looks through all it remembers. A new daemon knows
//! of no address who had it last, so it begins with forgetting all that nobody has.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use host::identity::SLOTS;
use host::net::{Slot, forget_connections, is_linked, linked_slots};
use host::{Faults, HostError, Mark};
use lifecycle::{Budget, Expired, Owned};
use observe::metrics::{SLOTS as SLOTS_MADE, result_of};
use tokio_util::sync::CancellationToken;

use crate::pool::stock::{Closed, Counts, Making, Refused, Stock};

pub(crate) mod stock;

#[derive(Debug)]
pub(crate) struct Pool {
    mark: Mark,
    agent_port: u16,
    warm: usize,
    /// Helpers that hold namespaces while a slot is made are born in this cgroup.
    helpers: OwnedFd,
    faults: Faults,
    stock: Arc<Stock<Owned<Slot>>>,
    /// Held by who has the host forget: who needs an index waits for what is under way.
    forgetting: Arc<tokio::sync::Mutex<()>>,
}

/// No slot could be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SlotError {
    #[error("all {SLOTS} slots are in use")]
    Exhausted,
    #[error(transparent)]
    Closed(#[from] Closed),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("the thread that worked on slots ended")]
    Thread(#[from] tokio::task::JoinError),
}

impl From<Refused> for SlotError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Closed(closed) => Self::Closed(closed),
            Refused::Exhausted => Self::Exhausted,
        }
    }
}

/// The pool waits this long after it failed to make a slot.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);
/// Between two times that the host is made to forget, unless an index is wanted before. Of 2048 that
/// are used one after the other, those of a second are few.
const FORGET_EVERY: Duration = Duration::from_secs(1);

impl Pool {
    pub(crate) fn new(
        mark: Mark,
        agent_port: u16,
        warm: u16,
        helpers: OwnedFd,
        faults: Faults,
    ) -> Self {
        let (stock, forgetting) = (Arc::new(Stock::new(SLOTS)), Arc::default());
        Self { mark, agent_port, warm: usize::from(warm), helpers, faults, stock, forgetting }
    }

    /// A slot from the pool, or one made now when it is empty.
    ///
    /// Cancel safety: yes. A slot that is in the making then comes to the shelf.
    pub(crate) async fn take(self: &Arc<Self>) -> Result<Owned<Slot>, SlotError> {
        loop {
            if let Some(slot) = self.stock.take()? {
                return Ok(slot);
            }
            // Another may take it from the shelf first. Then that one was served, and there are no
            // more of them than starts at a time.
            self.make().await?;
        }
    }

    /// Keeps an index for a sandbox of an earlier daemon. `false` when another has it.
    pub(crate) fn claim(&self, index: u16) -> bool {
        self.stock.claim(index)
    }

    /// The slots whose links are there and that nobody accounts for.
    pub(crate) fn strays(&self) -> Result<Vec<u16>, HostError> {
        Ok(linked_slots(self.mark)?.into_iter().filter(|index| !self.stock.has(*index)).collect())
    }

    /// The index may be used again once its link is gone and the host has forgotten it.
    pub(crate) fn released(&self, index: u16) {
        self.stock.released(index);
    }

    /// Whether the slot is ready, being made or with a sandbox, or its link is on its way out.
    pub(crate) fn has(&self, index: u16) -> bool {
        self.stock.has(index)
    }

    /// Ready slots, for status.
    pub(crate) fn ready(&self) -> usize {
        self.stock.ready()
    }

    /// How many slots are where, for status.
    pub(crate) fn counts(&self) -> Counts {
        let linked: BTreeSet<u16> =
            linked_slots(self.mark).unwrap_or_default().into_iter().collect();
        self.stock.counts(|index| linked.contains(&index))
    }

    /// Keeps the pool filled until `stop`.
    pub(crate) async fn keep_filled(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.stock.wait_fewer_than(self.warm) => {}
            }
            if let Err(error) = self.make().await {
                tracing::warn!(error = %observe::chain(&error), "no slot could be made ahead");
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(PAUSE_AFTER_FAILURE) => {}
                }
            }
        }
    }

    /// Has the host forget the connections of slots that were used, until `stop`.
    pub(crate) async fn keep_forgetting(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.stock.wait_used() => {}
            }
            if let Err(error) = self.forget().await {
                tracing::warn!(error = %observe::chain(&error), "connections are remembered still");
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(FORGET_EVERY) => {}
            }
        }
    }

    /// Has the host forget all that was used and has no link any more. That goes on without whoever
    /// waits for it.
    async fn forget(self: &Arc<Self>) -> Result<(), SlotError> {
        let turn = Arc::clone(&self.forgetting).lock_owned().await;
        let pool = Arc::clone(self);
        let forgotten = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let linked: BTreeSet<u16> = linked_slots(pool.mark)?.into_iter().collect();
            let forgetting = pool.stock.begin_to_forget(|index| linked.contains(&index));
            if forgetting.indexes().is_empty() {
                return Ok(());
            }
            let slots = forgetting.indexes().iter().copied().collect();
            let connections = forget_connections(pool.mark, &slots)?;
            tracing::debug!(slots = slots.len(), connections, "connections forgotten");
            forgetting.done();
            Ok(())
        });
        forgotten.await?
    }

    /// Begins to make a slot, and waits for a free index when there is none but those to be forgotten.
    async fn begin(self: &Arc<Self>) -> Result<Making<Owned<Slot>>, SlotError> {
        let linked = |index| is_linked(self.mark, index);
        match self.stock.begin(linked) {
            Err(Refused::Exhausted) => {
                self.forget().await?;
                Ok(self.stock.begin(linked)?)
            }
            begun => Ok(begun?),
        }
    }

    /// Makes a slot and puts it on the shelf. That goes on without whoever waits for it.
    async fn make(self: &Arc<Self>) -> Result<(), SlotError> {
        let making = self.begin().await?;
        let pool = Arc::clone(self);
        let made = tokio::task::spawn_blocking(move || {
            let (index, holders) = (making.index(), pool.helpers.as_fd());
            let slot = Slot::create_with(pool.mark, index, pool.agent_port, holders, &pool.faults)?;
            making.finish(Owned::adopt(slot));
            Ok(())
        });
        let made = made.await.unwrap_or_else(|ended| Err(ended.into()));
        SLOTS_MADE.count([result_of(made.is_ok())]);
        made
    }

    /// Has the host forget what was used, at the end. It forgets by itself after a time, and whoever
    /// has the addresses next begins with it.
    pub(crate) async fn forget_last(self: &Arc<Self>) {
        if let Err(error) = self.forget().await {
            tracing::warn!(error = %observe::chain(&error), "connections are remembered still");
        }
    }

    /// Hands out no slot and makes none any more, and lets go of those that are ready. What is
    /// still in the making is let go by [`Pool::wait_unlinked`].
    pub(crate) async fn close(&self) {
        self.stock.shut();
        self.clear().await;
    }

    async fn clear(&self) {
        for (index, slot) in self.stock.clear() {
            // Closing a slot is closing descriptors; it has nothing to wait for.
            match slot.close(Budget::within(Duration::from_secs(1))).await {
                Ok(_closed) => self.stock.released(index),
                // Never used again: its index stays with it.
                Err((_slot, error)) => tracing::error!(%error, index, "a slot could not be closed"),
            }
        }
    }

    /// Waits until no slot is in the making and the kernel has taken every link of ours away.
    ///
    /// Cancel safety: yes.
    pub(crate) async fn wait_unlinked(&self, budget: Budget) -> Result<(), Expired> {
        self.wait_unlinked_but(|_| false, budget).await
    }

    /// As [`Pool::wait_unlinked`], for the slots that nobody has.
    ///
    /// Cancel safety: yes.
    pub(crate) async fn wait_idle_unlinked(&self, budget: Budget) -> Result<(), Expired> {
        self.wait_unlinked_but(|index| self.stock.is_out(index), budget).await
    }

    async fn wait_unlinked_but(
        &self,
        stays: impl Fn(u16) -> bool + Send,
        budget: Budget,
    ) -> Result<(), Expired> {
        let gone = async {
            // The kernel tells of it by rtnetlink, to sockets that may overflow; a listing cannot
            // be missed and costs microseconds. One that fails proves nothing. What is in the making
            // is asked for first: it is on the shelf before it is in the making no more.
            while self.stock.making() > 0
                || self.stock.ready() > 0
                || linked_slots(self.mark).map_or(true, |left| !left.into_iter().all(&stays))
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
                self.clear().await;
            }
        };
        budget.run("links of closed slots", gone).await
    }
}
