//! What reads bytes that a client chose, for the fuzz targets.
#![expect(clippy::missing_panics_doc, reason = "what a target finds is a panic")]

use e2b_wire::host_name::Target;
use http::header::{CONNECTION, FORWARDED, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderName, HeaderValue, Request};

use crate::control_path::is_control_path;
use crate::headers::{for_sandbox, wanted_upgrade};
use crate::serve::plain_check;
use crate::signed::SignedRequest;

const LINES_MAX: usize = 64;

/// The head of a request, a line of method and target and one for each header: what is passed on has
/// nothing that is between neighbours, nor anything that only the edge may say.
pub fn head(text: &str) {
    let Some(request) = read(text) else { return };
    drop(Target::from_headers(request.headers()));
    if let Some(signed) = SignedRequest::of(&request) {
        assert!(!signed.is_signed_by("a token that nobody guesses"));
    }
    path(request.uri().path());
    let upgrade = wanted_upgrade(&request);
    let upgrades = upgrade.is_some();
    let (mut head, ()) = request.into_parts();
    for_sandbox(&mut head, upgrade);
    let headers = &head.headers;
    assert!(headers.contains_key(HOST), "{headers:?}");
    assert!(!headers.contains_key(TRANSFER_ENCODING) && !headers.contains_key(FORWARDED));
    assert!(headers.keys().all(|name| !name.as_str().starts_with("x-forwarded-")), "{headers:?}");
    assert_eq!(headers.contains_key(UPGRADE), upgrades);
    assert!(headers.get_all(TE).iter().all(|te| te == "trailers"));
    assert!(headers.get_all(CONNECTION).iter().all(|word| word == "te" || word == "upgrade"));
    assert!(head.uri.authority().is_none() && head.extensions.is_empty());
}

/// What a WebSocket passes to a client.
pub fn frames(bytes: &[u8]) {
    crate::tunnel::pass_in_pieces(bytes);
}

/// What a client sends on a connection: what a sandbox gets of it without the library is what it would
/// get by way of it.
pub fn plain_request(bytes: &[u8]) {
    plain_check::request(bytes);
}

/// What a sandbox answers, in two pieces that are cut at `cut`: whatever it is, its client sees one
/// answer and knows where that ends. `to_head`: the request was one of `HEAD`; `is_last`: no other
/// request follows.
pub fn plain_answer(bytes: &[u8], cut: usize, to_head: bool, is_last: bool) {
    plain_check::answer_in_pieces(bytes, cut, to_head, is_last);
}

/// A path is the same with segments that lead nowhere.
fn path(path: &str) {
    if path.starts_with('/') {
        for same in [format!("/.{path}"), format!("/x/..{path}"), format!("/%2e{path}/.")] {
            assert_eq!(is_control_path(path), is_control_path(&same), "{path:?}, {same:?}");
        }
    }
}

fn read(text: &str) -> Option<Request<()>> {
    let mut lines = text.lines();
    let (method, uri) = lines.next()?.split_once(' ')?;
    let mut request = Request::builder().method(method).uri(uri).body(()).ok()?;
    for (name, value) in lines.take(LINES_MAX).filter_map(|line| line.split_once(':')) {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        request.headers_mut().append(name, HeaderValue::from_str(value.trim()).ok()?);
    }
    Some(request)
}
