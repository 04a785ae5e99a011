use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use e2b_wire::{
    CLIENT_ID, ConnectSandbox, Lifecycle, ListedSandbox, NewSandbox, PauseMode, RefreshSandbox,
    Sandbox, SandboxDetail, SandboxListQuery, SandboxState, SandboxTimeout,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use model::OnTimeout;
use tracing::info_span;

use crate::api::pause::keep;
use crate::app::App;
use crate::auth::Caller;
use crate::connect::NewEnd;
use crate::create_request::{ApiVersion, CreateRequest, ttl};
use crate::http::{ApiError, JsonBody, Params, SandboxPath};
use crate::idempotency::Idempotency;
use crate::listing::ListRequest;
use crate::network;
use crate::resume::Wish;
use crate::store::{Paused, RowState, SandboxRow, Terms};

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
    let request = CreateRequest::parse(body.value, version, &app.config.limits.of(&caller.team))?;
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
) -> Result<(StatusCode, Json<Sandbox>), ApiError> {
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
) -> Result<(StatusCode, Json<Sandbox>), ApiError> {
    let timeout = body.value.timeout.unwrap_or(ApiVersion::V2.default_timeout());
    connect(app, caller, path, timeout, body.value.memory).await
}

async fn connect(
    app: Arc<App>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
    timeout: i32,
    memory: Option<bool>,
) -> Result<(StatusCode, Json<Sandbox>), ApiError> {
    // Zero is legal here: it asks for no more time than the sandbox has.
    let limits = app.config.limits.of(&caller.team);
    let ttl = if timeout == 0 { Duration::ZERO } else { ttl(timeout, &limits)? };
    let span = info_span!("connect", sandbox.id = %id);
    let wish = Wish { ttl, keep: keep(memory), on_timeout: None };
    let work = Arc::clone(&app).connect(caller.team, id, wish);
    let (sandbox, resumed) = app.owned(span, work).await?;
    let status = if resumed { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(sandbox)))
}

pub(crate) async fn get(
    State(app): State<Arc<App>>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
) -> Result<Json<SandboxDetail>, ApiError> {
    let row = app.store.sandbox(&caller.team.id, &id).await?;
    let Some((row, state)) = row.and_then(|row| shown(&row).map(|state| (row, state))) else {
        return Err(ApiError::no_sandbox(&id));
    };
    let pause_mode = last_pause(&row).map(mode);
    Ok(Json(SandboxDetail {
        envd_access_token: app.envd_token(&row),
        allow_internet_access: row.internet,
        domain: app.config.domain.clone(),
        network: row.network.as_ref().map(network::told),
        lifecycle: lifecycle(&row.terms),
        pause_mode,
        listed: listed(row, state),
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
    request.paused = false;
    let page = request.page(app.store.listed_sandboxes(&caller.team.id).await?);
    Ok(Json(page.rows.into_iter().filter_map(maybe_listed).collect()))
}

pub(crate) async fn list_v2(
    State(app): State<Arc<App>>,
    caller: Caller,
    Params(query): Params<SandboxListQuery>,
) -> Result<Response, ApiError> {
    let request = ListRequest::parse(query)?;
    let mut rows = app.store.listed_sandboxes(&caller.team.id).await?;
    if let Some(name) = &request.template {
        let template = app.resolve(&caller.team, name).await?;
        let wanted = |row: &SandboxRow| {
            template.as_ref().is_some_and(|template| *row.shown_template() == template.id)
        };
        rows.retain(wanted);
    }
    let page = request.page(rows);
    let mut headers = HeaderMap::new();
    if request.running {
        headers.insert(TOTAL_RUNNING, HeaderValue::from(page.running));
    }
    if let Some(token) = page.next {
        let token = HeaderValue::try_from(token.to_string());
        headers.insert(NEXT_TOKEN, token.map_err(|_never| ApiError::internal())?);
    }
    let rows: Vec<ListedSandbox> = page.rows.into_iter().filter_map(maybe_listed).collect();
    Ok((headers, Json(rows)).into_response())
}

pub(crate) async fn kill(
    State(app): State<Arc<App>>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
) -> Result<StatusCode, ApiError> {
    let span = info_span!("kill", sandbox.id = %id);
    app.owned(span, Arc::clone(&app).kill_heard(caller.team, id)).await?;
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

/// What a client sees of a state; `None` when it sees nothing.
pub(crate) fn shown(row: &SandboxRow) -> Option<SandboxState> {
    match row.state {
        RowState::Running => Some(SandboxState::Running),
        RowState::Pausing | RowState::Paused | RowState::Resuming => Some(SandboxState::Paused),
        RowState::Starting | RowState::Killing | RowState::Ended => None,
    }
}

/// The pause that a sandbox is in. One that is being paused is in none yet, whatever was before.
fn last_pause(row: &SandboxRow) -> Option<Paused> {
    row.paused.filter(|_| matches!(row.state, RowState::Paused | RowState::Resuming))
}

fn mode(paused: Paused) -> PauseMode {
    if paused.memory { PauseMode::Full } else { PauseMode::Filesystem }
}

fn lifecycle(terms: &Terms) -> Lifecycle {
    let on_timeout = match terms.on_timeout {
        OnTimeout::Kill => "kill",
        OnTimeout::Pause(_) => "pause",
    };
    Lifecycle { auto_resume: terms.auto_resume, on_timeout: on_timeout.to_owned() }
}

fn maybe_listed(row: SandboxRow) -> Option<ListedSandbox> {
    shown(&row).map(|state| listed(row, state))
}

fn listed(row: SandboxRow, state: SandboxState) -> ListedSandbox {
    let last = last_pause(&row);
    ListedSandbox {
        template_id: row.shown_template().to_string(),
        sandbox_id: row.id.to_string(),
        client_id: CLIENT_ID.to_owned(),
        started_at: row.started_at,
        // The end of the run, which is over.
        end_at: last.map_or(row.ends_at, |last| last.at),
        cpu_count: row.resources.vcpus,
        memory_mb: row.resources.memory_mib,
        disk_size_mb: row.resources.disk_mib,
        state,
        envd_version: row.envd_version,
        alias: row.alias,
        metadata: row.metadata,
        envd_unresponsive_at_pause: last.filter(|last| last.agent_silent).map(|_silent| true),
    }
}
