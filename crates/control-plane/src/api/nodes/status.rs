use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use e2b_wire::{NodeStatus, NodeStatusChange};
use http::StatusCode;
use lifecycle::Budget;
use model::{NodeId, NodeRequest};
use node_wire::{Expected, StatusError};
use tracing::info_span;

use super::{CALL_LIMIT, find, is_local, not_found};
use crate::app::App;
use crate::auth::Admin;
use crate::http::{ApiError, JsonBody, Segment};
use crate::node_answers;
use crate::nodes::Session;

/// Asks a node for another status. Answers when it is in force; forcing goes on after that.
pub(crate) async fn change_status(
    State(app): State<Arc<App>>,
    _: Admin,
    Segment(id): Segment,
    body: JsonBody<NodeStatusChange>,
) -> Result<Response, ApiError> {
    let NodeStatusChange { status, cluster_id, force_stop, service_instance_id, epoch } =
        body.value;
    let local = is_local(cluster_id.as_deref())?;
    let forced = force_stop.unwrap_or(false);
    if forced && status != NodeStatus::Draining {
        let message = "forceStop goes with status draining only";
        return Err(ApiError::bad_request(message));
    }
    let Some((id, session)) = find(&app, &id).filter(|_| local) else { return Ok(not_found()) };
    let request = match status {
        NodeStatus::Ready => NodeRequest::Healthy,
        NodeStatus::Standby => NodeRequest::Standby,
        NodeStatus::Unhealthy => NodeRequest::Unhealthy,
        NodeStatus::Draining if forced => NodeRequest::DrainForced,
        NodeStatus::Draining => NodeRequest::Drain,
        NodeStatus::Connecting => {
            let message = "connecting is what a node is, not what it can be asked for; ask for \
                           ready, draining, unhealthy or standby";
            return Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message));
        }
    };
    let span = info_span!("node status", node.id = %id);
    let (changer, session) = (Arc::clone(&app), Arc::clone(session));
    let expected = Expected { instance: service_instance_id, epoch };
    let work = async move { changer.change(&id, &session, request, expected).await };
    app.owned(span, work).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

impl App {
    async fn change(
        &self,
        id: &NodeId,
        session: &Session,
        request: NodeRequest,
        expected: Expected,
    ) -> Result<(), ApiError> {
        let asked = session.api().request_if(request, expected);
        let asked = Budget::within(CALL_LIMIT).run("change", asked).await;
        let asked = asked.unwrap_or_else(|late| Err(StatusError::Unreachable(late.to_string())));
        if let Err(error) = asked {
            let reason = observe::chain(&error).to_string();
            match &error {
                StatusError::DrainIsFinal(_) => {
                    tracing::info!(?request, reason, "a node that drains keeps draining");
                }
                StatusError::Stale(_) => {
                    tracing::info!(?request, reason, "a request was meant for the node as it was");
                }
                StatusError::Unreachable(_) | StatusError::Internal(_) => {
                    tracing::warn!(?request, error = reason, "a node was not asked for a status");
                }
            }
            session.poke();
            return Err(node_answers::status_failed(&error, id));
        }
        tracing::info!(?request, "a node was asked for a status");
        // Whoever reads the node after this answer finds the change; when the node does not say,
        // its change holds all the same.
        self.nodes.refresh(session).await;
        Ok(())
    }
}
