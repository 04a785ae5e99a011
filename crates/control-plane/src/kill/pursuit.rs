//! Sending a kill again until it is confirmed.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use model::SandboxId;
use node_wire::NodeError;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::app::App;
use crate::store::{End, RowState, StoreError};

/// The pause after a kill that was not confirmed: this long, then twice as long, and so on. The
/// return of the node, and every comparison of the records with it, ends a pause.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// The sandboxes whose end was asked for and is not confirmed, as far as they are in hand.
#[derive(Debug, Default)]
pub(crate) struct Pursuits(Mutex<HashMap<SandboxId, Arc<Watched>>>);

#[derive(Debug, Default)]
struct Watched {
    now: Notify,
    seen: Mutex<Pursuit>,
}

/// How far it is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pursuit {
    /// How often the order was sent again.
    pub(crate) sent: u32,
    /// Why the last one was not confirmed.
    pub(crate) last_error: Option<NodeError>,
}

enum Sent {
    /// It is gone, or nobody wants it gone any more.
    Over,
    Unconfirmed(NodeError),
}

impl Pursuits {
    pub(crate) fn of(&self, id: &SandboxId) -> Option<Pursuit> {
        self.0.lock().get(id).map(|watched| watched.seen.lock().clone())
    }
}

impl App {
    /// Sees to it that a sandbox whose record says that its end was asked for gets it, as somebody
    /// has just tried without success.
    pub(crate) fn pursue(self: &Arc<Self>, id: &SandboxId) {
        self.in_hand(id);
    }

    /// The same at once: its node was heard a moment ago.
    pub(crate) fn pursue_now(self: &Arc<Self>, id: &SandboxId) {
        self.in_hand(id).now.notify_one();
    }

    fn in_hand(self: &Arc<Self>, id: &SandboxId) -> Arc<Watched> {
        let mut pursuits = self.pursuits.0.lock();
        match pursuits.entry(id.clone()) {
            Entry::Occupied(known) => Arc::clone(known.get()),
            Entry::Vacant(free) => {
                let watched = Arc::clone(free.insert(Arc::default()));
                drop(pursuits);
                let span = tracing::info_span!(parent: None, "pursuit", sandbox.id = %id);
                let (app, id) = (Arc::clone(self), id.clone());
                let hunt = Hunt { app, id, watched: Arc::clone(&watched) };
                self.tasks.spawn(span, hunt.run());
                watched
            }
        }
    }
}

/// One entry of [`Pursuits`]; dropping it takes it out.
struct Hunt {
    app: Arc<App>,
    id: SandboxId,
    watched: Arc<Watched>,
}

impl Hunt {
    async fn run(self) {
        let stop = self.app.tasks.stop_token().clone();
        let mut pause = FIRST_PAUSE;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.watched.now.notified() => {}
                () = sleep(pause) => {}
            }
            pause = (pause * 2).min(MAX_PAUSE);
            let error = match self.send().await {
                Ok(Sent::Over) => return,
                Ok(Sent::Unconfirmed(error)) => error,
                Err(error) => NodeError::Internal(observe::chain(&error).to_string()),
            };
            let mut seen = self.watched.seen.lock();
            seen.sent += 1;
            tracing::warn!(
                sent = seen.sent,
                error = %observe::chain(&error),
                again_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
                "a kill is not confirmed; it will be sent again"
            );
            seen.last_error = Some(error);
        }
    }

    async fn send(&self) -> Result<Sent, StoreError> {
        let app = &self.app;
        let row = app.store.live_sandbox(&self.id).await?;
        let Some(row) = row.filter(|row| row.state == RowState::Killing) else {
            return Ok(Sent::Over);
        };
        // One that became known only after the end was asked for.
        if let Some(lifecycle) = &row.lifecycle {
            app.routes.withdraw(&row.id, lifecycle);
        }
        let Ok(node) = app.node_of(&row) else {
            return Ok(Sent::Unconfirmed(NodeError::Unreachable("its node is not known".into())));
        };
        let end = match app.order_end(node, &row).await {
            Ok(()) => End::as_asked(),
            Err(NodeError::NotFound(_)) => app.end_of(node, &row).await,
            // The node has the order, and tries again itself.
            Err(NodeError::Stuck { .. }) => return Ok(Sent::Over),
            Err(error) => return Ok(Sent::Unconfirmed(error)),
        };
        app.killed(&self.id, RowState::Killing, end).await?;
        Ok(Sent::Over)
    }
}

impl Drop for Hunt {
    fn drop(&mut self) {
        self.app.pursuits.0.lock().remove(&self.id);
    }
}
