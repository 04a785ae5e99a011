use e2b_wire::host_name::Target;

use crate::serve::plain::MAX_HEADERS;
use crate::serve::plain::request::{Look, Plain, look};
use crate::upstream::BUFFER_BYTES;

/// The lines that name a target.
const TO: &str = "Host: any.name:3000\r\nE2b-Sandbox-Id: iabc\r\nE2b-Sandbox-Port: 8080\r\n";

fn target(port: &str) -> Target {
    Target { sandbox: "iabc".parse().unwrap(), port: port.parse().unwrap() }
}

/// What is seen in `bytes`, and what the sandbox gets, which comes after what was there before.
fn looked(bytes: impl AsRef<[u8]>) -> (Look, String) {
    let mut out = b"before".to_vec();
    let look = look(bytes.as_ref(), &mut out);
    let sent = out.strip_prefix(b"before").unwrap();
    (look, String::from_utf8(sent.to_vec()).unwrap())
}

#[track_caller]
fn is_plain(bytes: impl AsRef<[u8]>) -> (Plain, String) {
    match looked(bytes.as_ref()) {
        (Look::Plain(plain), sent) => (plain, sent),
        (other, _sent) => panic!("{other:?}: {}", bytes.as_ref().escape_ascii()),
    }
}

/// It is for the library, and the memory is as before.
#[track_caller]
fn is_other(bytes: impl AsRef<[u8]>) {
    let bytes = bytes.as_ref();
    assert_eq!(looked(bytes), (Look::Other, String::new()), "{}", bytes.escape_ascii());
}

/// A request of `GET` with `lines`, each with its end.
fn get(lines: &str) -> String {
    format!("GET /a?b HTTP/1.1\r\n{TO}{lines}\r\n")
}

fn request_line(line: &str) -> String {
    format!("{line}\r\n{TO}\r\n")
}

#[test]
fn a_request_is_for_the_sandbox_of_the_two_headers_or_of_the_host_name() {
    for (lines, port) in [
        (TO, "8080"),
        ("Host: 80-iabc.x:3000\r\n", "80"),
        ("Host: 80-iabc-6532622b.x\r\nE2b-Sandbox-Id:\r\nE2b-Sandbox-Port: \r\n", "80"),
        ("Host: 80-iother.x\r\nE2B-SANDBOX-ID: iabc\r\ne2b-sandbox-port: 49983\r\n", "49983"),
        ("E2b-Sandbox-Port: 1\r\nE2b-Sandbox-Id: iabc\r\nHost:\r\n", "1"),
    ] {
        let request = format!("GET / HTTP/1.1\r\n{lines}\r\n");
        let (plain, _sent) = is_plain(&request);
        assert_eq!(plain.target, target(port), "{lines}");
        assert_eq!(plain.bytes, request.len());
    }
}

#[test]
fn every_method_is_passed_on_and_only_what_does_no_harm_twice_is_repeatable() {
    for (method, repeatable) in [
        ("GET", true),
        ("HEAD", true),
        ("OPTIONS", true),
        ("TRACE", true),
        ("PUT", true),
        ("DELETE", true),
        ("POST", false),
        ("PATCH", false),
        ("get", false),
        ("MY-OWN", false),
    ] {
        let (plain, sent) = is_plain(request_line(&format!("{method} / HTTP/1.1")));
        assert_eq!((plain.repeatable, plain.is_head), (repeatable, method == "HEAD"), "{method}");
        assert!(sent.starts_with(&format!("{method} / HTTP/1.1\r\n")), "{sent}");

        let with_body = format!("{method} / HTTP/1.1\r\n{TO}Content-Length: 1\r\n\r\nx");
        assert!(!is_plain(with_body).0.repeatable, "{method}");
    }
}

