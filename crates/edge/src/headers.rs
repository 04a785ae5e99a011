//! What must change in a message's head between client and sandbox. Everything else is passed on
//! as it came: the edge adds nothing.

use std::num::NonZero;

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, FORWARDED, HOST, HeaderName, HeaderValue,
    PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::PathAndQuery;
use http::{HeaderMap, Uri, Version, request, response};

/// Headers between two neighbours that no `Connection` header has to name.
static HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
];

const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The protocol a request wants to change to. HTTP/2 is not one: the requests inside would pass
/// the edge unseen.
pub(crate) fn wanted_upgrade<B>(request: &http::Request<B>) -> Option<HeaderValue> {
    if request.version() != Version::HTTP_11 {
        return None;
    }
    let protocol = request.headers().get(UPGRADE)?;
    let legal = tokens(request.headers(), &CONNECTION).any(|token| is(token, "upgrade"))
        && !protocol.is_empty()
        && !tokens(request.headers(), &UPGRADE).any(|token| is(token, "h2c") || is(token, "h2"));
    legal.then(|| protocol.clone())
}

/// Turns a client's head into the one for the sandbox.
pub(crate) fn for_sandbox(head: &mut request::Parts, upgrade: Option<HeaderValue>) {
    let trailers = tokens(&head.headers, &TE).any(|token| is(token, "trailers"));
    remove_hop_by_hop(&mut head.headers);
    remove_forwarded(&mut head.headers);
    if trailers {
        head.headers.insert(TE, HeaderValue::from_static("trailers"));
        // `TE` itself is between neighbours.
        head.headers.append(CONNECTION, HeaderValue::from_static("te"));
    }
    if let Some(protocol) = upgrade {
        head.headers.insert(UPGRADE, protocol);
        head.headers.append(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    if head.version == Version::HTTP_2 {
        join_cookies(&mut head.headers);
    }
    set_host(head);
    head.version = Version::HTTP_11;
    // What the listener noted for itself; it would live as long as the connection to the sandbox.
    head.extensions.clear();
}

/// Has the sandbox see the host name `mask`, with `${PORT}` in it for the port. The name the client
/// asked for goes along beside it.
pub(crate) fn mask_host(headers: &mut HeaderMap, mask: &str, port: NonZero<u16>) {
    // The control plane takes no mask that is not a host name.
    let Ok(masked) = HeaderValue::from_str(&mask.replace("${PORT}", &port.to_string())) else {
        return;
    };
    if let Some(asked) = headers.insert(HOST, masked) {
        headers.insert(X_FORWARDED_HOST, asked);
    }
}

/// Turns a head for the sandbox into one of HTTP/2, which has other places for what HTTP/1 says of
/// the connection, and of the host.
pub(crate) fn for_http2(head: &mut request::Parts, tls: bool) {
    head.headers.remove(CONNECTION);
    let host = head.headers.remove(HOST);
    let host = host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default();
    let path = head.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    // Servers compare it with what they are reached by (RFC 9113, 8.3.1).
    let scheme = if tls { "https" } else { "http" };
    let whole = Uri::builder().scheme(scheme).authority(host).path_and_query(path).build();
    // A host that is none is left out, as HTTP/2 allows.
    if let Ok(whole) = whole {
        head.uri = whole;
    }
    head.version = Version::HTTP_2;
}

/// Turns a sandbox's head into the one for the client.
pub(crate) fn for_client(head: &mut response::Parts) {
    remove_hop_by_hop(&mut head.headers);
    head.version = Version::HTTP_11;
}

/// The same for an answer that changes the protocol, if it is one that was asked for.
pub(crate) fn for_upgraded_client(head: &mut response::Parts, wanted: &HeaderValue) -> bool {
    let Some(protocol) = head.headers.get(UPGRADE).cloned() else { return false };
    if !protocol.as_bytes().eq_ignore_ascii_case(wanted.as_bytes()) {
        return false;
    }
    for_client(head);
    head.headers.insert(UPGRADE, protocol);
    head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    true
}

/// The items of a header that is a list.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
}

fn is(token: &[u8], word: &str) -> bool {
    token.eq_ignore_ascii_case(word.as_bytes())
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = tokens(headers, &CONNECTION)
        .filter_map(|token| HeaderName::from_bytes(token).ok())
        // What decides whom a message is for, and where it ends, is nobody's to remove.
        .filter(|name| *name != HOST && *name != CONTENT_LENGTH)
        .collect();
    for name in &named {
        headers.remove(name);
    }
    // Most messages have none of them, which is seen sooner than nine are looked up.
    let found: Vec<HeaderName> =
        headers.keys().filter(|name| HOP_BY_HOP.contains(name)).cloned().collect();
    for name in &found {
        headers.remove(name);
    }
}

/// A client must not be able to say who it is on behalf of somebody else.
fn remove_forwarded(headers: &mut HeaderMap) {
    headers.remove(FORWARDED);
    let named: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("x-forwarded-")).cloned().collect();
    for name in &named {
        headers.remove(name);
    }
}

