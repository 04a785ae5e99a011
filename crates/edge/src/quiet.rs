//! Waiting for a signal that nearly never comes, beside work that is woken all the time.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures::task::AtomicWaker;

/// A future that is polled when it has asked for it, and not whenever its task is.
///
/// Every look at a cancellation token takes locks that all connections share. With this a
/// connection looks once, and again when the token has called it.
pub(crate) struct Quiet<F> {
    future: Pin<Box<F>>,
    bell: Arc<Bell>,
    /// The bell, as the future sees it.
    waker: Waker,
    /// The task that hears the bell.
    listens: Option<Waker>,
}

#[derive(Debug)]
struct Bell {
    rung: AtomicBool,
    /// Taken by whoever rings.
    task: AtomicWaker,
}

impl<F: Future> Quiet<F> {
    pub(crate) fn new(future: F) -> Self {
        let bell = Arc::new(Bell { rung: AtomicBool::new(true), task: AtomicWaker::new() });
        let waker = Waker::from(Arc::clone(&bell));
        Self { future: Box::pin(future), bell, waker, listens: None }
    }
}

impl<F> fmt::Debug for Quiet<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quiet").field("bell", &self.bell).finish_non_exhaustive()
    }
}

impl<F: Future> Future for Quiet<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.get_mut();
        let hears = this.listens.as_ref().is_some_and(|task| task.will_wake(cx.waker()));
        if hears && !this.bell.rung.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        // First the task, then the bell: whoever rings in between wakes the task.
        this.bell.task.register(cx.waker());
        if !hears {
            this.listens = Some(cx.waker().clone());
        }
        if !this.bell.rung.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        // Whoever has rung may have taken the task, so it listens anew next time.
        this.listens = None;
        this.bell.rung.store(false, Ordering::Release);
        this.future.as_mut().poll(&mut Context::from_waker(&this.waker))
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.task.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll, Wake, Waker};

    use futures::poll;
    use parking_lot::Mutex;
    use tokio_util::sync::CancellationToken;

    use super::Quiet;

    #[tokio::test]
    async fn it_is_polled_once_and_when_it_has_called() {
        let polls = AtomicUsize::new(0);
        let kept = Mutex::new(None);
        let signal = std::future::poll_fn(|cx| {
            *kept.lock() = Some(cx.waker().clone());
            if polls.fetch_add(1, Ordering::Relaxed) == 1 { Poll::Ready(()) } else { Poll::Pending }
        });
        let mut quiet = pin!(Quiet::new(signal));
        for _ in 0..5 {
            assert!(poll!(quiet.as_mut()).is_pending());
        }
        assert_eq!(polls.load(Ordering::Relaxed), 1);
        let called: Waker = kept.lock().take().unwrap();
        called.wake();
        assert!(poll!(quiet.as_mut()).is_ready());
    }

    /// One that calls twice, and is asked by another task in between.
    #[tokio::test]
    async fn every_call_wakes_whoever_asked_last() {
        let kept = Mutex::new(None);
        let signal = std::future::poll_fn(|cx| {
            *kept.lock() = Some(cx.waker().clone());
            Poll::<()>::Pending
        });
        let mut quiet = pin!(Quiet::new(signal));
        let (one, two) = (Arc::new(Task::default()), Arc::new(Task::default()));
        let turns = [(&one, 1), (&one, 2), (&two, 1), (&one, 3), (&two, 2), (&two, 3)];
        for (task, woken) in turns {
            let waker = Waker::from(Arc::clone(task));
            for _ in 0..3 {
                assert!(quiet.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            }
            let call: Waker = kept.lock().clone().unwrap();
            call.wake();
            assert_eq!(task.0.load(Ordering::Relaxed), woken);
        }
    }

    #[derive(Debug, Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn a_signal_wakes_whoever_waits_now() {
        let token = CancellationToken::new();
        let quiet = Quiet::new(token.clone().cancelled_owned());
        let (waits, ()) = tokio::join!(quiet, async {
            tokio::task::yield_now().await;
            token.cancel();
        });
        waits
    }
}
