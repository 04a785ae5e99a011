use std::sync::Arc;

use axum::routing::{MethodRouter, get, patch, post};

use super::ApiError;
use crate::api;
use crate::app::App;
use crate::auth::Caller;
use crate::openapi::Endpoints;

/// The endpoints of E2B that this version does not have. Each answers at once, and says so.
pub(super) fn routes(router: Endpoints) -> Endpoints {
    let templates = [
        ("/v3/templates", post(refuse_builds)),
        ("/v2/templates/{id}", patch(refuse_builds)),
        ("/templates/{id}", any_of_template()),
        ("/templates/{id}/files/{hash}", get(refuse_builds)),
        ("/templates/{id}/builds/{build}", post(refuse_builds)),
        ("/v2/templates/{id}/builds/{build}", post(refuse_builds)),
        ("/templates/{id}/builds/{build}/status", get(refuse_builds)),
        ("/templates/{id}/builds/{build}/logs", get(refuse_builds)),
        ("/templates/tags", post(refuse_builds).delete(refuse_builds)),
        ("/templates/{id}/tags", get(refuse_builds)),
        ("/templates/{id}/tags/count", get(refuse_builds)),
        ("/templates/{id}/tags/exists", get(refuse_builds)),
        ("/templates/{id}/tags/groups", get(refuse_builds)),
        ("/templates/{id}/tags/{tag}/assignments", get(refuse_builds)),
    ];
    let others = [
        ("/volumes", get(refuse_volumes).post(refuse_volumes)),
        ("/volumes/{id}", get(refuse_volumes).delete(refuse_volumes)),
        ("/secrets", get(refuse_secrets).post(refuse_secrets)),
        ("/secrets/{id}", get(refuse_secrets).post(refuse_secrets).delete(refuse_secrets)),
    ];
    templates
        .into_iter()
        .chain(others)
        .fold(router, |router, (path, methods)| router.route(path, methods))
}

fn any_of_template() -> MethodRouter<Arc<App>> {
    get(api::templates::get).post(refuse_builds).patch(refuse_builds).delete(api::snapshots::delete)
}

pub(super) async fn refuse_builds(_: Caller) -> ApiError {
    let instead = "use a template that GET /templates lists";
    ApiError::unsupported("building and changing templates over the API", instead)
}

async fn refuse_volumes(_: Caller) -> ApiError {
    ApiError::unsupported("keeping volumes", "keep files in the sandbox, or outside of it")
}

async fn refuse_secrets(_: Caller) -> ApiError {
    ApiError::unsupported("keeping secrets", "pass them as envVars when creating the sandbox")
}
