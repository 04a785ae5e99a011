//! What is different for gRPC: it needs HTTP/2 and trailers all the way to the sandbox, and its
//! clients look for errors in `grpc-status`.

use e2b_wire::proxy_error::ProxyError;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Version};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::Body;

const MEDIA_TYPE: &str = "application/grpc";
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// What `grpc-message` may not have as it is (gRPC over HTTP2, "Percent-Encoded").
const ESCAPED: &AsciiSet = &CONTROLS.add(b'%');

/// Codes of gRPC that the edge answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Code {
    Internal = 13,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    Unauthenticated = 16,
    Unavailable = 14,
    Unimplemented = 12,
}

/// Whether `request` is a call of gRPC.
///
/// Only the content type says so: `te: trailers` is sent by browsers, too, to servers that know
/// nothing of HTTP/2. gRPC-Web has a content type of its own, and makes do with HTTP/1.1.
pub(crate) fn is_call<B>(request: &Request<B>) -> bool {
    let kind = request.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    request.version() == Version::HTTP_2 && kind.is_some_and(is_media_type)
}

fn is_media_type(kind: &[u8]) -> bool {
    let Some((start, rest)) = kind.split_at_checked(MEDIA_TYPE.len()) else { return false };
    start.eq_ignore_ascii_case(MEDIA_TYPE.as_bytes())
        && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

/// The answer to a call of the guest agent. It serves HTTP/1.1, where its status would be lost.
pub(crate) fn not_spoken() -> Response<Body> {
    let why = "the guest agent does not speak gRPC: use Connect or gRPC-Web";
    answer(ended(Code::Unimplemented, why))
}

/// The answer to a call that did not reach its sandbox.
pub(crate) fn refused(error: ProxyError<'_>) -> Response<Body> {
    answer(ended(code(error.status()), &error.message()))
}

/// An answer without messages, which has its trailers in its head; the status of that is 200.
fn answer(trailers: HeaderMap) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.headers_mut() = trailers;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    response
}

/// The trailers of an answer that ends before the sandbox has said how.
pub(crate) fn cut_off() -> HeaderMap {
    ended(Code::Unavailable, "the connection to the sandbox ended before its answer did")
}

fn ended(code: Code, message: &str) -> HeaderMap {
    let message = utf8_percent_encode(message, ESCAPED).to_string();
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert(GRPC_STATUS, HeaderValue::from(code as u16));
    if let Ok(message) = HeaderValue::from_str(&message) {
        trailers.insert(GRPC_MESSAGE, message);
    }
    trailers
}

/// As gRPC's clients read a status of HTTP, but for 429, which has a code that says more.
const fn code(status: StatusCode) -> Code {
    match status {
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::FORBIDDEN => Code::PermissionDenied,
        StatusCode::NOT_FOUND => Code::Unimplemented,
        StatusCode::TOO_MANY_REQUESTS => Code::ResourceExhausted,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::CONFLICT => {
            Code::Unavailable
        }
        _ => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, Version};

    use super::is_call;

    #[test]
    fn only_the_content_type_of_grpc_over_http_2_makes_a_call() {
        let request = |version, kind: &str| {
            let request = Request::builder().version(version).header("te", "trailers");
            request.header("content-type", kind).body(()).unwrap()
        };
        for kind in ["application/grpc", "application/grpc+proto", "Application/gRPC; x=y"] {
            assert!(is_call(&request(Version::HTTP_2, kind)), "{kind}");
            assert!(!is_call(&request(Version::HTTP_11, kind)), "{kind}");
        }
        for kind in ["application/grpc-web", "application/grpc-web+proto", "application/json", ""] {
            assert!(!is_call(&request(Version::HTTP_2, kind)), "{kind}");
        }
    }
}
