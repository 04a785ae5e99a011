//! Whom a connection calls when it can go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures::task::AtomicWaker;

use super::pool::Left;

/// Calls wake the task that used the connection last.
const USED: u8 = 0;
/// That task is at it, or will be: it looks at everything before it waits, and a call is noted only.
const HELD: u8 = 1;
/// It was called meanwhile.
const RUNG: u8 = 2;
/// Nobody uses the connection, and calls are for the sweep.
const UNUSED: u8 = 3;

/// What a connection, its answers and their bodies call.
///
/// They call each other most of the time. A task that waits for one and moves the other would be woken
/// by itself for what it has just seen.
#[derive(Debug)]
pub(super) struct Bell {
    tongue: Arc<Tongue>,
    /// The same, as what is polled sees it: always the same one, which is not replaced where it is
    /// kept already.
    waker: Waker,
}

#[derive(Debug)]
struct Tongue {
    state: AtomicU8,
    task: AtomicWaker,
    left: Arc<Left>,
}

impl Bell {
    /// Of a connection that is in use. `left` is called when it is not, and something becomes of it.
    pub(super) fn new(left: Arc<Left>) -> Self {
        let state = AtomicU8::new(HELD);
        let tongue = Arc::new(Tongue { state, task: AtomicWaker::new(), left });
        let waker = Waker::from(Arc::clone(&tongue));
        Self { tongue, waker }
    }

    /// Polls with `poll`, which looks at everything that calls. What calls before or meanwhile wakes
    /// the task of `cx` only if it waits for more; it does not have to come back for that otherwise.
    pub(super) fn hold<T>(
        &self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let Tongue { state, task, .. } = &*self.tongue;
        task.register(cx.waker());
        self.seen();
        let polled = poll(&mut Context::from_waker(&self.waker));
        let after = if polled.is_pending() { USED } else { HELD };
        if state.swap(after, Ordering::AcqRel) == RUNG && polled.is_pending() {
            cx.waker().wake_by_ref();
        }
        polled
    }

    /// Whatever has called is looked at after this.
    pub(super) fn seen(&self) {
        self.tongue.state.swap(HELD, Ordering::AcqRel);
    }

    /// Looks at a connection that is not used, with `poll`. What calls later is for the sweep, until
    /// the next look or [`Bell::hold`].
    pub(super) fn leave(&self, poll: impl FnOnce(&mut Context<'_>)) {
        self.tongue.state.swap(UNUSED, Ordering::AcqRel);
        poll(&mut Context::from_waker(&self.waker));
    }

    /// Looks at a connection that is about to be used, with `poll`.
    pub(super) fn take(&self, poll: impl FnOnce(&mut Context<'_>)) {
        self.seen();
        poll(&mut Context::from_waker(&self.waker));
    }
}

impl Wake for Tongue {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let note = |state| (state == HELD).then_some(RUNG);
        match self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, note) {
            Err(USED) => self.task.wake(),
            Err(UNUSED) => self.left.call(),
            _noted => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll, Wake, Waker};

    use super::super::pool::Left;
    use super::Bell;

    #[derive(Debug, Default)]
    struct Calls(AtomicUsize);

    impl Wake for Calls {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A bell, and how often the task and the sweep were called.
    struct Kit {
        bell: Bell,
        left: Arc<Left>,
        task: Arc<Calls>,
    }

    impl Kit {
        fn new() -> Self {
            let left = Arc::new(Left::new(Arc::default()));
            Self { bell: Bell::new(Arc::clone(&left)), left, task: Arc::default() }
        }

        fn hold(&self, poll: impl FnOnce(&Waker) -> Poll<()>) {
            let waker = Waker::from(Arc::clone(&self.task));
            let mut polled = None;
            let held = self
                .bell
                .hold(&mut Context::from_waker(&waker), |cx| *polled.insert(poll(cx.waker())));
            assert_eq!(Some(held), polled);
        }

        fn ring(&self) {
            self.bell.waker.wake_by_ref();
        }

        fn calls(&self) -> usize {
            self.task.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn a_task_that_waits_is_woken() {
        let kit = Kit::new();
        kit.hold(|_| Poll::Pending);
        assert_eq!(kit.calls(), 0);
        kit.ring();
        assert_eq!(kit.calls(), 1);
    }

    #[test]
    fn a_call_while_it_looks_wakes_it_only_if_it_waits_then() {
        let kit = Kit::new();
        let ring_and = |end| {
            move |waker: &Waker| {
                waker.wake_by_ref();
                end
            }
        };
        kit.hold(ring_and(Poll::Ready(())));
        assert_eq!(kit.calls(), 0);
        kit.hold(ring_and(Poll::Pending));
        assert_eq!(kit.calls(), 1);
    }

    #[test]
    fn what_was_seen_and_what_comes_before_the_next_look_wakes_nobody() {
        let kit = Kit::new();
        kit.hold(|waker| {
            waker.wake_by_ref();
            kit.bell.seen();
            Poll::Pending
        });
        assert_eq!(kit.calls(), 0);
        kit.hold(|_| Poll::Ready(()));
        kit.ring();
        assert_eq!(kit.calls(), 0);
    }

    #[test]
    fn what_becomes_of_an_unused_connection_is_for_the_sweep() {
        let kit = Kit::new();
        kit.hold(|_| Poll::Pending);
        kit.bell.leave(|_| {});
        kit.ring();
        assert!(kit.left.take());
        kit.bell.take(|_| {});
        kit.ring();
        assert!(!kit.left.take());
        assert_eq!(kit.calls(), 0);
    }
}
