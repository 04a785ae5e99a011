//! `POST /sandboxes/{id}/pause`, `/resume` and `/fork`.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::HttpBody as _;
use axum::extract::{FromRequest, Request, State};
use e2b_wire::{ForkResult, ForkSandbox, PauseSandbox, ResumeSandbox, Sandbox};
use http::StatusCode;
use model::{Keep, OnTimeout};
use node_wire::PauseOrder;
use serde::de::DeserializeOwned;
use tracing::info_span;

use crate::app::App;
use crate::auth::Caller;
use crate::create_request::{ApiVersion, ttl};
use crate::http::{ApiError, JsonBody, SandboxPath};
use crate::resume::Wish;

/// Copies of one request.
const FORKS_MAX: u32 = 100;

/// A JSON body that may be left out.
#[derive(Debug)]
pub(crate) struct MaybeJson<T>(pub(crate) T);

impl<T: DeserializeOwned + Default> FromRequest<Arc<App>> for MaybeJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        if request.body().is_end_stream() {
            return Ok(Self(T::default()));
        }
        JsonBody::from_request(request, app).await.map(|body| Self(body.value))
    }
}

pub(crate) async fn pause(
    State(app): State<Arc<App>>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
    MaybeJson(body): MaybeJson<PauseSandbox>,
) -> Result<StatusCode, ApiError> {
    let healthy_only = body.require_healthy_guest == Some(true);
    let order = PauseOrder { keep: keep(body.memory), healthy_only };
    let span = info_span!("pause", sandbox.id = %id);
    let work = Arc::clone(&app).pause(caller.team, id, order);
    app.owned(span, work).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn resume(
    State(app): State<Arc<App>>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
    MaybeJson(body): MaybeJson<ResumeSandbox>,
) -> Result<(StatusCode, Json<Sandbox>), ApiError> {
    let seconds = body.timeout.unwrap_or_else(|| ApiVersion::V1.default_timeout());
    let wish = Wish {
        ttl: ttl(seconds, &app.config.limits.of(&caller.team))?,
        keep: keep(body.memory),
        on_timeout: body.auto_pause.map(|pause| match pause {
            true => OnTimeout::Pause(Keep::Memory),
            false => OnTimeout::Kill,
        }),
    };
    let span = info_span!("resume", sandbox.id = %id);
    let work = Arc::clone(&app).resume(caller.team, id, wish);
    Ok((StatusCode::CREATED, Json(app.owned(span, work).await?)))
}

pub(crate) async fn fork(
    State(app): State<Arc<App>>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
    MaybeJson(body): MaybeJson<ForkSandbox>,
) -> Result<(StatusCode, Json<Vec<ForkResult>>), ApiError> {
    let seconds = body.timeout.unwrap_or_else(|| ApiVersion::V1.default_timeout());
    let ttl: Duration = ttl(seconds, &app.config.limits.of(&caller.team))?;
    let count = u32::try_from(body.count.unwrap_or(1)).unwrap_or(0);
    if !(1..=FORKS_MAX).contains(&count) {
        return Err(ApiError::validation(format!("count must be 1 to {FORKS_MAX}")));
    }
    let span = info_span!("fork", sandbox.id = %id);
    let work = Arc::clone(&app).fork(caller.team, id, ttl, count);
    Ok((StatusCode::CREATED, Json(app.owned(span, work).await?)))
}

/// What `memory` says, where it is there.
pub(crate) fn keep(memory: Option<bool>) -> Keep {
    match memory {
        Some(false) => Keep::Files,
        Some(true) | None => Keep::Memory,
    }
}
