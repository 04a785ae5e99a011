//! Following the nodes: ends as they happen, how each is, and a look at everything now and then.

use std::sync::Arc;
use std::time::Duration;

use node_wire::NodeEvent;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use crate::app::App;
use crate::nodes::Session;

/// However much happens on a node, it is asked how it is at most this often.
const ASK_PAUSE: Duration = Duration::from_millis(100);

/// Records what happens on the node until the control plane closes.
pub(crate) async fn follow(app: Arc<App>, session: Arc<Session>, mut events: Receiver<NodeEvent>) {
    let every = app.config.limits.reconcile_every;
    let mut look = interval_at(Instant::now() + every, every);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut open = true;
    loop {
        tokio::select! {
            biased;
            () = app.tasks.stop_token().cancelled() => break,
            event = events.recv(), if open => match event {
                Ok(event) => app.record(&session, event).await,
                Err(RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "events of a node were missed; comparing everything");
                    app.look(&session).await;
                }
                Err(RecvError::Closed) => {
                    tracing::warn!("a node tells no more events; comparing now and then");
                    open = false;
                }
            },
            _ = look.tick() => app.look(&session).await,
        }
    }
    // What the node said before we stopped is recorded, so that the next start finds little to do.
    loop {
        match events.try_recv() {
            Ok(event) => app.record(&session, event).await,
            Err(TryRecvError::Lagged(_)) => {}
            Err(TryRecvError::Empty | TryRecvError::Closed) => return,
        }
    }
}

/// Knows how the node is until the control plane closes: asks regularly, and when something
/// happened.
pub(crate) async fn attend(app: Arc<App>, session: Arc<Session>) {
    let stop = app.tasks.stop_token();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = session.poked() => {}
            () = sleep(app.config.limits.node_every) => {}
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = app.nodes.refresh(&session) => {}
        }
        if session.came_back() {
            // What ended while nobody heard of it, and what it can start.
            app.look(&session).await;
            app.try_sync_templates().await;
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = sleep(ASK_PAUSE) => {}
        }
    }
}

/// Removes old records now and then until the control plane closes.
pub(crate) async fn tidy(app: Arc<App>) {
    loop {
        tokio::select! {
            biased;
            () = app.tasks.stop_token().cancelled() => return,
            () = sleep(app.config.limits.reconcile_every) => {}
        }
        if let Err(error) = app.purge().await {
            let error = observe::chain(&error).to_string();
            tracing::warn!(error, "could not remove old records; will try again");
        }
    }
}

impl App {
    async fn record(&self, session: &Session, event: NodeEvent) {
        match event {
            NodeEvent::Ended { id, lifecycle, reason, at } => {
                self.routes.withdraw(&id, &lifecycle);
                tracing::info!(
                    sandbox.id = %id,
                    lifecycle.id = %lifecycle,
                    reason = reason.as_str(),
                    "sandbox ended"
                );
                session.poke();
                let (node, at) = (session.id(), at.into());
                let closed = self.store.sandbox_ended(&id, &lifecycle, node, reason, at).await;
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

    async fn look(self: &Arc<Self>, session: &Arc<Session>) {
        if let Err(error) = self.reconcile(session).await {
            let error = observe::chain(&error).to_string();
            tracing::warn!(error, "could not compare the records with a node; will try again");
        }
    }
}
