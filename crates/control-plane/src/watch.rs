//! Following the nodes: ends and pauses as they happen, how each is, and a look at everything now and
//! then.

mod pauses;

use std::sync::Arc;
use std::time::Duration;

use model::EndReason;
use node_wire::NodeEvent;
use observe::metrics::{LOST, LOST_EVENTS};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until};

use crate::app::App;
use crate::nodes::{Link, Session};
use crate::reconcile::ReconcileError;
use crate::store::Paused;

/// However much happens on a node, it is asked how it is at most this often.
const ASK_PAUSE: Duration = Duration::from_millis(100);

/// Between two tries to hear the events of a node that answers and does not tell them.
const LISTEN_PAUSE: Duration = Duration::from_secs(1);

/// Between two tries to write down what could not be.
const CATCH_UP_PAUSE: Duration = Duration::from_secs(1);

/// Records what happens on the node until the control plane closes. Every comparison with the node
/// is made here, one after the other.
pub(crate) async fn follow(app: Arc<App>, session: Arc<Session>, mut events: Receiver<NodeEvent>) {
    let every = app.config.limits.reconcile_every;
    let mut look = interval_at(Instant::now() + every, every);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut open = true;
    let mut listen_at = Instant::now();
    loop {
        tokio::select! {
            biased;
            () = app.tasks.stop_token().cancelled() => break,
            event = events.recv(), if open => match event {
                Ok(event) => {
                    app.record(&session, event).await;
                    app.turn();
                }
                Err(RecvError::Lagged(missed)) => {
                    LOST.add(LOST_EVENTS, missed);
                    tracing::warn!(missed, "events of a node were missed; comparing everything");
                    app.look(&session).await;
                }
                Err(RecvError::Closed) => {
                    tracing::warn!("a node tells no more events; it is asked for new ones");
                    open = false;
                    listen_at = Instant::now() + LISTEN_PAUSE;
                }
            },
            () = session.to_be_compared() => {
                // Before the look at it, or what ends between the two would be missed.
                if !open {
                    (events, open) = (session.api().events(), true);
                }
                app.look(&session).await;
            }
            () = sleep_until(listen_at), if !open => {
                listen_at = Instant::now() + LISTEN_PAUSE;
                if session.link() == Link::Up {
                    session.compare_soon();
                }
            }
            _ = look.tick() => app.look(&session).await,
        }
    }
    // What the node said before we stopped is recorded, so that the next start finds little to do.
    loop {
        match events.try_recv() {
            Ok(event) => app.record(&session, event).await,
            Err(TryRecvError::Lagged(missed)) => LOST.add(LOST_EVENTS, missed),
            Err(TryRecvError::Empty | TryRecvError::Closed) => return,
        }
    }
}

/// Knows how the node is until the control plane closes: asks regularly, and when something
/// happened.
pub(crate) async fn attend(app: Arc<App>, session: Arc<Session>) {
    let stop = app.tasks.stop_token();
    loop {
        // One that starts is about to be open, which its clients wait for.
        let pause = match session.is_starting() {
            true => ASK_PAUSE,
            false => app.config.limits.node_every,
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = session.poked() => {}
            () = sleep(pause) => {}
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = app.nodes.refresh(&session) => {}
        }
        if session.came_back() {
            // What it can start, and what it has and what ended while nobody heard of it.
            app.try_sync_templates().await;
            session.compare_soon();
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = sleep(ASK_PAUSE) => {}
        }
    }
}

/// Removes old records now and then, and writes down what could not be, until the control plane
/// closes.
pub(crate) async fn tidy(app: Arc<App>) {
    loop {
        let every = app.config.limits.reconcile_every;
        let pause = if app.store.is_behind() { every.min(CATCH_UP_PAUSE) } else { every };
        tokio::select! {
            biased;
            () = app.tasks.stop_token().cancelled() => return,
            () = sleep(pause) => {}
        }
        if let Err(error) = app.store.catch_up().await {
            let error = observe::chain(&error).to_string();
            tracing::warn!(error, "ends of sandboxes are still not written down; will try again");
            continue;
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
            // What ran is over, and the sandbox is not.
            NodeEvent::Ended { id, lifecycle, reason: EndReason::Paused, at } => {
                self.routes.withdraw(&id, &lifecycle);
                let files_only = Paused { at: at.into(), memory: false, agent_silent: false };
                self.heard_paused(session, &id, &lifecycle, files_only).await;
            }
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
                match closed {
                    Ok(true) => {}
                    Ok(false) => self.ended_while_paused(session, &id, &lifecycle).await,
                    Err(error) => {
                        let error = observe::chain(&error).to_string();
                        tracing::error!(error, "a row stays open until the next reconciliation");
                        session.compare_soon();
                    }
                }
                // A comparison that did not know yet may have put the route back meanwhile.
                self.routes.withdraw(&id, &lifecycle);
            }
            // Its row was closed when it ended; what is left is the node's to release.
            NodeEvent::TornDown { id, lifecycle, reason, forced, left, .. } => {
                let span = tracing::error_span!(
                    "torn down",
                    sandbox.id = %id,
                    lifecycle.id = %lifecycle,
                    reason = reason.as_str(),
                    forced,
                );
                span.in_scope(|| match &left[..] {
                    [] => tracing::info!("sandbox was ended by force"),
                    left => tracing::warn!(?left, "sandbox is stuck"),
                });
            }
            NodeEvent::Pausing { id, lifecycle, .. } => {
                self.heard_pausing(session, &id, &lifecycle).await
            }
            NodeEvent::Paused { id, lifecycle, memory, agent_silent, at } => {
                let paused = Paused { at: at.into(), memory, agent_silent };
                self.heard_paused(session, &id, &lifecycle, paused).await;
            }
            // Who asked for the pause has heard so; of one the node began by itself it says more.
            NodeEvent::Resumed { .. } => session.compare_soon(),
            // We moved it and recorded it before this came; an event that overtook a later move
            // would only put an old end back.
            NodeEvent::EndMoved { .. } => {}
        }
    }

    async fn look(self: &Arc<Self>, session: &Arc<Session>) {
        if let Err(error) = self.reconcile(session).await {
            // There is no room to write anything down: whoever waits for that would wait for room,
            // and what runs can be served without.
            if matches!(&error, ReconcileError::Store(error) if error.is_disk_full()) {
                session.compared();
            }
            let error = observe::chain(&error).to_string();
            tracing::warn!(error, "could not compare the records with a node; will try again");
        }
        self.turn();
    }
}
