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
}

#[derive(Debug)]
struct Bell {
    rung: AtomicBool,
    task: AtomicWaker,
}

impl<F: Future> Quiet<F> {
    pub(crate) fn new(future: F) -> Self {
        let bell = Arc::new(Bell { rung: AtomicBool::new(true), task: AtomicWaker::new() });
        let waker = Waker::from(Arc::clone(&bell));
        Self { future: Box::pin(future), bell, waker }
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
        // First the task, then the bell: whoever rings in between wakes the task.
        this.bell.task.register(cx.waker());
        if !this.bell.rung.load(Ordering::Acquire) {
            return Poll::Pending;
        }
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
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Poll, Waker};

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
