use std::sync::Arc;

use axum::Router;
use lifecycle::{Budget, Expired};
use node_wire::{NodeApi, Routes};

use crate::app::{App, now};
use crate::catalog::SyncError;
use crate::config::Config;
use crate::reconcile::ReconcileError;
use crate::store::{Store, StoreError};
use crate::{http, watch};

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
    #[error("learn the templates of the node")]
    Templates(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("compare the records with the node")]
    Reconcile(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Work was still under way when the time for closing was over.
#[derive(Debug, thiserror::Error)]
#[error("close the control plane")]
pub struct CloseError(#[source] Expired);

impl ControlPlane {
    /// Opens the store, learns what the node has, and follows it from then on.
    ///
    /// # Errors
    /// [`StartError`] names what failed; nothing is left running then.
    pub async fn start(
        config: Config,
        node: Arc<dyn NodeApi>,
        routes: Arc<dyn Routes>,
    ) -> Result<Self, StartError> {
        let store = Store::open(&config.database).await.map_err(StartError::Store)?;
        // Before the first look at the node, or an end between the two would be missed.
        let events = node.events();
        let app = Arc::new(App::new(config, store, node, routes));
        if let Err(error) = prepare(&app).await {
            app.store.close().await;
            return Err(error);
        }
        app.tasks.spawn(tracing::info_span!("watch"), watch::follow(Arc::clone(&app), events));
        Ok(Self { app })
    }

    /// The API, to be served by whoever owns the listener. Every path that is not the API's is
    /// answered 404 by it.
    pub fn router(&self) -> Router {
        http::router(Arc::clone(&self.app))
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

async fn prepare(app: &App) -> Result<(), StartError> {
    let (team, key) = (&app.config.team, app.config.api_key.hash());
    app.store.configure_team(team, &key, now()).await.map_err(StartError::Team)?;
    app.sync_templates()
        .await
        .map_err(|error: SyncError| StartError::Templates(Box::new(error)))?;
    app.reconcile().await.map_err(|error: ReconcileError| StartError::Reconcile(Box::new(error)))
}