#[test]
fn a_body_is_waited_for_and_the_next_request_is_not_its() {
    let head = format!("POST / HTTP/1.1\r\n{TO}Content-Length: 4\r\n\r\n");
    let all = head.len() + 4;
    for here in ["", "b", "bod"] {
        let part = format!("{head}{here}");
        assert_eq!(looked(part), (Look::Until(all), String::new()), "{here}");
    }
    for after in ["", "G", "GET / HTTP/1.1\r\n\r\n", "\0"] {
        let (plain, sent) = is_plain(format!("{head}body{after}"));
        assert_eq!(plain.bytes, all);
        assert_eq!(sent, format!("{head}body"));
    }
    // A length of nothing is one, too.
    let empty = format!("POST / HTTP/1.1\r\n{TO}Content-Length: 0\r\n\r\n");
    let (plain, sent) = is_plain(format!("{empty}body"));
    assert_eq!((plain.bytes, &sent), (empty.len(), &empty));
}

#[test]
fn a_request_may_be_as_large_as_the_buffer_and_no_larger() {
    let with_length = |length: usize| {
        let head = format!("POST / HTTP/1.1\r\n{TO}Content-Length: {length}\r\n\r\n");
        (head.len(), head + &"x".repeat(length))
    };
    let head = with_length(10_000).0;
    let (_, largest) = with_length(BUFFER_BYTES - head);
    assert_eq!(is_plain(&largest).0.bytes, BUFFER_BYTES);
    assert_eq!(looked(largest.split_at(head).0), (Look::Until(BUFFER_BYTES), String::new()));
    let (_, larger) = with_length(BUFFER_BYTES - head + 1);
    is_other(&larger);
    is_other(larger.split_at(head).0);

    let padded = |bytes: usize| {
        let rest = get("X: \r\n").len();
        get(&format!("X: {}\r\n", "x".repeat(bytes - rest)))
    };
    assert_eq!(is_plain(padded(BUFFER_BYTES)).0.bytes, BUFFER_BYTES);
    is_other(padded(BUFFER_BYTES + 1));

    let many = |count: usize| get(&"X: 1\r\n".repeat(count - 3));
    is_plain(many(MAX_HEADERS));
    is_other(many(MAX_HEADERS + 1));
}

#[test]
fn all_headers_but_those_between_neighbours_and_forged_origins_are_passed_on() {
    let (_plain, sent) = is_plain(
        "GET /a?b=%20&c HTTP/1.1\r\nhost: 80-iabc.x\r\nCONNECTION: Keep-Alive\r\nKeep-Alive: 5\r\n\
         forwarded: for=1.2.3.4\r\nx-forwarded-for: 1.2.3.4\r\nX-FORWARDED-anything: 1\r\n\
         x-forwarded: kept\r\nauthorization:  Basic dXNlcjo= \r\nX-ACCESS-TOKEN: t\r\n\
         e2b-traffic-access-token: a\r\ncookie: a=1\r\nCookie: b=2\r\nvia: 1.1 x\r\n\
         accept:\r\nsec-websocket-key: 1\r\n\r\n",
    );
    assert_eq!(
        sent,
        "GET /a?b=%20&c HTTP/1.1\r\nHost: 80-iabc.x\r\nX-Forwarded: kept\r\n\
         Authorization: Basic dXNlcjo=\r\nX-Access-Token: t\r\nE2b-Traffic-Access-Token: a\r\n\
         Cookie: a=1\r\nCookie: b=2\r\nVia: 1.1 x\r\nAccept: \r\nSec-Websocket-Key: 1\r\n\r\n"
    );
    let (_plain, sent) = is_plain(get("X: \u{e9}\r\n"));
    assert!(sent.contains("X: \u{e9}\r\n"), "{sent}");
}

#[test]
fn lines_that_end_like_those_of_unix_are_written_as_http_has_them() {
    // The library takes them as well, and so does whoever is in front of it or refuses them. What
    // matters is that the sandbox cannot read another head than the edge.
    let (_plain, sent) = is_plain("\r\n\nGET / HTTP/1.1\nHost: 80-iabc.x\nX: 1\r\n\nGET /");
    assert_eq!(sent, "GET / HTTP/1.1\r\nHost: 80-iabc.x\r\nX: 1\r\n\r\n");
}

