//! What runs beside a connection, and ends with it.

use lifecycle::TaskGroup;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::Span;

/// Work for one connection: it ends when this is dropped, or when the proxy closes, which waits for
/// it. A socket that outlived its proxy would keep the sandbox's network.
#[derive(Debug)]
pub(crate) struct Beside {
    runner: Runner,
    _end: DropGuard,
}

/// Who starts it.
#[derive(Debug, Clone)]
pub(crate) struct Runner {
    tasks: TaskGroup,
    stop: CancellationToken,
}

impl Beside {
    pub(crate) fn new(tasks: &TaskGroup) -> Self {
        let stop = tasks.stop_token().child_token();
        let runner = Runner { tasks: tasks.clone(), stop: stop.clone() };
        Self { runner, _end: stop.drop_guard() }
    }

    pub(crate) fn runner(&self) -> Runner {
        self.runner.clone()
    }
}

impl Runner {
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(Span::current(), async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = work => {}
            }
        });
    }
}

/// The streams of HTTP/2.
impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Runner {
    fn execute(&self, stream: F) {
        self.spawn(stream);
    }
}
