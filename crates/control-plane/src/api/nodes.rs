use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use e2b_wire::{Enforcement, MachineInfo, Node, NodeDetail, NodeMetrics};
use http::StatusCode;
use model::NodePhase;
use node_wire::NodeInfo;
use uuid::Uuid;

use crate::app::App;
use crate::auth::Admin;
use crate::http::{ApiError, Segment};

pub(crate) async fn list(
    State(app): State<Arc<App>>,
    _: Admin,
) -> Result<Json<Vec<Node>>, ApiError> {
    let info = info(&app).await?;
    let sandbox_starting_count = info.starting;
    Ok(Json(vec![Node { detail: detail(&app, info), sandbox_starting_count }]))
}

pub(crate) async fn get(
    State(app): State<Arc<App>>,
    _: Admin,
    Segment(id): Segment,
) -> Result<Response, ApiError> {
    let info = info(&app).await?;
    if info.id.as_str() != id {
        // Without a body, as E2B does it.
        return Ok(StatusCode::NOT_FOUND.into_response());
    }
    Ok(Json(detail(&app, info)).into_response())
}

async fn info(app: &App) -> Result<NodeInfo, ApiError> {
    app.node.info().await.map_err(|error| {
        tracing::error!(error = %observe::chain(&error), "the node does not tell its state");
        ApiError::internal()
    })
}

fn detail(app: &App, info: NodeInfo) -> NodeDetail {
    NodeDetail {
        service_instance_id: info.id.to_string(),
        id: info.id.to_string(),
        // One installation is one cluster, the one E2B calls local.
        cluster_id: Uuid::nil().to_string(),
        version: info.version,
        commit: String::new(),
        status: status(info.phase).to_owned(),
        sandbox_count: info.sandboxes,
        create_successes: app.creates.successes.load(Ordering::Relaxed),
        create_fails: app.creates.fails.load(Ordering::Relaxed),
        machine_info: MachineInfo::default(),
        metrics: metrics(&info.metrics),
        enforcement: info.enforcement.into_iter().map(enforcement).collect(),
    }
}

fn enforcement(limit: node_wire::Enforcement) -> Enforcement {
    let node_wire::Enforcement { what, enforced, detail } = limit;
    Enforcement { what: what.to_owned(), enforced, detail }
}

const fn status(phase: NodePhase) -> &'static str {
    match phase {
        NodePhase::Starting => "connecting",
        NodePhase::Healthy => "ready",
        NodePhase::Standby => "standby",
        NodePhase::Draining | NodePhase::Forcing | NodePhase::ForceFailed => "draining",
        NodePhase::Unhealthy | NodePhase::Stopped => "unhealthy",
    }
}

fn metrics(metrics: &node_wire::NodeMetrics) -> NodeMetrics {
    NodeMetrics {
        allocated_cpu: metrics.allocated_vcpus,
        cpu_percent: whole_percent(metrics.cpu_percent),
        cpu_count: metrics.cpu_count,
        allocated_memory_bytes: metrics.allocated_memory_bytes,
        memory_used_bytes: metrics.memory_used_bytes,
        memory_total_bytes: metrics.memory_total_bytes,
        // Nodes do not use huge pages, and do not tell where their disk is mounted.
        ..NodeMetrics::default()
    }
}

/// Rounds down; at most 100.
fn whole_percent(percent: f64) -> u32 {
    (1_u32..=100).take_while(|&whole| f64::from(whole) <= percent).last().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::whole_percent;

    #[test]
    fn a_percentage_is_cut_to_a_whole_one() {
        for (percent, whole) in
            [(-1.0, 0), (0.9, 0), (1.0, 1), (99.99, 99), (250.0, 100), (f64::NAN, 0)]
        {
            assert_eq!(whole_percent(percent), whole);
        }
    }
}
