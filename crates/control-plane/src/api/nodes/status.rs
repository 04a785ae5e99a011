use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use e2b_wire::{NodeStatus, NodeStatusChange};
use http::StatusCode;
use lifecycle::Budget;
use model::{NodeId, NodeRequest};
use node_wire::{DrainStatus, StatusError};
use tracing::info_span;

use super::{CALL_LIMIT, ask, find, is_local, not_found};
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

/// The node as whoever asks has read it.
#[derive(Debug, Default)]
struct Expected {
    instance: Option<String>,
    epoch: Option<u64>,
}

impl Expected {
    fn is_anything(&self) -> bool {
        self.instance.is_some() || self.epoch.is_some()
    }

    /// Why the request is not meant for the node as it is.
    fn differs_from(&self, drain: &DrainStatus) -> Option<String> {
        let (instance, epoch) = (&drain.service_instance, drain.epoch);
        if let Some(expected) = self.instance.as_ref().filter(|expected| *expected != instance) {
            return Some(format!("is instance {instance} now, not {expected}"));
        }
        let expected = self.epoch.filter(|expected| *expected != epoch)?;
        Some(format!("is {} in epoch {epoch} now, not {expected}", drain.phase.as_str()))
    }
}

impl App {
    async fn change(
        &self,
        id: &NodeId,
        session: &Session,
        request: NodeRequest,
        expected: Expected,
    ) -> Result<(), ApiError> {
        // No other request comes between the look and the change. The node may go on by itself
        // meanwhile, but only further into a drain, out of which nothing leads.
        let _alone = session.changing.lock().await;
        if expected.is_anything() {
            let drain = ask(id, session, CALL_LIMIT, session.api().drain_status()).await?;
            if let Some(difference) = expected.differs_from(&drain) {
                let message = format!("node {id} {difference}; read it again");
                return Err(ApiError::new(StatusCode::CONFLICT, message));
            }
        }
        let asked = Budget::within(CALL_LIMIT).run("change", session.api().request(request)).await;
        let asked = asked.unwrap_or_else(|late| Err(StatusError::Unreachable(late.to_string())));
        if let Err(error) = asked {
            let reason = observe::chain(&error).to_string();
            match &error {
                StatusError::DrainIsFinal(_) => {
                    tracing::info!(?request, reason, "a node that drains keeps draining");
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
