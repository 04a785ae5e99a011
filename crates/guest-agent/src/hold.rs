//! Stops tasks at points where nothing they do is half done, and lets them go on.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

/// One for each kind of work that has to stand still together.
pub(crate) struct Hold {
    state: Mutex<State>,
    /// Whether the workers are to park, for those who wait for it.
    wanted: watch::Sender<bool>,
    /// A worker has parked, or is no more.
    changed: Notify,
}

#[derive(Default)]
struct State {
    is_wanted: bool,
    workers: usize,
    parked: usize,
}

/// A task that parks when it is asked to. One that is dropped is not waited for.
pub(crate) struct Worker {
    hold: Arc<Hold>,
    wanted: watch::Receiver<bool>,
}

/// While this exists, the workers park and stay parked.
pub(crate) struct Held {
    hold: Arc<Hold>,
}

impl Default for Hold {
    fn default() -> Self {
        Self { state: Mutex::default(), wanted: watch::Sender::new(false), changed: Notify::new() }
    }
}

impl Hold {
    /// Counts one more worker. It must park before it begins if that is asked for already.
    pub(crate) fn worker(self: &Arc<Self>) -> Worker {
        self.state.lock().workers += 1;
        Worker { hold: Arc::clone(self), wanted: self.wanted.subscribe() }
    }

    /// Asks all workers to park. For one at a time: the first that is dropped lets them go on.
    pub(crate) fn hold(self: &Arc<Self>) -> Held {
        self.state.lock().is_wanted = true;
        self.wanted.send_replace(true);
        Held { hold: Arc::clone(self) }
    }
}

impl Held {
    /// Waits until all workers are parked, which then are until this is dropped.
    ///
    /// Cancel safety: yes.
    pub(crate) async fn all_parked(&self) {
        loop {
            let changed = self.hold.changed.notified();
            {
                let state = self.hold.state.lock();
                if state.parked == state.workers {
                    return;
                }
            }
            changed.await;
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.hold.state.lock().is_wanted = false;
        self.hold.wanted.send_replace(false);
    }
}

impl Worker {
    /// Waits until the worker is asked to park.
    ///
    /// Cancel safety: yes.
    pub(crate) async fn wanted(&mut self) {
        // The sender is there as long as the hold.
        drop(self.wanted.wait_for(|is_wanted| *is_wanted).await);
    }

    /// Parks for as long as that is asked for: not at all if it is not.
    ///
    /// Cancel safety: yes. The worker is parked no longer then, and must not work on.
    pub(crate) async fn park(&mut self) {
        let Some(mut parked) = Parked::enter(&self.hold) else { return };
        while !parked.leave() {
            drop(self.wanted.wait_for(|is_wanted| !*is_wanted).await);
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let mut state = self.hold.state.lock();
        state.workers = state.workers.saturating_sub(1);
        drop(state);
        self.hold.changed.notify_waiters();
    }
}

/// Counted among the parked.
struct Parked<'a> {
    hold: &'a Hold,
    is_counted: bool,
}

impl<'a> Parked<'a> {
    fn enter(hold: &'a Hold) -> Option<Self> {
        let mut state = hold.state.lock();
        if !state.is_wanted {
            return None;
        }
        state.parked += 1;
        drop(state);
        hold.changed.notify_waiters();
        Some(Self { hold, is_counted: true })
    }

    /// Whether the worker may go on. Asked under the lock: who counts it as parked the next time
    /// must not meet one that has gone on already.
    fn leave(&mut self) -> bool {
        let mut state = self.hold.state.lock();
        if state.is_wanted {
            return false;
        }
        state.parked = state.parked.saturating_sub(1);
        self.is_counted = false;
        true
    }
}

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        if self.is_counted {
            let mut state = self.hold.state.lock();
            state.parked = state.parked.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures::FutureExt as _;

    use super::*;
    use crate::tasks;

    #[tokio::test]
    async fn a_worker_that_works_or_is_gone_is_told_from_one_that_is_parked() {
        let hold = Arc::new(Hold::default());
        let (mut one, other) = (hold.worker(), hold.worker());
        assert!(one.park().now_or_never().is_some());
        let held = hold.hold();
        let mut parked = Box::pin(one.park());
        assert!(futures::poll!(&mut parked).is_pending());
        assert!(held.all_parked().now_or_never().is_none());
        drop(other);
        assert!(held.all_parked().now_or_never().is_some());
        drop(held);
        parked.await;
        assert!(hold.hold().all_parked().now_or_never().is_none());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nothing_moves_while_all_are_parked_however_often_they_are_held() {
        let hold = Arc::new(Hold::default());
        let steps = Arc::new(AtomicU32::new(0));
        for _ in 0..4 {
            let (mut worker, steps) = (hold.worker(), Arc::clone(&steps));
            tasks::spawn(async move {
                while Arc::strong_count(&steps) > 1 {
                    worker.park().await;
                    // Odd while half done.
                    steps.fetch_add(1, Ordering::SeqCst);
                    steps.fetch_add(1, Ordering::SeqCst);
                    tokio::task::yield_now().await;
                }
            });
        }
        for _ in 0..2_000 {
            let held = hold.hold();
            held.all_parked().await;
            let before = steps.load(Ordering::SeqCst);
            assert_eq!(before % 2, 0);
            tokio::task::yield_now().await;
            assert_eq!(steps.load(Ordering::SeqCst), before);
        }
    }
}
