//! Where what HTTP/2 runs beside a connection is run.

use lifecycle::TaskGroup;
use tokio_util::sync::CancellationToken;
use tracing::Span;

use crate::quiet::Quiet;

/// Runs the streams of an HTTP/2 connection side by side, as tasks of a group that end at `cut`.
#[derive(Debug, Clone)]
pub(crate) struct Streams {
    tasks: TaskGroup,
    cut: CancellationToken,
}

impl Streams {
    /// `cut` is the group's token, or a child of it.
    pub(crate) fn new(tasks: TaskGroup, cut: CancellationToken) -> Self {
        Self { tasks, cut }
    }
}

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let cut = Quiet::new(self.cut.clone().cancelled_owned());
        self.tasks.spawn(Span::current(), async move {
            tokio::select! {
                biased;
                () = stream => {}
                () = cut => {}
            }
        });
    }
}
