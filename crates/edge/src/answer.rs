//! What the edge says itself.

use e2b_wire::host_name::BadTarget;
use e2b_wire::proxy_error::{ErrorForm, ProxyError};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};

use crate::Body;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

pub(crate) fn proxy_error(error: ProxyError<'_>, form: ErrorForm) -> Response<Body> {
    let mut response = Response::new(Body::text(error.body(form)));
    *response.status_mut() = error.status();
    response.headers_mut().insert(CONTENT_TYPE, form.content_type());
    if let Some(after) = error.retry_after() {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(after.as_secs()));
    }
    response
}

pub(crate) fn bad_target(why: BadTarget) -> Response<Body> {
    text(StatusCode::BAD_REQUEST, why.to_string())
}

pub(crate) fn text(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Body::text(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, TEXT);
    response
}
