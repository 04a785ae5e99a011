use std::sync::Arc;

use tokio::sync::watch;

/// Beats whenever something of the node changes that a drain could wait for.
#[derive(Debug, Clone)]
pub(crate) struct Pulse(Arc<watch::Sender<()>>);

impl Default for Pulse {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(())))
    }
}

impl Pulse {
    pub(crate) fn beat(&self) {
        self.0.send_replace(());
    }

    /// Every beat from now on; several in a row may be seen as one.
    pub(crate) fn listen(&self) -> Beats {
        Beats(self.0.subscribe())
    }
}

#[derive(Debug)]
pub(crate) struct Beats(watch::Receiver<()>);

impl Beats {
    /// Waits for the next beat that was not seen.
    ///
    /// Cancel safety: yes.
    pub(crate) async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            // The node is gone, and whoever listens with it soon.
            std::future::pending::<()>().await;
        }
    }

    /// Waits until `done` says so; asks now and after every beat.
    ///
    /// Cancel safety: yes.
    pub(crate) async fn until(&mut self, mut done: impl FnMut() -> bool) {
        while !done() {
            self.next().await;
        }
    }
}
