use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ThreadId};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::sender::Health;
use super::{Port, Sender};
use crate::seats::{Seat, Seats};

thread_local! {
    /// Asked for with every request; std counts references to find it out.
    static HERE: ThreadId = thread::current().id();
}

/// Connections to one sandbox that nobody uses, by port, the one used last at the end.
#[derive(Debug)]
pub(super) struct Pool {
    max_per_port: usize,
    /// Shared by all pools.
    room: Arc<Seats>,
    left: Arc<Left>,
    kept: Mutex<Kept>,
}

/// Whether the other end of a kept connection has left, or has said something nobody asked for.
#[derive(Debug)]
pub(super) struct Left {
    seen: AtomicBool,
    /// Called when that has happened in any pool.
    sweep: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Kept {
    closed: bool,
    /// Few: a hash would take longer than the search.
    by_port: BTreeMap<Port, Vec<Idle>>,
}

#[derive(Debug)]
struct Idle {
    sender: Sender,
    /// Whose reactor sees it: it is used without waking another thread there.
    thread: ThreadId,
    since: Instant,
    _room: Seat,
}

impl Pool {
    /// `sweep` is called when [`Pool::close_left`] has something to do.
    pub(super) fn new(max_per_port: usize, room: Arc<Seats>, sweep: Arc<Notify>) -> Self {
        let left = Arc::new(Left::new(sweep));
        Self { max_per_port, room, left, kept: Mutex::default() }
    }

    /// What the connections are to call that will be kept here.
    pub(super) fn left(&self) -> Arc<Left> {
        Arc::clone(&self.left)
    }

    /// The connection of this thread used last, if that was at most `max_age` ago and its other end
    /// is there.
    pub(super) fn take(&self, port: Port, max_age: Duration) -> Option<Sender> {
        let thread = HERE.with(|id| *id);
        let mut kept = self.kept.lock();
        let idle = kept.by_port.get_mut(&port)?;
        // Not all of them are looked at: those before are as good when their turn comes.
        for at in (0..idle.len()).rev() {
            let Some(one) = idle.get_mut(at) else { break };
            // Those of other threads are left to them.
            if one.thread != thread {
                continue;
            }
            match one.sender.take() {
                Health::Closed => drop(idle.remove(at)),
                Health::Ready if one.since.elapsed() <= max_age => {
                    return Some(idle.remove(at).sender);
                }
                // The next to ask looks whether it has ended.
                Health::Ready | Health::Busy => drop(one.sender.leave()),
            }
        }
        None
    }

    /// Keeps `sender`, in place of the oldest one if there are enough.
    pub(super) fn put(&self, port: Port, mut sender: Sender) {
        let mut kept = self.kept.lock();
        // Under the lock: a sweep that is called now finds it.
        if kept.closed || sender.leave() == Health::Closed {
            return;
        }
        let idle = kept.by_port.entry(port).or_default();
        if idle.len() >= self.max_per_port && !idle.is_empty() {
            drop(idle.remove(0));
        }
        if idle.len() < self.max_per_port
            && let Some(room) = self.room.take()
        {
            let thread = HERE.with(|id| *id);
            idle.push(Idle { sender, thread, since: Instant::now(), _room: room });
        }
    }

    /// Closes those not used for `max_age`, and those whose other end has left.
    pub(super) fn close_idle(&self, max_age: Duration) {
        // First: what happens from here on is seen next time.
        self.left.take();
        self.kept.lock().by_port.retain(|_port, idle| {
            idle.retain_mut(|idle| {
                idle.since.elapsed() < max_age && idle.sender.leave() != Health::Closed
            });
            !idle.is_empty()
        });
    }

    /// Closes those whose other end has left, if there are any.
    pub(super) fn close_left(&self) {
        if self.left.take() {
            self.close_idle(Duration::MAX);
        }
    }

    /// Closes all, and keeps none from now on.
    pub(super) fn close(&self) {
        let mut kept = self.kept.lock();
        kept.closed = true;
        kept.by_port.clear();
    }
}

impl Left {
    pub(super) fn new(sweep: Arc<Notify>) -> Self {
        Self { seen: AtomicBool::new(false), sweep }
    }

    pub(super) fn call(&self) {
        self.seen.store(true, Ordering::Release);
        self.sweep.notify_one();
    }

    /// Whether that was called since the last time.
    pub(super) fn take(&self) -> bool {
        self.seen.swap(false, Ordering::AcqRel)
    }
}
