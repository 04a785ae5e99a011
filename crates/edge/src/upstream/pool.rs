use std::collections::HashMap;
use std::sync::Arc;
use std::thread::{self, ThreadId};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Port, Sender};
use crate::seats::{Seat, Seats};

/// Connections to one sandbox that nobody uses, by port, the one used last at the end.
#[derive(Debug)]
pub(super) struct Pool {
    max_per_port: usize,
    /// Shared by all pools.
    room: Arc<Seats>,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    closed: bool,
    by_port: HashMap<Port, Vec<Idle>>,
}

#[derive(Debug)]
struct Idle {
    sender: Sender,
    /// Where its task runs, and where it can be used without waking another thread.
    thread: ThreadId,
    since: Instant,
    _room: Seat,
}

impl Pool {
    pub(super) fn new(max_per_port: usize, room: Arc<Seats>) -> Self {
        Self { max_per_port, room, kept: Mutex::default() }
    }

    /// The connection of this thread used last, if that was at most `max_age` ago and its other end
    /// is there.
    pub(super) fn take(&self, port: Port, max_age: Duration) -> Option<Sender> {
        let thread = thread::current().id();
        let mut kept = self.kept.lock();
        let idle = kept.by_port.get_mut(&port)?;
        // Not all of them are looked at: those before are as good when their turn comes.
        for at in (0..idle.len()).rev() {
            let Some(one) = idle.get(at) else { break };
            if one.sender.is_closed() {
                drop(idle.remove(at));
                continue;
            }
            // One that is neither closed nor ready still waits for the end of a request whose
            // answer came early.
            if one.thread == thread && one.sender.is_ready() && one.since.elapsed() <= max_age {
                return Some(idle.remove(at).sender);
            }
        }
        None
    }

    /// Keeps `sender`, in place of the oldest one if there are enough.
    pub(super) fn put(&self, port: Port, sender: Sender) {
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
            && let Some(room) = self.room.take()
        {
            let thread = thread::current().id();
            idle.push(Idle { sender, thread, since: Instant::now(), _room: room });
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
