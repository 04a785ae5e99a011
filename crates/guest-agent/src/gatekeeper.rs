//! Who may ask, as whom, and for how long: the checks every request passes before its handler.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use connectrpc::ErrorCode;
use guest_wire::rest::TOKEN_HEADER;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, StatusCode};

use crate::agent::{Agent, UserError};
use crate::rest::RestError;

/// Told before the first `/init` where one is needed.
pub(crate) const NOT_INITIALISED: &str = "envd not initialized";
const TIMEOUT_HEADER: &str = "connect-timeout-ms";

/// The user a request names in its `Authorization` header; `None` means the default one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Named(pub(crate) Option<String>);

/// How long the client lets the call take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TimeLimit(pub(crate) Duration);

/// The token is asked for first, so a wrong one hides whether a user exists.
pub(crate) async fn layer(
    State(agent): State<Arc<Agent>>,
    mut request: Request,
    next: Next,
) -> Response {
    if let Err(message) = may_pass(&agent, &request) {
        return RestError::new(StatusCode::UNAUTHORIZED, message).into_response();
    }
    let named = named_user(request.headers());
    if let Some(name) = &named
        && let Err(error) = agent.user(Some(name))
    {
        return rpc_error(request.headers(), user_error_code(&error), &error.to_string());
    }
    match time_limit(request.headers()) {
        Ok(None) => {
            request.headers_mut().remove(TIMEOUT_HEADER);
        }
        Ok(Some(limit)) => {
            request.extensions_mut().insert(limit);
        }
        Err(message) => {
            return rpc_error(request.headers(), ErrorCode::InvalidArgument, &message);
        }
    }
    request.extensions_mut().insert(Named(named));
    next.run(request).await
}

pub(crate) fn user_error_code(error: &UserError) -> ErrorCode {
    match error {
        UserError::Unknown(_) | UserError::UnknownDefault(_) => ErrorCode::Unauthenticated,
        UserError::Table(_) => ErrorCode::Internal,
    }
}

/// `/init` and `/files` have rules of their own, and `/health` has none.
fn may_pass(agent: &Agent, request: &Request) -> Result<(), &'static str> {
    let (method, path) = (request.method(), request.uri().path());
    if agent.settings.is_closed() {
        let opens = matches!((method, path), (&Method::GET, "/health") | (&Method::POST, "/init"));
        return if opens { Ok(()) } else { Err(NOT_INITIALISED) };
    }
    if !agent.settings.has_token() {
        return Ok(());
    }
    let exempt = matches!(
        (method, path),
        (&Method::GET, "/health" | "/files") | (&Method::POST, "/files" | "/init")
    );
    let shown = request.headers().get(TOKEN_HEADER).map(HeaderValue::as_bytes);
    if exempt || shown.is_some_and(|shown| agent.settings.is_token(shown)) {
        Ok(())
    } else {
        Err("unauthorized access, please provide a valid access token or method signing if \
             supported")
    }
}

/// The name in `Authorization: Basic`; the password is not looked at. Anything but Basic names
/// nobody.
pub(crate) fn named_user(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (name, _password) = decoded.split_once(':')?;
    Some(name.to_owned())
}

/// 0 is no limit: clients that want none have sent it.
pub(crate) fn time_limit(headers: &HeaderMap) -> Result<Option<TimeLimit>, String> {
    const DIGITS_MAX: usize = 10;
    let Some(value) = headers.get(TIMEOUT_HEADER) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let limit_ms = text.parse::<u64>().ok().filter(|_| is_number && text.len() <= DIGITS_MAX);
    match limit_ms {
        Some(0) => Ok(None),
        Some(limit_ms) => Ok(Some(TimeLimit(Duration::from_millis(limit_ms)))),
        None => Err(format!(
            "header Connect-Timeout-Ms must be a number of milliseconds with at most \
             {DIGITS_MAX} digits, not '{text}'"
        )),
    }
}

/// An RPC error made before the RPC was dispatched. A stream carries it in its last frame, with
/// status 200; everything else in status and body.
fn rpc_error(request: &HeaderMap, code: ErrorCode, message: &str) -> Response {
    let body = serde_json::json!({ "code": code.as_str(), "message": message });
    let content_type = request.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    if !content_type.starts_with(b"application/connect+") {
        return (code.http_status(), axum::Json(body)).into_response();
    }
    const END_OF_STREAM: u8 = 2;
    let end = serde_json::json!({ "error": body }).to_string();
    let length = u32::try_from(end.len()).unwrap_or(u32::MAX);
    let mut frame = vec![END_OF_STREAM];
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(end.as_bytes());
    let content_type = HeaderValue::from_bytes(content_type)
        .unwrap_or(HeaderValue::from_static("application/connect+json"));
    ([(CONTENT_TYPE, content_type)], frame).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        headers
    }

    #[test]
    fn only_basic_authorization_names_a_user() {
        // "user:", ":", "user:secret", and "user" without a colon
        for (value, name) in [
            ("Basic dXNlcjo=", Some("user")),
            ("basic dXNlcjpzZWNyZXQ=", Some("user")),
            ("Basic Og==", Some("")),
            ("Basic dXNlcg==", None),
            ("Bearer dXNlcjo=", None),
            ("Basic ?", None),
        ] {
            let named = named_user(&headers("authorization", value));
            assert_eq!(named.as_deref(), name, "{value}");
        }
    }

    #[test]
    fn a_time_limit_is_a_number_of_at_most_ten_digits() {
        let limit = |text| time_limit(&headers(TIMEOUT_HEADER, text)).map(|l| l.map(|l| l.0));
        assert_eq!(limit("1500"), Ok(Some(Duration::from_millis(1500))));
        assert_eq!(limit("0"), Ok(None));
        for bad in ["", "+5", "-5", "1.5", "12345678901", "soon"] {
            assert!(limit(bad).is_err(), "{bad}");
        }
        assert!(time_limit(&HeaderMap::new()).unwrap().is_none());
    }
}
