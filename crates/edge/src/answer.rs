//! What the edge says itself.

use e2b_wire::host_name::BadTarget;
use e2b_wire::proxy_error::{ErrorForm, ProxyError};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Request, Response, StatusCode};

use crate::{Body, grpc};

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// How the sender of a request can be told of an error.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Form {
    Http(ErrorForm),
    Grpc,
}

impl Form {
    pub(crate) fn wanted<B>(request: &Request<B>) -> Self {
        if grpc::is_call(request) {
            Self::Grpc
        } else {
            Self::Http(ErrorForm::wanted(request.headers()))
        }
    }

    pub(crate) fn refused(self, error: ProxyError<'_>) -> Response<Body> {
        match self {
            Self::Http(form) => proxy_error(error, form),
            Self::Grpc => grpc::refused(error),
        }
    }
}

fn proxy_error(error: ProxyError<'_>, form: ErrorForm) -> Response<Body> {
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
