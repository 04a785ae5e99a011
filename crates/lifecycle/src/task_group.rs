use std::future::Future;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::{Budget, Expired};

/// Every task of one scope, its stop signal, and the count of who is still in.
#[derive(Debug, Clone, Default)]
pub struct TaskGroup {
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl TaskGroup {
    /// The signal every task of the group watches; cancelled by [`TaskGroup::close`].
    #[must_use]
    pub fn stop_token(&self) -> &CancellationToken {
        &self.stop
    }

    /// Starts `work` as a task of this group, inside `span`. The task is waited for by
    /// [`TaskGroup::close`]; it is never aborted.
    pub fn spawn(&self, span: tracing::Span, work: impl Future<Output = ()> + Send + 'static) {
        drop(self.tracker.spawn(work.instrument(span)));
    }

    /// How many tasks have not ended yet.
    #[must_use]
    pub fn running(&self) -> usize {
        self.tracker.len()
    }

    /// Asks every task to stop and waits for all of them. May be called again.
    ///
    /// Cancel safety: yes; dropping it only gives up the wait.
    ///
    /// # Errors
    /// [`Expired`] when tasks are still running at the end of `budget`.
    pub async fn close(&self, budget: Budget) -> Result<(), Expired> {
        self.tracker.close();
        self.stop.cancel();
        budget.run("task group close", self.tracker.wait()).await
    }
}
