use std::time::Duration;

use e2b_wire::error_code;
use http::{HeaderMap, StatusCode};

use crate::http::ApiError;
use crate::store::{RowState, Used};

const HEADER: &str = "idempotency-key";
const KEY_MAX: usize = 255;
const RETRY_IN_PROGRESS: Duration = Duration::from_secs(1);

/// The key of a request that may be sent again, and what the request was.
///
/// Kept in the row of the sandbox it made, so it lives through a restart, is as bounded as the
/// rows are, and costs no write of its own.
#[derive(Debug, Clone)]
pub(crate) struct Idempotency {
    key: String,
    digest: String,
}

impl Idempotency {
    /// `digest` is called only when the request has a key.
    pub(crate) fn from_headers(
        headers: &HeaderMap,
        digest: impl FnOnce() -> String,
    ) -> Result<Option<Self>, ApiError> {
        let Some(value) = headers.get(HEADER) else { return Ok(None) };
        let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        match value.to_str() {
            Ok(key) if (1..=KEY_MAX).contains(&key.len()) && key.bytes().all(legal) => {
                Ok(Some(Self { key: key.to_owned(), digest: digest() }))
            }
            Ok(_) | Err(_) => {
                let message = "the header Idempotency-Key is 1 to 255 characters of [a-z0-9-]";
                Err(ApiError::validation(message))
            }
        }
    }

    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    pub(crate) fn digest(&self) -> &str {
        &self.digest
    }

    /// Whether a request whose key was used before is answered as the first one was.
    pub(crate) fn replay(&self, used: &Used) -> Result<(), ApiError> {
        if used.digest != self.digest {
            return Err(ApiError::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "this Idempotency-Key was used for a request with another body; use a new key",
            )
            .code(error_code::IDEMPOTENCY_MISMATCH));
        }
        // Without a lifecycle it never ran, and the first request has not been told so yet.
        if used.row.state == RowState::Starting || used.row.lifecycle.is_none() {
            return Err(in_progress());
        }
        Ok(())
    }
}

/// The first request with this key is not answered yet.
pub(crate) fn in_progress() -> ApiError {
    ApiError::new(
        StatusCode::CONFLICT,
        "a request with this Idempotency-Key is being worked on; repeat it for its answer",
    )
    .code(error_code::IDEMPOTENCY_IN_PROGRESS)
    .retry_after(Some(RETRY_IN_PROGRESS))
    .should_retry()
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::Idempotency;

    fn from(value: &[u8]) -> Result<Option<Idempotency>, u16> {
        let mut headers = HeaderMap::new();
        headers.insert("idempotency-key", HeaderValue::from_bytes(value).unwrap());
        Idempotency::from_headers(&headers, || "d".into()).map_err(|error| error.parts().0)
    }

    #[test]
    fn a_key_is_lower_case_digits_and_dashes() {
        assert_eq!(from(b"a-1").unwrap().unwrap().key(), "a-1");
        for value in [&b""[..], b"A", b"a b", b"\xff", &[b'a'; 256]] {
            assert_eq!(from(value).unwrap_err(), 400);
        }
        let none = Idempotency::from_headers(&HeaderMap::new(), || panic!("no digest is needed"));
        assert!(none.unwrap().is_none());
    }
}
