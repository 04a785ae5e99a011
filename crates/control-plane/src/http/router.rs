use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{delete, get, patch, post, put};
use http::{HeaderName, Method, header};
use tower_http::cors::{Any, CorsLayer};

use super::{ApiError, limits, unsupported};
use crate::api;
use crate::app::App;
use crate::openapi::{self, Endpoints};

/// Every endpoint, with what they share.
pub(crate) fn router(app: Arc<App>) -> Router {
    endpoints()
        .into_router()
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_path)
        .layer(from_fn_with_state(Arc::clone(&app), limits::bound))
        .layer(cors())
        .with_state(app)
}

/// Every endpoint; `openapi/operations.rs` describes each.
pub(crate) fn endpoints() -> Endpoints {
    let supported = Endpoints::default()
        .route("/health", get(api::health::health))
        .route("/openapi.json", get(openapi::serve))
        .route("/sandboxes", post(api::sandboxes::create_v1).get(api::sandboxes::list_v1))
        .route("/v2/sandboxes", post(api::sandboxes::create_v2).get(api::sandboxes::list_v2))
        .route("/sandboxes/metrics", get(api::metrics::latest))
        .route("/sandboxes/{id}", get(api::sandboxes::get).delete(api::sandboxes::kill))
        .route("/sandboxes/{id}/explain", get(api::explain::explain))
        .route("/sandboxes/{id}/connect", post(api::sandboxes::connect_v1))
        .route("/v2/sandboxes/{id}/connect", post(api::sandboxes::connect_v2))
        .route("/sandboxes/{id}/timeout", post(api::sandboxes::set_timeout))
        .route("/sandboxes/{id}/network", put(api::network::update))
        .route("/sandboxes/{id}/pause", post(api::pause::pause))
        .route("/sandboxes/{id}/resume", post(api::pause::resume))
        .route("/sandboxes/{id}/fork", post(api::pause::fork))
        .route("/sandboxes/{id}/snapshots", post(api::snapshots::create))
        .route("/snapshots", get(api::snapshots::list))
        .route("/sandboxes/{id}/refreshes", post(api::sandboxes::refresh))
        .route("/sandboxes/{id}/metrics", get(api::metrics::of_sandbox))
        .route("/sandboxes/{id}/logs", get(api::logs::v1))
        .route("/v2/sandboxes/{id}/logs", get(api::logs::v2))
        .route("/templates", get(api::templates::list).post(unsupported::refuse_builds))
        .route("/v2/templates", get(api::templates::list_v2).post(unsupported::refuse_builds))
        .route("/default-templates", get(api::templates::defaults))
        .route("/templates/aliases/{alias}", get(api::templates::alias))
        .route("/nodes", get(api::nodes::list))
        .route("/nodes/{id}", get(api::nodes::get).post(api::nodes::change_status))
        .route("/nodes/{id}/drain", get(api::nodes::drain))
        .route("/nodes/{id}/leaks", get(api::nodes::leaks))
        .route("/nodes/{id}/sandboxes", get(api::nodes::sandboxes))
        .route("/nodes/{id}/sandboxes/{sandbox}", delete(api::nodes::kill_sandbox));
    unsupported::routes(of_teams(supported))
}

/// The endpoints of teams, their keys, and who operates them.
fn of_teams(router: Endpoints) -> Endpoints {
    router
        .route("/teams", get(api::keys::teams))
        .route("/teams/{id}/metrics", get(api::teams::metrics))
        .route("/teams/{id}/metrics/max", get(api::teams::max))
        .route("/api-keys", get(api::keys::list).post(api::keys::create))
        .route("/api-keys/{id}", patch(api::keys::rename).delete(api::keys::delete))
        .route("/access-tokens", post(api::keys::create_token))
        .route("/access-tokens/{id}", delete(api::keys::delete_token))
        .route("/admin/teams", get(api::admin::teams).post(api::admin::create_team))
        .route("/admin/teams/{id}", get(api::admin::team).patch(api::admin::change_team))
        .route("/admin/teams/{id}/sandboxes/kill", post(api::admin::kill_sandboxes))
        .route("/admin/teams/{id}/builds/cancel", post(api::admin::cancel_builds))
        .route("/admin/sandboxes/running-counts", get(api::admin::running_counts))
        .route("/admin/teams/{id}/api-keys", get(api::admin::keys).post(api::admin::create_key))
        .route("/admin/teams/{id}/api-keys/{key}", delete(api::admin::delete_key))
}

async fn unknown_path(method: Method, uri: http::Uri) -> ApiError {
    ApiError::not_found(format!("there is no endpoint {method} {}", uri.path()))
}

/// Browsers may call the API from anywhere: it is the key that admits, not the origin.
fn cors() -> CorsLayer {
    let plain = [header::ORIGIN, header::CONTENT_LENGTH, header::CONTENT_TYPE, header::USER_AGENT];
    let named = [
        "authorization",
        "x-api-key",
        "x-team-id",
        "idempotency-key",
        "browser",
        "lang",
        "lang_version",
        "machine",
        "os",
        "package_version",
        "processor",
        "publisher",
        "release",
        "sdk_runtime",
        "system",
    ];
    let exposed = [
        "x-next-token",
        "x-total-running",
        "ratelimit-limit",
        "ratelimit-remaining",
        "ratelimit-reset",
        "retry-after",
    ];
    CorsLayer::new()
        .allow_origin(Any)
        .allow_methods([
            Method::GET,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
            Method::HEAD,
            Method::OPTIONS,
        ])
        .allow_headers(
            plain.into_iter().chain(named.map(HeaderName::from_static)).collect::<Vec<_>>(),
        )
        .expose_headers(exposed.map(HeaderName::from_static))
}
