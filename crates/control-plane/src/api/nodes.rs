//! The nodes, for operators.

mod sandboxes;
mod status;
mod watch;
mod wire;

pub(crate) use sandboxes::{kill as kill_sandbox, list as sandboxes};
pub(crate) use status::change_status;

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use e2b_wire::{Node, NodeLeaks};
use http::StatusCode;
use model::NodeId;
use node_wire::NodeError;
use serde::Deserialize;
use uuid::Uuid;

use crate::app::App;
use crate::auth::Admin;
use crate::http::{ApiError, Params, Segment};
use crate::node_answers;
use crate::nodes::Session;

/// How long a node may take to answer an operator.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// The same for a census, which has half a minute on the node.
const CENSUS_LIMIT: Duration = Duration::from_secs(40);

#[derive(Debug, Deserialize)]
pub(crate) struct ClusterQuery {
    #[serde(rename = "clusterID")]
    cluster_id: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct DrainQuery {
    watch: Option<bool>,
}

pub(crate) async fn list(
    State(app): State<Arc<App>>,
    _: Admin,
    Params(query): Params<ClusterQuery>,
) -> Result<Json<Option<Vec<Node>>>, ApiError> {
    let local = is_local(query.cluster_id.as_deref())?;
    let sessions = app.nodes.all().iter().filter(|_| local);
    let mut nodes: Vec<Node> = sessions.filter_map(|session| wire::row(session)).collect();
    nodes.sort_by(|a, b| a.detail.id.cmp(&b.detail.id));
    // Null, not an empty list: as E2B does it.
    Ok(Json((!nodes.is_empty()).then_some(nodes)))
}

pub(crate) async fn get(
    State(app): State<Arc<App>>,
    _: Admin,
    Segment(id): Segment,
    Params(query): Params<ClusterQuery>,
) -> Result<Response, ApiError> {
    let local = is_local(query.cluster_id.as_deref())?;
    let row = find(&app, &id).filter(|_| local).and_then(|(_, session)| wire::row(session));
    Ok(row.map_or_else(not_found, |row| Json(row.detail).into_response()))
}

/// The drain as the node sees it now, or a stream of it.
pub(crate) async fn drain(
    State(app): State<Arc<App>>,
    _: Admin,
    Segment(id): Segment,
    Params(query): Params<DrainQuery>,
) -> Result<Response, ApiError> {
    let Some((id, session)) = find(&app, &id) else { return Ok(not_found()) };
    if query.watch == Some(true) {
        return watch::drain(&app, &id, session).await;
    }
    let drain = session.api().drain_status();
    Ok(Json(wire::drain(&ask(&id, session, CALL_LIMIT, drain).await?)).into_response())
}

/// A census of the node's host.
pub(crate) async fn leaks(
    State(app): State<Arc<App>>,
    _: Admin,
    Segment(id): Segment,
) -> Result<Response, ApiError> {
    let Some((id, session)) = find(&app, &id) else { return Ok(not_found()) };
    let leaks = ask(&id, session, CENSUS_LIMIT, session.api().leaks()).await?;
    let leaks: NodeLeaks = wire::leaks(leaks);
    Ok(Json(leaks).into_response())
}

/// Waits for a node's answer to an operator's question.
async fn ask<T>(
    id: &NodeId,
    session: &Session,
    limit: Duration,
    question: impl Future<Output = Result<T, NodeError>>,
) -> Result<T, ApiError> {
    session.within(limit, question).await.map_err(|error| {
        tracing::warn!(node.id = %id, error = %observe::chain(&error), "a node gave no answer");
        node_answers::question_failed(&error, id)
    })
}

fn find<'a>(app: &'a App, id: &str) -> Option<(NodeId, &'a Arc<Session>)> {
    let id = NodeId::parse(id).ok()?;
    app.nodes.get(&id).map(|session| (id, session))
}

/// Without a body, as E2B does it.
fn not_found() -> Response {
    StatusCode::NOT_FOUND.into_response()
}

/// Whether a cluster is ours: one installation is one cluster, the one E2B calls local.
fn is_local(cluster_id: Option<&str>) -> Result<bool, ApiError> {
    let Some(text) = cluster_id else { return Ok(true) };
    let cluster = Uuid::try_parse(text).map_err(|_not_a_uuid| {
        ApiError::validation(format!("clusterID is {text:?} and must be a UUID"))
    })?;
    Ok(cluster.is_nil())
}
