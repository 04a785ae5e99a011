//! The sandboxes of a node as it has them, for operators: of every team, and those that are stuck.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use e2b_wire::NodeSandbox;
use http::StatusCode;
use model::{NodeId, SandboxPhase};
use node_wire::{PausedStatus, SandboxStatus};
use tracing::info_span;

use super::{CALL_LIMIT, ask, find, not_found};
use crate::app::App;
use crate::auth::Admin;
use crate::http::{ApiError, NodeSandboxPath, Segment};

/// Everything on the node that may still hold something, and what is paused, the oldest first.
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    _: Admin,
    Segment(id): Segment,
) -> Result<Response, ApiError> {
    let Some((id, session)) = find(&app, &id) else { return Ok(not_found()) };
    let mut listed = ask(&id, session, CALL_LIMIT, session.api().list()).await?;
    let paused = ask(&id, session, CALL_LIMIT, session.api().paused()).await?;
    listed.sort_by(|a, b| a.started_at.cmp(&b.started_at).then_with(|| a.id.cmp(&b.id)));
    let mut listed: Vec<NodeSandbox> = listed.into_iter().map(|status| row(&id, status)).collect();
    // Those whose memory is there are in the list already.
    let files_only = paused.into_iter().filter(|paused| !paused.memory);
    listed.extend(files_only.map(|paused| paused_row(&id, paused)));
    Ok(Json(listed).into_response())
}

/// Ends a sandbox on the node, with or without a record of it, and answers when all it held is
/// released. Tries again what is stuck: 409 says what is left then.
pub(crate) async fn kill(
    State(app): State<Arc<App>>,
    _: Admin,
    NodeSandboxPath(node, id): NodeSandboxPath,
) -> Result<Response, ApiError> {
    let Some((node, session)) = find(&app, &node) else { return Ok(not_found()) };
    let span = info_span!("kill", node.id = %node, sandbox.id = %id);
    let work = Arc::clone(&app).kill_on_node(node, Arc::clone(session), id);
    app.owned(span, work).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn row(node: &NodeId, status: SandboxStatus) -> NodeSandbox {
    NodeSandbox {
        sandbox_id: status.id.to_string(),
        lifecycle_id: status.lifecycle.to_string(),
        node_id: node.to_string(),
        team_id: status.team.to_string(),
        template_id: status.template.to_string(),
        state: words(status.phase).to_owned(),
        started_at: status.started_at.into(),
        end_at: status.ends_at.into(),
        cpu_count: status.resources.vcpus,
        memory_mb: status.resources.memory_mib,
        disk_size_mb: status.resources.disk_mib,
        metadata: status.metadata,
        left: status.left,
    }
}

/// One of which only the files are kept: nothing of it runs.
fn paused_row(node: &NodeId, paused: PausedStatus) -> NodeSandbox {
    NodeSandbox {
        sandbox_id: paused.id.to_string(),
        lifecycle_id: paused.lifecycle.to_string(),
        node_id: node.to_string(),
        team_id: paused.team.to_string(),
        template_id: paused.template.to_string(),
        state: "paused-files".to_owned(),
        started_at: paused.started_at.into(),
        end_at: paused.paused_at.into(),
        cpu_count: paused.resources.vcpus,
        memory_mb: paused.resources.memory_mib,
        disk_size_mb: paused.resources.disk_mib,
        metadata: paused.metadata,
        left: Vec::new(),
    }
}

const fn words(phase: SandboxPhase) -> &'static str {
    match phase {
        SandboxPhase::Reserved => "reserved",
        SandboxPhase::Booting => "booting",
        SandboxPhase::Live => "live",
        SandboxPhase::Checkpointing => "checkpointing",
        SandboxPhase::Pausing => "pausing",
        SandboxPhase::Paused => "paused",
        SandboxPhase::Stopping => "stopping",
        SandboxPhase::TearingDown => "tearing-down",
        SandboxPhase::Stuck => "stuck",
        SandboxPhase::Stopped => "stopped",
    }
}
