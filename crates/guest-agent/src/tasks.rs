//! The one place that starts background work.
//!
//! The agent has no shutdown that must wait for tasks: when it ends, the kernel ends its whole
//! sandbox. So a task here is owned by what it serves (a connection, a process, a watcher) and
//! ends with it; nothing needs to be joined, and this crate has no task group.

use std::future::Future;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Runs `work` beside everything else. `work` must end by itself when what it serves is gone.
pub(crate) fn spawn(work: impl Future<Output = ()> + Send + 'static) {
    #[expect(clippy::disallowed_methods, reason = "the documented helper of this crate")]
    drop(tokio::spawn(work));
}

/// Runs `work` to its end even if whoever waits for it goes away. `None` only if `work` panicked.
///
/// Cancel safety: yes, the answer is lost and the work is not.
pub(crate) async fn detached<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    let (answer, asked) = oneshot::channel();
    spawn(async move {
        // Nobody waiting any more is what this function is for.
        drop(answer.send(work.await));
    });
    asked.await.ok()
}

/// Runs `work` on a thread where it may block. `None` only if `work` panicked.
///
/// Cancel safety: yes, the answer is lost and the work is not.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

/// Runs `work` after a time, unless what this gives is dropped before. Once begun it goes on.
pub(crate) fn unless_dropped(
    after: Duration,
    work: impl Future<Output = ()> + Send + 'static,
) -> DropGuard {
    let dropped = CancellationToken::new();
    let guard = dropped.clone().drop_guard();
    spawn(async move {
        let not_dropped = dropped.run_until_cancelled(tokio::time::sleep(after)).await;
        if not_dropped.is_some() {
            work.await;
        }
    });
    guard
}

/// Gives `work` at most `limit`; `None` when it took longer and was dropped.
pub(crate) async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = work => Some(done),
        () = tokio::time::sleep(limit) => None,
    }
}
