use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use lifecycle::Budget;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

use super::ApiError;
use crate::app::App;
use crate::config::Limits;

/// A JSON body. Its errors name the field and what was expected there.
#[derive(Debug)]
pub(crate) struct JsonBody<T> {
    pub(crate) value: T,
    raw: Bytes,
}

impl<T> JsonBody<T> {
    /// What tells two requests apart: the hash of the bytes as they came.
    pub(crate) fn digest(&self) -> String {
        Sha256::digest(&self.raw).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl<T: DeserializeOwned> FromRequest<Arc<App>> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        require_json(&parts.headers)?;
        let raw = read(body, &app.config.limits).await?;
        // A list would be read too, its items as the fields in their order here.
        if !raw.trim_ascii_start().starts_with(b"{") {
            return Err(ApiError::validation("the body is not a JSON object"));
        }
        let value = serde_json::from_slice(&raw).map_err(|problem| {
            ApiError::validation(format!("the body is not as expected: {problem}"))
        })?;
        Ok(Self { value, raw })
    }
}

fn require_json(headers: &HeaderMap) -> Result<(), ApiError> {
    let told = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = told.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    let essence = essence.to_ascii_lowercase();
    let is_json = essence == "application/json"
        || (essence.starts_with("application/") && essence.ends_with("+json"));
    if is_json {
        return Ok(());
    }
    Err(ApiError::validation("send a JSON body with Content-Type: application/json"))
}

async fn read(body: Body, limits: &Limits) -> Result<Bytes, ApiError> {
    let budget = Budget::within(limits.body_read);
    let whole = budget.run("read the body", Limited::new(body, limits.body_bytes).collect()).await;
    match whole {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body is longer than the {} bytes a request may have", limits.body_bytes),
        )),
        Ok(Err(_broken)) => Err(ApiError::validation("the body broke off")),
        Err(_expired) => Err(ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            format!("the body did not arrive within {} s", limits.body_read.as_secs()),
        )),
    }
}
