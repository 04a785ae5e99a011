//! Following the node: ends as they happen, and a look at everything now and then.

use std::sync::Arc;

use node_wire::NodeEvent;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::app::App;

/// Records what happens on the node until the control plane closes.
pub(crate) async fn follow(app: Arc<App>, mut events: Receiver<NodeEvent>) {
    let every = app.config.limits.reconcile_every;
    let mut look = interval_at(Instant::now() + every, every);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut open = true;
    loop {
        tokio::select! {
            biased;
            () = app.tasks.stop_token().cancelled() => break,
            event = events.recv(), if open => match event {
                Ok(event) => app.record(event).await,
                Err(RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "events of the node were missed; comparing everything");
                    app.look().await;
                }
                Err(RecvError::Closed) => {
                    tracing::warn!("the node tells no more events; comparing now and then");
                    open = false;
                }
            },
            _ = look.tick() => app.look().await,
        }
    }
    // What the node said before we stopped is recorded, so that the next start finds little to do.
    loop {
        match events.try_recv() {
            Ok(event) => app.record(event).await,
            Err(TryRecvError::Lagged(_)) => {}
            Err(TryRecvError::Empty | TryRecvError::Closed) => return,
        }
    }
}

impl App {
    async fn record(&self, event: NodeEvent) {
        match event {
            NodeEvent::Ended { id, lifecycle, reason, at } => {
                self.routes.withdraw(&id, &lifecycle);
                tracing::info!(
                    sandbox.id = %id,
                    lifecycle.id = %lifecycle,
                    reason = reason.as_str(),
                    "sandbox ended"
                );
                let closed = self.store.sandbox_ended(&id, &lifecycle, reason, at.into()).await;
                if let Err(error) = closed {
                    let error = observe::chain(&error).to_string();
                    tracing::error!(error, "a row stays open until the next reconciliation");
                }
            }
            // We moved it and recorded it before this came; an event that overtook a later move
            // would only put an old end back.
            NodeEvent::EndMoved { .. } => {}
        }
    }

    async fn look(&self) {
        if let Err(error) = self.reconcile().await {
            let error = observe::chain(&error).to_string();
            tracing::warn!(error, "could not compare the records with the node; will try again");
        }
        if let Err(error) = self.purge().await {
            let error = observe::chain(&error).to_string();
            tracing::warn!(error, "could not remove old records; will try again");
        }
    }
}
