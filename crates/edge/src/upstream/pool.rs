use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;
use std::thread::{self, ThreadId};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Port;
use crate::seats::{Seat, Seats};

thread_local! {
    /// Asked for with every request; std counts references to find it out.
    static HERE: ThreadId = thread::current().id();
}

/// A connection that can be used again.
pub(super) trait Kept {
    /// What has become of a connection that is not used, and is not now either. When something
    /// becomes of it later, [`Left`] is called.
    fn leave(&mut self) -> Health;

    /// The same of a connection that is about to be used.
    fn take(&mut self) -> Health;
}

/// Of a connection between two exchanges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    Closed,
    /// Still waits for the end of a request whose answer came early.
    Busy,
    Ready,
}

/// Connections to one sandbox that nobody uses, by port, the one used last at the end.
#[derive(Debug)]
pub(super) struct Pool<C> {
    max_per_port: usize,
    /// Shared by all pools.
    room: Arc<Seats>,
    kept: Mutex<State<C>>,
}

/// Whether the other end of a kept connection has left, or has said something nobody asked for. A
/// connection that is not used has it woken.
#[derive(Debug)]
pub(super) struct Left {
    seen: AtomicBool,
    /// Called when that has happened in any pool.
    sweep: Arc<Notify>,
}

#[derive(Debug)]
struct State<C> {
    closed: bool,
    /// Few: a hash would take longer than the search.
    by_port: BTreeMap<Port, Vec<Idle<C>>>,
}

#[derive(Debug)]
struct Idle<C> {
    connection: C,
    /// Whose reactor sees it: it is used without waking another thread there.
    thread: ThreadId,
    since: Instant,
    _room: Seat,
}

impl<C: Kept> Pool<C> {
    pub(super) fn new(max_per_port: usize, room: Arc<Seats>) -> Self {
        let kept = Mutex::new(State { closed: false, by_port: BTreeMap::new() });
        Self { max_per_port, room, kept }
    }

    /// The connection of this thread used last, if that was at most `max_age` ago and its other end
    /// is there.
    pub(super) fn take(&self, port: Port, max_age: Duration) -> Option<C> {
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
            match one.connection.take() {
                Health::Closed => drop(idle.remove(at)),
                Health::Ready if one.since.elapsed() <= max_age => {
                    return Some(idle.remove(at).connection);
                }
                // A server of one connection at a time would not look at the one that is made instead.
                Health::Ready => drop(idle.remove(at)),
                // The next to ask looks whether it has ended.
                Health::Busy => drop(one.connection.leave()),
            }
        }
        None
    }

    /// Keeps `connection`, in place of the oldest one if there are enough.
    pub(super) fn put(&self, port: Port, mut connection: C) {
        let mut kept = self.kept.lock();
        // Under the lock: a sweep that is called now finds it.
        if kept.closed || connection.leave() == Health::Closed {
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
            idle.push(Idle { connection, thread, since: Instant::now(), _room: room });
        }
    }

    /// Closes those not used for `max_age`, and those whose other end has left.
    pub(super) fn close_idle(&self, max_age: Duration) {
        self.kept.lock().by_port.retain(|_port, idle| {
            idle.retain_mut(|idle| {
                idle.since.elapsed() < max_age && idle.connection.leave() != Health::Closed
            });
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

impl Wake for Left {
    fn wake(self: Arc<Self>) {
        self.call();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.call();
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
