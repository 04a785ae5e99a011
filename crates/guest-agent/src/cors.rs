//! Lets programs in browsers of any origin call the agent. No cookies are involved: whoever
//! calls shows a token or does not need one.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderValue, ORIGIN, VARY,
};
use http::{HeaderMap, Method, StatusCode};

const ALLOWED_METHODS: [&str; 6] = ["HEAD", "GET", "POST", "PUT", "PATCH", "DELETE"];
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "Content-Encoding, Connect-Content-Encoding, Grpc-Status, Grpc-Message, \
     Grpc-Status-Details-Bin, Location, Cache-Control, X-Content-Type-Options",
);
const PREFLIGHT_VARY: HeaderValue = HeaderValue::from_static(
    "Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
);
const ANY: HeaderValue = HeaderValue::from_static("*");
const MAX_AGE_S: HeaderValue = HeaderValue::from_static("7200");

/// The outermost layer: a browser's question before the request is answered here and now, before
/// any token is asked for.
pub(crate) async fn layer(request: Request, next: Next) -> Response {
    let has_origin = request.headers().contains_key(ORIGIN);
    if request.method() == Method::OPTIONS
        && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD)
    {
        let mut response = StatusCode::NO_CONTENT.into_response();
        response.headers_mut().insert(VARY, PREFLIGHT_VARY);
        if has_origin {
            answer_preflight(request.headers(), response.headers_mut());
        }
        return response;
    }
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.append(VARY, HeaderValue::from_static("Origin"));
    if has_origin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, ANY);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    }
    response
}

fn answer_preflight(asked: &HeaderMap, answer: &mut HeaderMap) {
    let Some(method) = asked.get(ACCESS_CONTROL_REQUEST_METHOD) else { return };
    if !ALLOWED_METHODS.iter().any(|allowed| method.as_bytes() == allowed.as_bytes()) {
        return;
    }
    answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, ANY);
    answer.insert(ACCESS_CONTROL_ALLOW_METHODS, method.clone());
    if let Some(headers) = asked.get(ACCESS_CONTROL_REQUEST_HEADERS) {
        answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, headers.clone());
    }
    answer.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE_S);
}
