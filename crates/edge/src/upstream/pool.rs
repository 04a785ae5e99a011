use std::collections::HashMap;
use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::Sender;

/// Connections to one sandbox that nobody uses, by port, the one used last at the end.
#[derive(Debug)]
pub(super) struct Pool {
    max_per_port: usize,
    /// Shared by all pools.
    room: Arc<Semaphore>,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    closed: bool,
    by_port: HashMap<NonZero<u16>, Vec<Idle>>,
}

#[derive(Debug)]
struct Idle {
    sender: Sender,
    since: Instant,
    _room: OwnedSemaphorePermit,
}

impl Pool {
    pub(super) fn new(max_per_port: usize, room: Arc<Semaphore>) -> Self {
        Self { max_per_port, room, kept: Mutex::default() }
    }

    /// The connection used last, if that was at most `max_age` ago and its other end is there.
    pub(super) fn take(&self, port: NonZero<u16>, max_age: Duration) -> Option<Sender> {
        let mut kept = self.kept.lock();
        let idle = kept.by_port.get_mut(&port)?;
        idle.retain(|idle| !idle.sender.is_closed());
        // One that is neither closed nor ready still waits for the end of a request whose answer
        // came early.
        let last = idle
            .iter()
            .rposition(|idle| idle.sender.is_ready() && idle.since.elapsed() <= max_age)?;
        Some(idle.remove(last).sender)
    }

    /// Keeps `sender`, in place of the oldest one if there are enough.
    pub(super) fn put(&self, port: NonZero<u16>, sender: Sender) {
        if sender.is_closed() {
            return;
        }
        let mut kept = self.kept.lock();
        if kept.closed {
            return;
        }
        let idle = kept.by_port.entry(port).or_default();
        if idle.len() >= self.max_per_port && !idle.is_empty() {
            drop(idle.remove(0));
        }
        if idle.len() < self.max_per_port
            && let Ok(room) = Arc::clone(&self.room).try_acquire_owned()
        {
            idle.push(Idle { sender, since: Instant::now(), _room: room });
        }
    }

    pub(super) fn close_idle(&self, max_age: Duration) {
        self.kept.lock().by_port.retain(|_port, idle| {
            idle.retain(|idle| !idle.sender.is_closed() && idle.since.elapsed() < max_age);
            !idle.is_empty()
        });
    }

    /// Closes all, and keeps none from now on.
    pub(super) fn close(&self) {
        let mut kept = self.kept.lock();
        kept.closed = true;
        kept.by_port.clear();
    }
}
