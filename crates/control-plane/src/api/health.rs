use std::sync::Arc;

use axum::extract::State;
use http::StatusCode;
use model::NodePhase;

use crate::app::App;

/// Whether new sandboxes can be had here. Needs no key.
pub(crate) async fn health(State(app): State<Arc<App>>) -> (StatusCode, &'static str) {
    match app.node.info().await {
        Ok(info) => match info.phase {
            NodePhase::Healthy => (StatusCode::OK, "healthy\n"),
            NodePhase::Starting => (StatusCode::SERVICE_UNAVAILABLE, "the node is starting\n"),
            NodePhase::Standby => (StatusCode::SERVICE_UNAVAILABLE, "the node is on standby\n"),
            NodePhase::Unhealthy => (StatusCode::SERVICE_UNAVAILABLE, "the node is unhealthy\n"),
            NodePhase::Draining | NodePhase::Forcing | NodePhase::ForceFailed => {
                (StatusCode::SERVICE_UNAVAILABLE, "the node is draining\n")
            }
            NodePhase::Stopped => (StatusCode::SERVICE_UNAVAILABLE, "the node has stopped\n"),
        },
        Err(_unreachable) => (StatusCode::SERVICE_UNAVAILABLE, "no node can be reached\n"),
    }
}
