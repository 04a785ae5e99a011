//! Gates with one mistake each.

use crate::gates::Admission;
use crate::sync::{Arc, Mutex, Notify};

#[derive(Debug, Default)]
struct Shared {
    closed: Mutex<bool>,
    inside: Mutex<u32>,
    left: Notify,
}

impl Shared {
    fn leave(&self) {
        let last = {
            let mut inside = self.inside.lock();
            *inside -= 1;
            *inside == 0
        };
        if last {
            self.left.notify_waiters();
        }
    }

    fn is_empty(&self) -> bool {
        *self.inside.lock() == 0
    }
}

#[derive(Debug)]
pub(crate) struct Pass(Arc<Shared>);

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// Looks whether the gate is open, and counts itself afterwards: a flag, not a gate.
#[derive(Debug, Clone, Default)]
pub(crate) struct CheckThenAdd(Arc<Shared>);

impl Admission for CheckThenAdd {
    type Pass = Pass;

    fn enter(&self) -> Option<Pass> {
        if *self.0.closed.lock() {
            return None;
        }
        *self.0.inside.lock() += 1;
        Some(Pass(Arc::clone(&self.0)))
    }

    fn shut(&self) {
        *self.0.closed.lock() = true;
    }

    async fn empty(&self) {
        loop {
            let left = self.0.left.notified();
            if self.0.is_empty() {
                return;
            }
            left.await;
        }
    }
}

/// Looks whether somebody is inside, and listens afterwards: the last one may leave in between.
#[derive(Debug, Clone, Default)]
pub(crate) struct CheckThenListen(Arc<Shared>);

impl Admission for CheckThenListen {
    type Pass = Pass;

    fn enter(&self) -> Option<Pass> {
        let closed = self.0.closed.lock();
        if *closed {
            return None;
        }
        *self.0.inside.lock() += 1;
        drop(closed);
        Some(Pass(Arc::clone(&self.0)))
    }

    fn shut(&self) {
        *self.0.closed.lock() = true;
    }

    async fn empty(&self) {
        while !self.0.is_empty() {
            self.0.left.notified().await;
        }
    }
}
