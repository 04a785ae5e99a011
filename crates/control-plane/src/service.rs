use std::sync::Arc;

use axum::Router;
use lifecycle::{Budget, Expired};
use node_wire::{NodeApi, Routes, Waker};

use crate::app::{App, now};
use crate::config::Config;
use crate::nodes::Nodes;
use crate::reconcile::ReconcileError;
use crate::store::{Kind, Store, StoreError};
use crate::wake::Wakeful;
use crate::{http, samples, watch};

/// A running control plane. Close it: dropping it leaves its task running.
#[derive(Debug)]
#[must_use = "it has to be closed"]
pub struct ControlPlane {
    app: Arc<App>,
}

/// Why a control plane could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("open the store")]
    Store(#[source] StoreError),
    #[error("set up the team")]
    Team(#[source] StoreError),
    #[error("store the templates of the nodes")]
    Templates(#[source] StoreError),
    #[error("make the records say what the nodes have")]
    Reconcile(#[source] StoreError),
}

/// Work was still under way when the time for closing was over.
#[derive(Debug, thiserror::Error)]
#[error("close the control plane")]
pub struct CloseError(#[source] Expired);

impl ControlPlane {
    /// Opens the store, learns what the nodes have, and follows them from then on. A node that does
    /// not answer is waited for a moment and taken in when it does.
    ///
    /// # Errors
    /// [`StartError`] names what failed; nothing is left running then.
    pub async fn start(
        config: Config,
        nodes: Vec<Arc<dyn NodeApi>>,
        routes: Arc<dyn Routes>,
    ) -> Result<Self, StartError> {
        let store = Store::open(&config.database).await.map_err(StartError::Store)?;
        let nodes = Nodes::new(nodes, config.limits.node_answer);
        // Before the first look at a node, or an end between the two would be missed.
        let events: Vec<_> = nodes.all().iter().map(|session| session.api().events()).collect();
        let app = Arc::new(App::new(config, store, nodes, routes));
        if let Err(error) = prepare(&app).await {
            app.store.close().await;
            return Err(error);
        }
        for (session, events) in app.nodes.all().iter().zip(events) {
            let span = tracing::info_span!("node", node.id = tracing::field::Empty);
            if let Some(id) = session.id() {
                span.record("node.id", id.as_str());
            }
            let follow = watch::follow(Arc::clone(&app), Arc::clone(session), events);
            app.tasks.spawn(span.clone(), follow);
            app.tasks.spawn(span, watch::attend(Arc::clone(&app), Arc::clone(session)));
        }
        app.tasks.spawn(tracing::info_span!("tidy"), watch::tidy(Arc::clone(&app)));
        app.tasks.spawn(tracing::info_span!("samples"), samples::collect(Arc::clone(&app)));
        Ok(Self { app })
    }

    /// The API, to be served by whoever owns the listener. Every path that is not the API's is
    /// answered 404 by it.
    pub fn router(&self) -> Router {
        http::router(Arc::clone(&self.app))
    }

    /// Wakes paused sandboxes for the edge. Does not keep the control plane alive.
    pub fn waker(&self) -> Arc<dyn Waker> {
        Arc::new(Wakeful(Arc::downgrade(&self.app)))
    }

    /// Waits until no node says any more that it is starting, and the records say what each has: from
    /// then on new sandboxes are taken, and none that is gone is shown. A node that cannot be reached
    /// is not waited for.
    ///
    /// Cancel safety: yes.
    pub async fn nodes_started(&self) {
        for session in self.app.nodes.all() {
            session.started().await;
            session.in_the_records().await;
        }
    }

    /// Refuses new work, waits for what is under way, and closes the store. May be called again.
    ///
    /// # Errors
    /// [`CloseError`] when work was still under way at the end of `budget`; the store stays open.
    pub async fn close(&self, budget: Budget) -> Result<(), CloseError> {
        self.app.gate.shut();
        self.app.gate.wait_empty(budget).await.map_err(CloseError)?;
        self.app.tasks.close(budget).await.map_err(CloseError)?;
        budget.run("close the store", self.app.store.close()).await.map_err(CloseError)
    }
}

/// On a full disk the team stays as it is, if it is one that can be served.
async fn configure_team(app: &App) -> Result<(), StoreError> {
    let (team, key) = (&app.config.team, &app.config.api_key);
    match app.store.configure_team(team, key, now()).await {
        Err(error) if error.is_disk_full() => match app.store.holder(Kind::Key, &key.hash()).await?
        {
            Some(known) if known.team.id == team.id => {
                tell_full(&error);
                Ok(())
            }
            _ => Err(error),
        },
        configured => configured,
    }
}

/// Whoever runs can be reached and ended without a word of it written down.
fn tell_full(error: &StoreError) {
    let error = observe::chain(error).to_string();
    tracing::error!(error, "the disk is full; serving goes on with the records as they are");
}

async fn prepare(app: &Arc<App>) -> Result<(), StartError> {
    configure_team(app).await.map_err(StartError::Team)?;
    match app.sync_templates().await {
        Err(error) if error.is_disk_full() => tell_full(&error),
        synced => synced.map_err(StartError::Templates)?,
    }
    for session in app.nodes.all().iter().filter(|session| session.came_back()) {
        match app.reconcile(session).await {
            Ok(()) => {}
            // Compared again and again from now on.
            Err(ReconcileError::Store(error)) if error.is_disk_full() => {
                tell_full(&error);
                session.compared();
            }
            Err(ReconcileError::Store(error)) => return Err(StartError::Reconcile(error)),
            Err(error @ ReconcileError::Node(_)) => {
                let error = observe::chain(&error).to_string();
                tracing::warn!(error, "a node was not compared with the records; will try again");
            }
        }
    }
    Ok(())
}
