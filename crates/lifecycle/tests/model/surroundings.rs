//! What the checked files need around them: tasks that the checker schedules, and time that stands
//! still.

use std::future::Future;

use crate::Expired;

/// Never runs out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget;

impl Budget {
    pub(crate) async fn run<T>(
        self,
        _step: &'static str,
        work: impl Future<Output = T>,
    ) -> Result<T, Expired> {
        Ok(work.await)
    }
}

/// Where work is started.
#[derive(Debug, Clone, Copy)]
pub(crate) enum TaskGroup {
    Runs,
    /// Every task ends without having done its work, as one that panics does.
    Breaks,
}

impl TaskGroup {
    pub(crate) fn spawn(
        self,
        _span: tracing::Span,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        drop(shuttle::future::spawn(async move {
            match self {
                Self::Runs => work.await,
                Self::Breaks => drop(work),
            }
        }));
    }
}
