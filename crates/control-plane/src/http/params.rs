use std::sync::Arc;

use axum::extract::{FromRequestParts, Path, Query};
use e2b_wire::parse_sandbox_path;
use http::request::Parts;
use model::SandboxId;
use serde::de::DeserializeOwned;

use super::ApiError;
use crate::app::App;

/// The sandbox a path names.
#[derive(Debug)]
pub(crate) struct SandboxPath(pub(crate) SandboxId);

/// The one parameter of a path, decoded: an encoded slash does not split it.
#[derive(Debug)]
pub(crate) struct Segment(pub(crate) String);

/// The two parameters of a path, as [`Segment`].
#[derive(Debug)]
pub(crate) struct Pair(pub(crate) String, pub(crate) String);

/// The two parameters of a path, as [`Segment`]: the node it names, and the sandbox on it.
#[derive(Debug)]
pub(crate) struct NodeSandboxPath(pub(crate) String, pub(crate) SandboxId);

/// The query, with our errors.
#[derive(Debug)]
pub(crate) struct Params<T>(pub(crate) T);

impl FromRequestParts<Arc<App>> for Segment {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let Path(segment) = Path::<String>::from_request_parts(parts, app)
            .await
            .map_err(|problem| ApiError::validation(problem.body_text()))?;
        Ok(Self(segment))
    }
}

impl FromRequestParts<Arc<App>> for SandboxPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let Segment(segment) = Segment::from_request_parts(parts, app).await?;
        let text = parse_sandbox_path(&segment).map_err(ApiError::validation)?;
        SandboxId::parse(text).map(Self).map_err(ApiError::validation)
    }
}

impl FromRequestParts<Arc<App>> for Pair {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let Path((first, second)) = Path::<(String, String)>::from_request_parts(parts, app)
            .await
            .map_err(|problem| ApiError::validation(problem.body_text()))?;
        Ok(Self(first, second))
    }
}

impl FromRequestParts<Arc<App>> for NodeSandboxPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let Pair(node, sandbox) = Pair::from_request_parts(parts, app).await?;
        let text = parse_sandbox_path(&sandbox).map_err(ApiError::validation)?;
        SandboxId::parse(text).map(|id| Self(node, id)).map_err(ApiError::validation)
    }
}

impl<T: DeserializeOwned> FromRequestParts<Arc<App>> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<App>) -> Result<Self, ApiError> {
        let Query(value) = Query::<T>::try_from_uri(&parts.uri)
            .map_err(|problem| ApiError::validation(problem.body_text()))?;
        Ok(Self(value))
    }
}