#[test]
fn the_rest_of_a_head_is_waited_for_while_it_fits() {
    let whole = get("Connection: keep-alive\r\nContent-Length: 0\r\n");
    for cut in 0..whole.len() {
        let part = whole.split_at(cut).0;
        assert_eq!(looked(part), (Look::More, String::new()), "{part:?}");
    }
    is_plain(whole);
    is_other(format!("GET /{}", "x".repeat(BUFFER_BYTES)));
}

#[test]
fn every_wish_beyond_passing_on_is_for_the_library() {
    for line in [
        "Connection: close",
        "Connection: Upgrade",
        "Connection: keep-alive, upgrade",
        "Connection: keep-alive, x",
        "Connection: host",
        "Connection:",
        "Connection: keep-alive\r\nConnection: close",
        "Upgrade: websocket",
        "Upgrade:",
        "HTTP2-Settings: AAMAAABk",
        "Expect: 100-continue",
        "expect:",
        "TE: trailers",
        "te:",
        "Trailer: X-Sum",
        "Proxy-Connection: keep-alive",
        "Proxy-Authorization: Basic x",
        "proxy-anything: 1",
    ] {
        is_other(get(&format!("{line}\r\n")));
        is_other(get(&format!("{}\r\n", line.to_uppercase())));
    }
}

#[test]
fn what_is_not_sure_to_end_where_it_seems_is_for_the_library() {
    for lines in [
        "Content-Length: +3",
        "Content-Length: -3",
        "Content-Length: 3, 3",
        "Content-Length: 3 3",
        "Content-Length: 3;",
        "Content-Length: 0x3",
        "Content-Length: 3\u{b2}",
        "Content-Length: \u{663}",
        "Content-Length:",
        "Content-Length:  \t",
        "Content-Length: 99999999999999999999999",
        "Content-Length: 18446744073709551615",
        "Content-Length: 18446744073709551616",
        "Content-Length: 3\r\nContent-Length: 3",
        "Content-Length: 3\r\ncontent-length: 4",
        "Content-Length : 3",
        "Content-Length\t: 3",
        "Content-\r\n Length: 3",
        "Transfer-Encoding: chunked",
        "transfer-encoding: CHUNKED",
        "TRANSFER-ENCODING: identity",
        "Transfer-Encoding:",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding:\u{b}chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 3",
        "Content-Length: 3\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        "X: 1\r\n Transfer-Encoding: chunked",
        "X: 1\r\n\tContent-Length: 3",
        " Content-Length: 3",
    ] {
        is_other(format!("POST / HTTP/1.1\r\n{TO}{lines}\r\n\r\nabc"));
        is_other(format!("POST / HTTP/1.1\r\n{lines}\r\n{TO}\r\nabc"));
    }
}

#[test]
fn an_illegal_head_is_for_the_library() {
    for bytes in [
        "GET / HTTP/1.1\r\nHost: 80-iabc.x\r\nX: a\0b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: 80-iabc.x\r\nX: a\x7fb\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: 80-iabc.x\r\nX: a\rb\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: 80-iabc.x\r\nX\0: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: 80-iabc.x\r\nX y: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: 80-iabc.x\r\n: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: 80-iabc.x\r\nno colon\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: 80-iabc.x\r\nX: a\r\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: 80-iabc.x\r\nX: a\r\n\r\r\n",
        "GET / HTTP/1.1\rHost: 80-iabc.x\r\n\r\n",
        "G\u{e9}T / HTTP/1.1\r\nHost: 80-iabc.x\r\n\r\n",
        " GET / HTTP/1.1\r\nHost: 80-iabc.x\r\n\r\n",
        "\x16\x03\x01\x02\0\x01\0",
    ] {
        is_other(bytes);
    }
}