/// HTTP/2 may split cookies over several headers, HTTP/1 may not (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if cookies.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
    {
        headers.insert(COOKIE, joined);
    }
}

/// Moves the authority of a whole URI into `Host`, as HTTP/1 wants it towards a server.
fn set_host(head: &mut request::Parts) {
    if let Some(authority) = head.uri.authority() {
        let host = authority.as_str();
        let host = host.rsplit_once('@').map_or(host, |(_user, host)| host);
        if let Ok(host) = HeaderValue::from_str(host) {
            head.headers.insert(HOST, host);
        }
        let path = head.uri.path_and_query().cloned();
        head.uri = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    } else if !head.headers.contains_key(HOST) {
        head.headers.insert(HOST, HeaderValue::from_static(""));
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Request, Version};

    use super::{for_sandbox, wanted_upgrade};

    fn request(pairs: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().uri("/a?b");
        for (name, value) in pairs {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    /// What the sandbox sees, as sorted lines.
    fn seen(request: Request<()>) -> Vec<String> {
        let upgrade = wanted_upgrade(&request);
        let (mut head, ()) = request.into_parts();
        for_sandbox(&mut head, upgrade);
        let mut lines: Vec<String> = head
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        lines.sort();
        lines.insert(0, head.uri.to_string());
        lines
    }

    #[test]
    fn headers_between_neighbours_and_forged_origins_stay_here() {
        let lines = seen(request(&[
            ("host", "8080-iabc.x"),
            ("connection", "keep-alive, X-Secret"),
            ("connection", "host, content-length"),
            ("content-length", "3"),
            ("keep-alive", "timeout=5"),
            ("x-secret", "1"),
            ("proxy-authorization", "basic"),
            ("te", "gzip"),
            ("transfer-encoding", "chunked"),
            ("forwarded", "for=1.2.3.4"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-anything", "1"),
            ("e2b-sandbox-id", "iabc"),
            ("x-access-token", "t"),
        ]));
        assert_eq!(
            lines,
            [
                "/a?b",
                "content-length: 3",
                "e2b-sandbox-id: iabc",
                "host: 8080-iabc.x",
                "x-access-token: t"
            ]
        );
    }

    #[test]
    fn an_upgrade_is_passed_on_unless_it_is_to_http_2() {
        let asks = |protocol| {
            request(&[("host", "h"), ("connection", "keep-alive, Upgrade"), ("upgrade", protocol)])
        };
        assert_eq!(
            seen(asks("websocket")),
            ["/a?b", "connection: upgrade", "host: h", "upgrade: websocket"]
        );
        for protocol in ["h2c", "websocket, H2C", ""] {
            assert_eq!(seen(asks(protocol)), ["/a?b", "host: h"], "{protocol}");
        }
        assert_eq!(wanted_upgrade(&request(&[("upgrade", "websocket")])), None);
    }

    #[test]
    fn the_authority_of_a_whole_uri_becomes_the_host() {
        let mut whole = request(&[("host", "other"), ("cookie", "a=1"), ("cookie", "b=2")]);
        *whole.uri_mut() = "http://user:pw@8080-iabc.x:81/p?q".parse().unwrap();
        *whole.version_mut() = Version::HTTP_2;
        assert_eq!(seen(whole), ["/p?q", "cookie: a=1; b=2", "host: 8080-iabc.x:81"]);
        let bare = Request::builder().uri("http://h").body(()).unwrap();
        assert_eq!(seen(bare), ["/", "host: h"]);
    }

    #[test]
    fn only_the_protocol_that_was_asked_for_may_come_back() {
        let answer = |protocol: &str| {
            let response = http::Response::builder()
                .status(101)
                .header("upgrade", protocol)
                .header("connection", "Upgrade")
                .body(())
                .unwrap();
            let (mut head, ()) = response.into_parts();
            super::for_upgraded_client(&mut head, &HeaderValue::from_static("websocket"))
        };
        assert!(answer("WebSocket"));
        assert!(!answer("h2c"));
    }
}
