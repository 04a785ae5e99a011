//! Hands what one process says to everybody who listens, and keeps it while nobody does.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use guest_wire::proto::process::process_event::EndEvent;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::backlog::{Backlog, Backlogs};
use super::notes::Written;
use super::queue::Queue;
use crate::unread::Unread;

/// How many may listen to one process.
const SUBSCRIBERS_MAX: usize = 256;
/// What one more piece costs beside its bytes, roughly.
const PIECE_COST_BYTES: usize = 128;

/// Which output a piece came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Source {
    Stdout,
    Stderr,
    Terminal,
}

/// One piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) source: Source,
    pub(super) data: Bytes,
}

impl Piece {
    /// What it counts against a limit.
    pub(super) fn weight(&self) -> usize {
        self.data.len().saturating_add(PIECE_COST_BYTES)
    }
}

/// The output of all processes that is in memory.
#[derive(Default)]
pub(super) struct Held {
    pub(super) unread: Arc<Unread>,
    backlogs: Arc<Backlogs>,
}

/// The output of one process on its way to its subscribers. With any, a piece is queued for all of
/// them, and the process waits for the slowest. Without, it waits for nobody: the newest is kept
/// for the next to come.
///
/// What the last subscriber did not take is the next one's as well. What it took is not, although
/// it may never have arrived: of bytes in a connection that broke nobody knows.
pub(super) struct Hub {
    state: Mutex<State>,
    /// Something was published, or the process has ended.
    news: Notify,
    /// Something was read, or a subscriber has left.
    room: Notify,
}

struct State {
    queue: Queue,
    /// Empty while anybody listens.
    backlog: Backlog,
    written: Written,
    end: Option<EndEvent>,
    /// Nobody takes anything.
    is_frozen: bool,
}

/// Too many listen already.
#[derive(Debug, thiserror::Error)]
#[error("{SUBSCRIBERS_MAX} streams are attached to this process already: close one of them first")]
pub(super) struct TooManySubscribers;

impl Hub {
    /// A hub and its first subscriber, who misses nothing.
    pub(super) fn new(held: &Held) -> (Arc<Self>, Subscription) {
        let mut queue = Queue::new(Arc::clone(&held.unread));
        let position = queue.join(VecDeque::new());
        let hub = Self::with(held, queue, Written::default(), None);
        (Arc::clone(&hub), Subscription { hub, position })
    }

    /// A hub that nobody listens to yet: what was `kept` is the first one's who does.
    /// `written` counts all that was said before.
    pub(super) fn resumed(
        held: &Held,
        kept: Vec<Piece>,
        written: Written,
        end: Option<EndEvent>,
    ) -> Arc<Self> {
        let hub = Self::with(held, Queue::new(Arc::clone(&held.unread)), written, end);
        let state = hub.state.lock();
        for piece in kept {
            state.backlog.push(piece);
        }
        drop(state);
        hub
    }

    fn with(held: &Held, queue: Queue, written: Written, end: Option<EndEvent>) -> Arc<Self> {
        let backlog = held.backlogs.open();
        let state = State { queue, backlog, written, end, is_frozen: false };
        let (news, room) = (Notify::new(), Notify::new());
        Arc::new(Self { state: Mutex::new(state), news, room })
    }

    /// From now on every piece goes to this subscriber as well; before it, what was kept while
    /// there was none.
    pub(super) fn subscribe(self: &Arc<Self>) -> Result<Subscription, TooManySubscribers> {
        let State { queue, backlog, .. } = &mut *self.state.lock();
        if queue.subscribers() >= SUBSCRIBERS_MAX {
            return Err(TooManySubscribers);
        }
        let position = queue.join(backlog.take());
        Ok(Subscription { hub: Arc::clone(self), position })
    }

    /// Waits until the slowest subscriber lets the process go on, and says how many bytes may be
    /// published next.
    ///
    /// Cancel safety: yes, room is not taken by waiting for it.
    pub(super) async fn room(&self) -> usize {
        loop {
            let changed = self.room.notified();
            if let Some(bytes) = self.state.lock().queue.room() {
                return bytes;
            }
            changed.await;
        }
    }

    /// Gives `piece` to every subscriber, or keeps it if there is none. What is larger than the
    /// room there was, or comes without waiting for it, is more than the limits say.
    pub(super) fn publish(&self, piece: Piece) {
        let State { queue, backlog, written, .. } = &mut *self.state.lock();
        written.add(&piece);
        if queue.subscribers() == 0 {
            backlog.push(piece);
        } else {
            queue.push(piece);
            self.news.notify_waiters();
        }
    }

    /// What was published so far.
    pub(super) fn written(&self) -> Written {
        self.state.lock().written
    }

    /// Gives a copy of what nobody has taken, and how the process ended. From now on nobody takes
    /// anything, until [`Hub::thaw`].
    pub(super) fn freeze(&self) -> (Vec<Piece>, Option<EndEvent>) {
        let State { queue, backlog, end, is_frozen, .. } = &mut *self.state.lock();
        *is_frozen = true;
        // What is left for the slowest. Who was ahead of it hears some twice, if it comes first:
        // better than not at all.
        let kept = if queue.subscribers() == 0 { backlog.copy() } else { queue.copy() };
        (kept, end.clone())
    }

    pub(super) fn thaw(&self) {
        self.state.lock().is_frozen = false;
        self.news.notify_waiters();
    }

    /// Ends every subscription once what it still has to read is read.
    pub(super) fn end(&self, end: EndEvent) {
        self.state.lock().end = Some(end);
        self.news.notify_waiters();
    }
}

/// One listener's place in what a process says.
pub(super) struct Subscription {
    hub: Arc<Hub>,
    position: u64,
}

impl Subscription {
    /// The next piece; how the process ended after the last.
    ///
    /// Cancel safety: yes, nothing is taken unless it is returned.
    pub(super) async fn next(&mut self) -> Result<Piece, EndEvent> {
        loop {
            let news = self.hub.news.notified();
            {
                let state = &mut *self.hub.state.lock();
                if state.is_frozen {
                    // Whatever there is stays.
                } else if let Some(piece) = state.queue.next(&mut self.position) {
                    self.hub.room.notify_waiters();
                    return Ok(piece);
                } else if let Some(end) = &state.end {
                    return Err(end.clone());
                }
            }
            news.await;
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let State { queue, backlog, .. } = &mut *self.hub.state.lock();
        for unread in queue.leave(self.position) {
            backlog.push(unread);
        }
        self.hub.room.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
