use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRequestParts, State};
use axum::routing::{MethodRouter, delete, get, patch, post};
use http::request::Parts;

use super::{ApiError, SandboxPath, Segment};
use crate::app::App;
use crate::auth::{Admin, Caller};

/// A running sandbox of the caller's. One that is not there is 404 whatever was asked of it: the SDKs
/// answer "it was gone already" by that.
struct Existing;

impl FromRequestParts<Arc<App>> for Existing {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let caller = Caller::from_request_parts(parts, app).await?;
        let SandboxPath(id) = SandboxPath::from_request_parts(parts, app).await?;
        app.running(&caller.team, &id).await.map(|_row| Self)
    }
}

/// The endpoints of E2B that this version does not have. Each answers at once, and says so.
pub(super) fn routes(router: Router<Arc<App>>) -> Router<Arc<App>> {
    let sandboxes = [
        ("/sandboxes/{id}/pause", post(refuse_pause)),
        ("/sandboxes/{id}/resume", post(refuse_pause)),
        ("/sandboxes/{id}/fork", post(refuse_copies)),
        ("/sandboxes/{id}/snapshots", post(refuse_copies)),
        ("/snapshots", get(refuse_snapshots)),
        ("/sandboxes/{id}/logs", get(refuse_logs)),
        ("/v2/sandboxes/{id}/logs", get(refuse_logs)),
    ];
    let templates = [
        ("/v3/templates", post(refuse_builds)),
        ("/v2/templates", post(refuse_builds).get(refuse_template_pages)),
        ("/v2/templates/{id}", patch(refuse_builds)),
        ("/templates/{id}", any_of_template()),
        ("/templates/{id}/files/{hash}", get(refuse_builds)),
        ("/templates/{id}/builds/{build}", post(refuse_builds)),
        ("/v2/templates/{id}/builds/{build}", post(refuse_builds)),
        ("/templates/{id}/builds/{build}/status", get(refuse_builds)),
        ("/templates/{id}/builds/{build}/logs", get(refuse_builds)),
        ("/templates/tags", post(refuse_builds).delete(refuse_builds)),
        ("/templates/{id}/tags", get(refuse_builds)),
    ];
    let others = [
        ("/volumes", get(refuse_volumes).post(refuse_volumes)),
        ("/volumes/{id}", get(refuse_volumes).delete(refuse_volumes)),
        ("/secrets", get(refuse_secrets).post(refuse_secrets)),
        ("/secrets/{id}", get(refuse_secrets).post(refuse_secrets).delete(refuse_secrets)),
        ("/teams", get(refuse_teams)),
        ("/teams/{id}/metrics", get(refuse_teams)),
        ("/teams/{id}/metrics/max", get(refuse_teams)),
        ("/api-keys", get(refuse_teams).post(refuse_teams)),
        ("/api-keys/{id}", patch(refuse_teams).delete(refuse_teams)),
        ("/access-tokens", post(refuse_teams)),
        ("/access-tokens/{id}", delete(refuse_teams)),
        ("/admin/teams/{id}/sandboxes/kill", post(refuse_admin)),
        ("/admin/teams/{id}/builds/cancel", post(refuse_admin)),
        ("/admin/sandboxes/running-counts", get(refuse_admin)),
        ("/admin/teams/{id}/api-keys", post(refuse_admin)),
        ("/admin/teams/{id}/api-keys/{key}", delete(refuse_admin)),
    ];
    sandboxes
        .into_iter()
        .chain(templates)
        .chain(others)
        .fold(router, |router, (path, methods)| router.route(path, methods))
}

fn any_of_template() -> MethodRouter<Arc<App>> {
    get(refuse_template_detail)
        .post(refuse_builds)
        .patch(refuse_builds)
        .delete(refuse_template_delete)
}

async fn refuse_pause(_: Existing) -> ApiError {
    ApiError::unsupported("pausing a sandbox", "give it a longer timeout instead")
}

async fn refuse_copies(_: Existing) -> ApiError {
    no_snapshots()
}

async fn refuse_snapshots(_: Caller) -> ApiError {
    no_snapshots()
}

fn no_snapshots() -> ApiError {
    ApiError::unsupported("copying a sandbox", "create another one from its template instead")
}

async fn refuse_logs(_: Existing) -> ApiError {
    ApiError::unsupported("reading logs of a sandbox", "stream the output of its commands instead")
}

pub(super) async fn refuse_builds(_: Caller) -> ApiError {
    let instead = "use a template that GET /templates lists";
    ApiError::unsupported("building and changing templates over the API", instead)
}

async fn refuse_template_detail(_: Caller) -> ApiError {
    ApiError::unsupported("listing the builds of a template", "use GET /templates")
}

/// Snapshots are deleted by this, too.
async fn refuse_template_delete(
    State(app): State<Arc<App>>,
    caller: Caller,
    Segment(name): Segment,
) -> ApiError {
    let known = match name.parse() {
        Ok(reference) => app.resolve(&caller.team, &reference).await,
        Err(_no_name) => Ok(None),
    };
    match known {
        Ok(Some(_template)) => refuse_builds(caller).await,
        Ok(None) => ApiError::not_found(format!("there is no template {name:?}")),
        Err(error) => error,
    }
}

async fn refuse_template_pages(_: Caller) -> ApiError {
    ApiError::unsupported("listing templates by page", "use GET /templates")
}

async fn refuse_volumes(_: Caller) -> ApiError {
    ApiError::unsupported("keeping volumes", "keep files in the sandbox, or outside of it")
}

async fn refuse_secrets(_: Caller) -> ApiError {
    ApiError::unsupported("keeping secrets", "pass them as envVars when creating the sandbox")
}

async fn refuse_teams(_: Caller) -> ApiError {
    let instead = "the installation has one team and the key it was set up with";
    ApiError::unsupported("managing teams, keys and access tokens", instead)
}

async fn refuse_admin(_: Admin) -> ApiError {
    ApiError::unsupported("this operator endpoint", "use the command line on the machine")
}
