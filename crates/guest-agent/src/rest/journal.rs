//! `GET /journal`: what the agent has noted of itself, for the node alone.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::response::IntoResponse;
use serde::Deserialize;

use super::NO_STORE;
use crate::agent::Agent;

/// The last line the node knows.
#[derive(Debug, Deserialize)]
pub(crate) struct JournalQuery {
    run: Option<String>,
    #[serde(default)]
    after: u64,
}

pub(crate) async fn journal(
    State(agent): State<Arc<Agent>>,
    Query(query): Query<JournalQuery>,
) -> impl IntoResponse {
    ([NO_STORE], Json(agent.journal.after(query.run.as_deref(), query.after)))
}