#[test]
fn other_versions_and_targets_in_other_forms_are_for_the_library() {
    for line in [
        "GET / HTTP/1.0",
        "GET / HTTP/0.9",
        "GET / HTTP/2.0",
        "GET / HTTP/1.2",
        "GET / http/1.1",
        "GET /",
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "CONNECT 80-iabc.x:80 HTTP/1.1",
        "CONNECT / HTTP/1.1",
        "GET http://80-iabc.x/ HTTP/1.1",
        "GET 80-iabc.x HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "GET a HTTP/1.1",
        "GET ?a HTTP/1.1",
        "GET /#a HTTP/1.1",
        "GET /a?b#c HTTP/1.1",
        "GET /\\a HTTP/1.1",
        "GET /\"a HTTP/1.1",
        "GET /<a> HTTP/1.1",
        "GET /[a] HTTP/1.1",
        "GET /{a}|^` HTTP/1.1",
        "GET /\u{e9} HTTP/1.1",
        "GET /\x7f HTTP/1.1",
        "GET /\0 HTTP/1.1",
    ] {
        is_other(request_line(line));
    }
    is_other("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    let (_plain, sent) = is_plain(request_line("GET //a/../b;c=d,(e)'~!$&*+:@/?x=/?%zz HTTP/1.1"));
    assert!(sent.starts_with("GET //a/../b;c=d,(e)'~!$&*+:@/?x=/?%zz HTTP/1.1\r\n"), "{sent}");
}

#[test]
fn requests_that_name_no_sandbox_properly_are_for_the_library() {
    for lines in [
        // The API's, or nobody's.
        "",
        "Host:",
        "Host: localhost:3000",
        "Host: api.e2b.app",
        "Host: 80-iabc",
        "Host: 127.0.0.1",
        "Host: 80-iabc.\u{e9}",
        "E2b-Sandbox-Id: iabc\r\nE2b-Sandbox-Port: 80",
        // Of two, a program might look at the other one.
        "Host: 80-iabc.x\r\nHost: 80-iabc.x",
        "Host: 80-iabc.x\r\nhost: localhost",
        "Host: x\r\nE2b-Sandbox-Id: iabc\r\nE2b-Sandbox-Id: iabc\r\nE2b-Sandbox-Port: 80",
        "Host: x\r\nE2b-Sandbox-Id: iabc\r\nE2b-Sandbox-Port: 80\r\ne2b-sandbox-port:",
        "Host: 80-iabc.x\r\nE2b-Sandbox-Id:\r\nE2b-Sandbox-Id:",
        // Half of it, or not legal.
        "Host: 80-iabc.x\r\nE2b-Sandbox-Id: iabc",
        "Host: 80-iabc.x\r\nE2b-Sandbox-Port: 80",
        "Host: x\r\nE2b-Sandbox-Id: I\r\nE2b-Sandbox-Port: 80",
        "Host: x\r\nE2b-Sandbox-Id: i abc\r\nE2b-Sandbox-Port: 80",
        "Host: x\r\nE2b-Sandbox-Id: \u{e9}\r\nE2b-Sandbox-Port: 80",
        "Host: x\r\nE2b-Sandbox-Id: iabc\r\nE2b-Sandbox-Port: 0",
        "Host: x\r\nE2b-Sandbox-Id: iabc\r\nE2b-Sandbox-Port: 65536",
        "Host: x\r\nE2b-Sandbox-Id: iabc\r\nE2b-Sandbox-Port: +80",
        "Host: 0-iabc.x",
        "Host: 80-IABC.x",
        "Host: 99999-iabc.x",
    ] {
        let end = if lines.is_empty() { "" } else { "\r\n" };
        is_other(format!("GET / HTTP/1.1\r\n{lines}{end}\r\n"));
    }
}

#[test]
fn control_paths_of_the_guest_agent_are_for_the_library_in_every_spelling() {
    for path in [
        "/init",
        "//init",
        "/init/",
        "/./init",
        "/x/../init",
        "/%69nit",
        "/%2e%2e/init",
        "/x%2f..%2Finit",
        "/init/x/..",
        "/init?a=/b",
        "/journal?run=a&after=1",
        "/%6aournal",
        "/upgrade?",
        "/fsthaw",
    ] {
        let to = |port: u16| format!("POST {path} HTTP/1.1\r\nHost: {port}-iabc.x\r\n\r\n");
        is_other(to(49_983));
        is_plain(to(49_982));
    }
    is_plain("GET /files?path=/init HTTP/1.1\r\nHost: 49983-iabc.x\r\n\r\n");
}
