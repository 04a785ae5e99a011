use std::fmt;
use std::time::Duration;

use axum::Json;
use axum::response::{IntoResponse, Response};
use e2b_wire::{ErrorBody, error_code};
use http::{HeaderName, HeaderValue, StatusCode, header};

use crate::store::StoreError;

/// An answer that is not a success, as the wire has it.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    status: StatusCode,
    message: String,
    error_code: Option<&'static str>,
    retry_after: Option<Duration>,
    /// Tells the Python SDK to try again on a status it would not.
    should_retry: bool,
}

const RETRY_CLOSING: Duration = Duration::from_secs(5);
/// Somebody has to make room.
const RETRY_FULL: Duration = Duration::from_secs(30);
/// Others have waited for their turn already.
const RETRY_BUSY: Duration = Duration::from_secs(2);
/// Read by newer Python SDKs: whether the same request may be sent again.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("should-retry");

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { status, message, error_code: None, retry_after: None, should_retry: false }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// A request whose shape is wrong.
    pub(crate) fn validation(problem: impl fmt::Display) -> Self {
        Self::bad_request(format!("validation error: {problem}"))
    }

    pub(crate) fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// Somebody else's sandboxes are as unknown as those that never were.
    pub(crate) fn no_sandbox(id: &model::SandboxId) -> Self {
        Self::not_found(format!("sandbox {id} does not exist or has ended"))
    }

    /// Something that is understood and is not there yet.
    pub(crate) fn unsupported(what: impl fmt::Display, instead: &str) -> Self {
        let message = format!("{what} is not supported by this version of Cofferdam; {instead}");
        Self::new(StatusCode::NOT_IMPLEMENTED, message)
    }

    pub(crate) fn unavailable(message: impl Into<String>, retry_after: Duration) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message).retry_after(Some(retry_after))
    }

    pub(crate) fn closing() -> Self {
        Self::unavailable("the service is stopping; try again when it is back", RETRY_CLOSING)
    }

    /// The cause is in the log, never in the answer.
    pub(crate) fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal error; the log of the service says more",
        )
        .code(error_code::INTERNAL)
    }

    pub(crate) fn is_conflict(&self) -> bool {
        self.status == StatusCode::CONFLICT
    }

    pub(crate) fn is_unavailable(&self) -> bool {
        self.status == StatusCode::SERVICE_UNAVAILABLE
    }

    pub(crate) fn is_rate_limited(&self) -> bool {
        self.status == StatusCode::TOO_MANY_REQUESTS
    }

    /// As one of several results in an answer.
    pub(crate) fn into_body(self) -> ErrorBody {
        ErrorBody {
            code: self.status.as_u16(),
            message: self.message,
            error_code: self.error_code.map(str::to_owned),
        }
    }

    pub(crate) fn is_not_found(&self) -> bool {
        self.status == StatusCode::NOT_FOUND
    }

    pub(crate) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    pub(crate) fn code(mut self, code: &'static str) -> Self {
        self.error_code = Some(code);
        self
    }

    pub(crate) fn retry_after(mut self, wait: Option<Duration>) -> Self {
        self.retry_after = wait;
        self
    }

    pub(crate) fn should_retry(mut self) -> Self {
        self.should_retry = true;
        self
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        tracing::error!(error = %observe::chain(&error), "the database failed a request");
        if error.is_disk_full() {
            let message = "the disk of the service is full; nothing new can be recorded";
            return Self::unavailable(message, RETRY_FULL).code(error_code::CAPACITY_UNAVAILABLE);
        }
        if error.is_busy() {
            let message = "the service has too much to do to record this; try again";
            return Self::unavailable(message, RETRY_BUSY);
        }
        Self::internal()
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Self { status, retry_after, should_retry, .. } = self;
        let mut response = (status, Json(self.into_body())).into_response();
        let headers = response.headers_mut();
        if let Some(wait) = retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
        }
        if should_retry {
            headers.insert(SHOULD_RETRY, HeaderValue::from_static("true"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::ApiError;

    impl ApiError {
        /// Status, message, error code and seconds to wait, for the tests of what makes errors.
        pub(crate) fn parts(&self) -> (u16, &str, Option<&'static str>, Option<u64>) {
            let wait = self.retry_after.map(|wait| wait.as_secs());
            (self.status.as_u16(), &self.message, self.error_code, wait)
        }
    }
}
