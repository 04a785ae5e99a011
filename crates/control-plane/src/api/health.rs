use std::sync::Arc;

use axum::extract::State;
use http::StatusCode;
use model::NodePhase;

use crate::app::App;
use crate::nodes::Link;

/// Whether the service is well. Needs no key.
///
/// A service whose nodes drain is well until it ends: supervisors kill what is not, and with it
/// the sandboxes that the drain waits for.
pub(crate) async fn health(State(app): State<Arc<App>>) -> (StatusCode, &'static str) {
    let (mut draining, mut starting, mut unhealthy) = (false, false, false);
    for session in app.nodes.all() {
        let Some(report) = session.report() else { continue };
        if matches!(session.link(), Link::Unreachable { .. }) {
            continue;
        }
        match report.drain.phase {
            NodePhase::Healthy => return (StatusCode::OK, "healthy\n"),
            NodePhase::Draining
            | NodePhase::Forcing
            | NodePhase::ForceFailed
            | NodePhase::Stopped
            | NodePhase::Standby => draining = true,
            NodePhase::Starting => starting = true,
            NodePhase::Unhealthy => unhealthy = true,
        }
    }
    if draining {
        (StatusCode::OK, "draining\n")
    } else if starting {
        (StatusCode::SERVICE_UNAVAILABLE, "the nodes are starting\n")
    } else if unhealthy {
        (StatusCode::SERVICE_UNAVAILABLE, "the nodes are unhealthy\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "no node can be reached\n")
    }
}
