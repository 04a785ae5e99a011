//! The plain HTTP surface beside `/files`.

mod authorities;
mod error;
mod init;
mod journal;
mod metrics;

pub(crate) use authorities::Authorities;
pub(crate) use error::RestError;
pub(crate) use init::{InitTurn, init};
pub(crate) use journal::journal;
pub(crate) use metrics::{CpuMeter, memory_total, metrics};

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use http::StatusCode;
use http::header::{CACHE_CONTROL, HeaderName, HeaderValue};

use crate::agent::Agent;

const NO_STORE: (HeaderName, HeaderValue) = (CACHE_CONTROL, HeaderValue::from_static("no-store"));

/// `GET /health`: answers as soon as the agent serves.
pub(crate) async fn health() -> impl IntoResponse {
    ([NO_STORE], StatusCode::NO_CONTENT)
}

/// `GET /envs`: the variables every process gets.
pub(crate) async fn envs(State(agent): State<Arc<Agent>>) -> impl IntoResponse {
    ([NO_STORE], Json(agent.settings.variables()))
}
