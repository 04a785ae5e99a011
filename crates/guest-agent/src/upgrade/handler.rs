//! The request.

use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use tokio::sync::OwnedSemaphorePermit;

use super::attempt::{Failed, attempt};
use super::binary::{BinaryError, discard, receive, staged};
use crate::agent::Agent;
use crate::gatekeeper::NOT_INITIALISED;
use crate::tasks;

const TARGET_HEADER: &str = "x-envd-upgrade-bin";
/// Where the new binary may lie already.
const STAGED: &str = "/usr/bin/envd.next";
/// How long a client may take to send the binary. Others must wait for as long.
const BODY_LIMIT: Duration = Duration::from_secs(60);

/// Why this agent goes on.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("{NOT_INITIALISED}")]
    NotInitialised,
    #[error("unsupported upgrade target")]
    Target,
    #[error("another upgrade is under way: wait for its outcome")]
    Busy,
    #[error("the body is empty: send the new binary, or name {STAGED} in X-Envd-Upgrade-Bin")]
    Empty,
    #[error("the body was not complete within {BODY_LIMIT:?}")]
    Slow,
    #[error("{0}")]
    Binary(BinaryError),
    #[error("not upgraded: {0}")]
    Failed(Failed),
    #[error("not upgraded: the upgrade panicked")]
    Panicked,
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::NotInitialised => StatusCode::CONFLICT,
            Self::Target | Self::Empty => StatusCode::BAD_REQUEST,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::Binary(BinaryError::TooLarge) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Binary(BinaryError::Body(_) | BinaryError::Staged(_)) => StatusCode::BAD_REQUEST,
            Self::Binary(BinaryError::Memory(_)) | Self::Failed(_) | Self::Panicked => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        (status, self.to_string()).into_response()
    }
}

/// Answers only if this agent goes on: by its success the connection is closed.
pub(crate) async fn upgrade(
    State(agent): State<Arc<Agent>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let turn = match begin(&agent, &headers) {
        Ok(turn) => turn,
        Err(refused) => {
            let _in_time = tasks::within(BODY_LIMIT, discard(body)).await;
            return refused.into_response();
        }
    };
    let is_staged = headers.get(TARGET_HEADER).is_some_and(|target| !target.is_empty());
    match run(agent, turn, is_staged, body).await {
        Ok(never) => match never {},
        Err(refused) => refused.into_response(),
    }
}

/// The turn to upgrade, if this request may have it.
fn begin(agent: &Agent, headers: &HeaderMap) -> Result<OwnedSemaphorePermit, Refused> {
    if !agent.settings.is_initialised() {
        return Err(Refused::NotInitialised);
    }
    let target = headers.get(TARGET_HEADER).map_or(&b""[..], |target| target.as_bytes());
    if !target.is_empty() && target != STAGED.as_bytes() {
        return Err(Refused::Target);
    }
    let turn = Arc::clone(&agent.upgrades.turn).try_acquire_owned();
    turn.map_err(|_taken| Refused::Busy)
}

async fn run(
    agent: Arc<Agent>,
    turn: OwnedSemaphorePermit,
    is_staged: bool,
    body: Body,
) -> Result<Infallible, Refused> {
    let binary = binary(is_staged, body).await?;
    // Owned by the agent: half an upgrade is none, whether the client stays or not.
    let attempted = tasks::detached(async move {
        let attempted = attempt(&agent, &binary).await;
        drop(turn);
        attempted
    });
    attempted.await.ok_or(Refused::Panicked)?.map_err(Refused::Failed)
}

/// What the request brings; what is staged, if it names that and brings nothing.
async fn binary(is_staged: bool, body: Body) -> Result<OwnedFd, Refused> {
    let received = tasks::within(BODY_LIMIT, receive(body)).await.ok_or(Refused::Slow)?;
    match received.map_err(Refused::Binary)? {
        Some(binary) => Ok(binary),
        None if is_staged => staged(Path::new(STAGED)).await.map_err(Refused::Binary),
        None => Err(Refused::Empty),
    }
}
