//! `GET /metrics`: the service's numbers for Prometheus, for operators only.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderMap, StatusCode, header};
use model::{NodePhase, Secret};
use node::{Gauges, Node};
use node_wire::{DrainStatus, NodeApi};
use observe::metrics::{Exposition, expose};
use subtle::ConstantTimeEq;

#[derive(Debug)]
struct Source {
    node: Arc<Node>,
    token: Secret,
}

/// Answers `/metrics`, and leaves every other path to `api`.
pub(super) fn beside(api: Router, node: Arc<Node>, token: Secret) -> Router {
    let source = Arc::new(Source { node, token });
    Router::new().route("/metrics", get(answer)).with_state(source).fallback_service(api)
}

async fn answer(State(source): State<Arc<Source>>, headers: HeaderMap) -> Response {
    if !is_operator(&headers, &source.token) {
        let why = "send the admin token in X-Admin-Token, or as a bearer token\n";
        return (StatusCode::UNAUTHORIZED, why).into_response();
    }
    match source.node.drain_status().await {
        Ok(drain) => {
            let text = text(&drain, source.node.gauges());
            ([(header::CONTENT_TYPE, Exposition::CONTENT_TYPE)], text).into_response()
        }
        Err(error) => {
            tracing::warn!(error = %observe::chain(&error), "metrics without the node");
            (StatusCode::BAD_GATEWAY, "the node does not tell its state\n").into_response()
        }
    }
}

/// Prometheus can send bearer tokens and not every version other headers.
fn is_operator(headers: &HeaderMap, token: &Secret) -> bool {
    let own = headers.get("x-admin-token").and_then(|value| value.to_str().ok());
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let bearer = bearer.and_then(|value| value.strip_prefix("Bearer "));
    let expected = token.expose().as_bytes();
    let is_it = |said: &str| bool::from(said.as_bytes().ct_eq(expected));
    !expected.is_empty() && (own.is_some_and(is_it) || bearer.is_some_and(is_it))
}

fn text(drain: &DrainStatus, gauges: Gauges) -> String {
    let mut text = Exposition::default();
    let phases = NodePhase::ALL.map(|phase| (phase.as_str(), u64::from(phase == drain.phase)));
    text.gauges("cofferdam_node_phase", "1 for the phase the node is in.", "phase", phases);
    let accepting = u64::from(drain.accepting);
    text.gauge("cofferdam_node_accepting", "Whether new work is admitted.", accepting);
    let counts = drain.counts.iter().map(|of| (of.class.as_str(), u64::from(of.count)));
    text.gauges("cofferdam_work", "What a drain would wait for.", "class", counts);
    text.gauge("cofferdam_passes", "Work that is being admitted.", u64::from(gauges.passes));
    let slots = gauges.slots;
    let places = [
        ("warm", slots.warm),
        ("making", slots.making),
        ("used", slots.used),
        ("stuck", slots.stuck),
        ("leaving", slots.leaving),
        ("free", slots.free),
    ];
    let places = places.map(|(place, count)| (place, number(count)));
    text.gauges("cofferdam_slots", "Where the network slots are.", "state", places);
    text.gauge("cofferdam_slots_total", "All network slots.", number(slots.total()));
    let attempt = drain.attempt.as_ref().map_or(0, |attempt| attempt.number);
    text.gauge("cofferdam_force_attempt", "The last attempt to force.", u64::from(attempt));
    if let Some(leaked) = drain.leaked {
        let help = "Objects the last census found that nobody owns.";
        text.gauge("cofferdam_leaked_objects", help, u64::from(leaked));
    }
    expose(&mut text);
    text.into_text()
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use model::Secret;

    use super::is_operator;

    #[test]
    fn only_the_admin_token_opens_them_in_either_header() {
        let token = Secret::new("t0ken".to_owned());
        let with = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            headers
        };
        assert!(is_operator(&with("x-admin-token", "t0ken"), &token));
        assert!(is_operator(&with("authorization", "Bearer t0ken"), &token));
        for headers in [
            HeaderMap::new(),
            with("x-admin-token", "t0kem"),
            with("x-admin-token", ""),
            with("x-api-key", "t0ken"),
            with("authorization", "t0ken"),
        ] {
            assert!(!is_operator(&headers, &token), "{headers:?}");
        }
        assert!(!is_operator(&with("x-admin-token", ""), &Secret::new(String::new())));
    }
}
