use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use e2b_wire::{
    CLIENT_ID, ConnectSandbox, Lifecycle, ListedSandbox, NewSandbox, RefreshSandbox, Sandbox,
    SandboxDetail, SandboxListQuery, SandboxState, SandboxTimeout, error_code,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tracing::info_span;

use crate::app::App;
use crate::auth::Caller;
use crate::connect::NewEnd;
use crate::create_request::{ApiVersion, CreateRequest, ttl};
use crate::http::{ApiError, JsonBody, Params, SandboxPath};
use crate::idempotency::Idempotency;
use crate::listing::ListRequest;
use crate::store::{RowState, SandboxRow};

const NEXT_TOKEN: HeaderName = HeaderName::from_static("x-next-token");
const TOTAL_RUNNING: HeaderName = HeaderName::from_static("x-total-running");
/// Seconds a refresh lasts at least and at most.
const REFRESH_MIN: i32 = 15;
const REFRESH_MAX: i32 = 3600;

pub(crate) async fn create_v1(
    State(app): State<Arc<App>>,
    caller: Caller,
    body: JsonBody<NewSandbox>,
) -> Result<(StatusCode, Json<Sandbox>), ApiError> {
    create(app, caller, body, ApiVersion::V1, None).await
}

pub(crate) async fn create_v2(
    State(app): State<Arc<App>>,
    caller: Caller,
    headers: HeaderMap,
    body: JsonBody<NewSandbox>,
) -> Result<(StatusCode, Json<Sandbox>), ApiError> {
    let idempotency = Idempotency::from_headers(&headers, || body.digest())?;
    create(app, caller, body, ApiVersion::V2, idempotency).await
}

async fn create(
    app: Arc<App>,
    caller: Caller,
    body: JsonBody<NewSandbox>,
    version: ApiVersion,
    idempotency: Option<Idempotency>,
) -> Result<(StatusCode, Json<Sandbox>), ApiError> {
    let request = CreateRequest::parse(body.value, version, &app.config.limits)?;
    let span = info_span!("create", team.id = %caller.team.id, sandbox.id = tracing::field::Empty);
    let work = Arc::clone(&app).create(caller.team, request, idempotency);
    let sandbox = app.owned(span, work).await?;
    Ok((StatusCode::CREATED, Json(sandbox)))
}

pub(crate) async fn connect_v1(
    State(app): State<Arc<App>>,
    caller: Caller,
    path: SandboxPath,
    body: JsonBody<ConnectSandbox>,
) -> Result<Json<Sandbox>, ApiError> {
    let Some(timeout) = body.value.timeout else {
        return Err(ApiError::validation("timeout is required"));
    };
    connect(app, caller, path, timeout, body.value.memory).await
}

pub(crate) async fn connect_v2(
    State(app): State<Arc<App>>,
    caller: Caller,
    path: SandboxPath,
    body: JsonBody<ConnectSandbox>,
) -> Result<Json<Sandbox>, ApiError> {
    let timeout = body.value.timeout.unwrap_or(ApiVersion::V2.default_timeout());
    connect(app, caller, path, timeout, body.value.memory).await
}

async fn connect(
    app: Arc<App>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
    timeout: i32,
    memory: Option<bool>,
) -> Result<Json<Sandbox>, ApiError> {
    if memory == Some(false) {
        let message = "memory: false is not supported by this version of Cofferdam; leave it out";
        return Err(ApiError::bad_request(message).code(error_code::MEMORY_OVERRIDE_DISABLED));
    }
    // Zero is legal here: it asks for no more time than the sandbox has.
    let ttl = if timeout == 0 { Duration::ZERO } else { ttl(timeout, &app.config.limits)? };
    let span = info_span!("connect", sandbox.id = %id);
    let work = Arc::clone(&app).connect(caller.team, id, ttl);
    app.owned(span, work).await.map(Json)
}

pub(crate) async fn get(
    State(app): State<Arc<App>>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
) -> Result<Json<SandboxDetail>, ApiError> {
    let row = app.store.sandbox(&caller.team.id, &id).await?;
    let Some(row) = row.filter(|row| row.state == RowState::Running) else {
        return Err(ApiError::no_sandbox(&id));
    };
    Ok(Json(SandboxDetail {
        envd_access_token: app.envd_token(&row),
        allow_internet_access: row.internet,
        domain: app.config.domain.clone(),
        network: row.network.clone(),
        lifecycle: Lifecycle { auto_resume: false, on_timeout: "kill".to_owned() },
        listed: listed(row),
    }))
}

pub(crate) async fn list_v1(
    State(app): State<Arc<App>>,
    caller: Caller,
    Params(query): Params<SandboxListQuery>,
) -> Result<Json<Vec<ListedSandbox>>, ApiError> {
    // Version 1 knows one filter, and everything is one page.
    let only = SandboxListQuery { metadata: query.metadata, ..SandboxListQuery::default() };
    let mut request = ListRequest::parse(only)?;
    request.limit = usize::MAX;
    let page = request.page(app.store.running_sandboxes(&caller.team.id).await?);
    Ok(Json(page.rows.into_iter().map(listed).collect()))
}

pub(crate) async fn list_v2(
    State(app): State<Arc<App>>,
    caller: Caller,
    Params(query): Params<SandboxListQuery>,
) -> Result<Response, ApiError> {
    let request = ListRequest::parse(query)?;
    let mut rows = app.store.running_sandboxes(&caller.team.id).await?;
    if let Some(name) = &request.template {
        let template = app.resolve(&caller.team, name).await?;
        rows.retain(|row| template.as_ref().is_some_and(|template| row.template == template.id));
    }
    let page = request.page(rows);
    let mut headers = HeaderMap::new();
    if request.running {
        headers.insert(TOTAL_RUNNING, HeaderValue::from(page.total));
    }
    if let Some(token) = page.next {
        let token = HeaderValue::try_from(token.to_string());
        headers.insert(NEXT_TOKEN, token.map_err(|_never| ApiError::internal())?);
    }
    let rows: Vec<ListedSandbox> = page.rows.into_iter().map(listed).collect();
    Ok((headers, Json(rows)).into_response())
}

pub(crate) async fn kill(
    State(app): State<Arc<App>>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
) -> Result<StatusCode, ApiError> {
    let span = info_span!("kill", sandbox.id = %id);
    app.owned(span, Arc::clone(&app).kill(caller.team, id)).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn set_timeout(
    State(app): State<Arc<App>>,
    caller: Caller,
    path: SandboxPath,
    body: JsonBody<SandboxTimeout>,
) -> Result<StatusCode, ApiError> {
    let seconds = u64::try_from(body.value.timeout)
        .map_err(|_negative| ApiError::validation("timeout must be 0 or more seconds"))?;
    move_end(app, caller, path, NewEnd::In(Duration::from_secs(seconds))).await
}

pub(crate) async fn refresh(
    State(app): State<Arc<App>>,
    caller: Caller,
    path: SandboxPath,
    body: JsonBody<RefreshSandbox>,
) -> Result<StatusCode, ApiError> {
    let asked = body.value.duration.unwrap_or(0);
    let seconds = (0..=REFRESH_MAX)
        .contains(&asked)
        .then(|| u64::try_from(asked.max(REFRESH_MIN)).ok())
        .flatten()
        .ok_or_else(|| ApiError::validation("duration must be 0 to 3600 seconds"))?;
    move_end(app, caller, path, NewEnd::AtLeastIn(Duration::from_secs(seconds))).await
}

async fn move_end(
    app: Arc<App>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
    new_end: NewEnd,
) -> Result<StatusCode, ApiError> {
    let span = info_span!("move_end", sandbox.id = %id);
    let mover = Arc::clone(&app);
    let work = async move { mover.move_end(&caller.team, &id, new_end).await };
    app.owned(span, work).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn listed(row: SandboxRow) -> ListedSandbox {
    ListedSandbox {
        template_id: row.template.to_string(),
        sandbox_id: row.id.to_string(),
        client_id: CLIENT_ID.to_owned(),
        started_at: row.started_at,
        end_at: row.ends_at,
        cpu_count: row.resources.vcpus,
        memory_mb: row.resources.memory_mib,
        disk_size_mb: row.resources.disk_mib,
        state: SandboxState::Running,
        envd_version: row.envd_version,
        alias: row.alias,
        metadata: row.metadata,
    }
}
