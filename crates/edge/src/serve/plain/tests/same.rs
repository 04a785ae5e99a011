//! The edge's own path and the library's, side by side.

use proptest::prelude::{Strategy, any, prop_assert, prop_oneof, proptest};
use proptest::sample::select;

use crate::serve::plain::check::{answer_in_pieces, request};

/// Headers that say nothing of where a request goes, or ends.
const PASSED: [&str; 16] = [
    "accept: */*",
    "connection: keep-alive",
    "connection: Keep-Alive",
    "keep-alive: timeout=5, max=1",
    "forwarded: for=1.2.3.4",
    "x-forwarded-for: 1.2.3.4",
    "x-forwarded-: ",
    "x-forwarded: 1",
    "cookie: a=1; b=2",
    "cookie: c=\u{e9}",
    "authorization: Basic dXNlcjo=",
    "e2b-sandbox: 1",
    "e2b-traffic-access-token: x",
    "proxy: 1",
    "x-empty:",
    "accept-encoding:\tgzip, br\t ",
];

/// Some of which make it another request.
const ODD: [&str; 16] = [
    "connection: close",
    "connection: x-secret, keep-alive",
    "content-length: 3",
    "content-length: 03",
    "content-length: +3",
    "content-length: 70000",
    "transfer-encoding: chunked",
    "transfer-encoding : chunked",
    " content-length: 3",
    "upgrade: websocket",
    "expect: 100-continue",
    "te: trailers",
    "proxy-authorization: x",
    "host: 80-iother.x",
    "e2b-sandbox-id: iother",
    "e2b-sandbox-port: 49983",
];

/// In capitals here and there.
fn cased(line: &'static str) -> impl Strategy<Value = String> {
    let name = line.find(':').unwrap();
    any::<u32>().prop_map(move |capitals| {
        let (name, rest) = line.split_at(name);
        let name = name.bytes().enumerate().map(|(at, byte)| {
            let is_capital = capitals >> (at % 32) & 1 == 1;
            char::from(if is_capital { byte.to_ascii_uppercase() } else { byte })
        });
        name.chain(rest.chars()).collect()
    })
}

fn lines(of: impl Strategy<Value = &'static str>) -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec(of.prop_flat_map(cased), 0..6)
}

/// The lines that say where it goes: well, and nearly.
fn target() -> impl Strategy<Value = String> {
    prop_oneof![
        "Host: (80|49983)-iabc(-[a-z0-9]{1,3})?\\.[a-z.:]{1,5}\r\n",
        "Host: [a-z0-9.:-]{0,12}\r\nE2b-Sandbox-Id: iabc\r\nE2B-Sandbox-Port: (80|49983)\r\n",
    ]
}

fn nearly_target() -> impl Strategy<Value = String> {
    prop_oneof![
        target(),
        "Host: 80-iabc\\.[a-z]{0,2}[\u{e9}\u{e8}]{1,2}\r\n",
        "(Host: [0-9]{0,5}-?[a-zI0-9\u{e9}]{0,5}(-[a-z]{0,2})?\\.?[a-z.:\u{e9}]{0,5}\r\n){0,2}\
         (E2b-Sandbox-Id: ?(iabc|I|\u{e9})?\r\n)?(E2b-Sandbox-Port: ?(80|0|49983|\u{e9})?\r\n)?",
    ]
}

fn path() -> impl Strategy<Value = String> {
    prop_oneof!["/[a-z0-9/.%?=&:@!~-]{0,12}", "/(\\./|x/\\.\\./|%2e/)?(init|%69nit)[/?]?"]
}

proptest! {
    #[test]
    fn what_only_has_to_be_passed_on_is_passed_on_alike(
        method in select(vec!["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "x"]),
        path in "/[a-z0-9/.%?=&:@!~-]{0,12}",
        target in "Host: 80-iabc\\.[a-z.:]{1,5}\r\n",
        lines in lines(select(&PASSED[..])),
        body in proptest::option::of("[a-z\r\n]{0,9}"),
        after in "[A-Z /\r\n]{0,9}",
    ) {
        let mut head = format!("{method} {path} HTTP/1.1\r\n{target}");
        for line in lines {
            head += &format!("{line}\r\n");
        }
        let body = body.map(|body| format!("content-LENGTH: {}\r\n\r\n{body}", body.len()));
        head += &body.unwrap_or_else(|| "\r\n".to_owned());
        prop_assert!(request(format!("{head}{after}").as_bytes()), "{head}");
    }

    #[test]
    fn whatever_is_passed_on_is_passed_on_alike(
        method in "(GET|HEAD|POST|CONNECT|[A-Z!{]{0,4})",
        path in path(),
        version in "HTTP/1\\.(1|1|1|1|0|2)",
        target in nearly_target(),
        before in lines(prop_oneof![3 => select(&PASSED[..]), 1 => select(&ODD[..])]),
        end in select(vec!["\r\n", "\r\n", "\r\n", "\n", "\r"]),
        after in "[a-z\r\n]{0,9}",
    ) {
        let mut head = format!("{method} {path} {version}{end}{target}");
        for line in before {
            head += &line;
            head += end;
        }
        request(format!("{head}{end}{after}").as_bytes());
    }

    #[test]
    fn an_answer_is_the_same_however_it_is_cut(
        start in "(HTTP/1\\.1 100 \r\n\r\n)?HTTP/1\\.(1|1|1|0) (200|204|304|404) ?[a-z]{0,3}\r\n",
        lines in proptest::collection::vec(select(vec![
            "content-length: 5\r\n",
            "Content-Length: 5\r\n",
            "content-length: 9\r\n",
            "transfer-encoding: chunked\r\n",
            "transfer-encoding: gzip, chunked\r\n",
            "connection: close\r\n",
            "connection: keep-alive, x-secret\r\n",
            "connection: content-length, transfer-encoding, date\r\n",
            "x-secret: 1\r\n",
            "date: now\r\n",
            "upgrade: h2c\r\n",
            "trailer: x\r\n",
        ]), 0..4),
        body in "(hello|([0-5](;x)? ?\r\n[a-z\r\n]{0,5}\r\n){0,3}(0(;x)?\r\n(x: 1\r\n)?\r\n)?)[a-z\r\n]{0,3}",
        cut in 0..200_usize,
        to_head in any::<bool>(),
        is_last in any::<bool>(),
    ) {
        let answer = format!("{start}{}\r\n{body}", lines.concat());
        answer_in_pieces(answer.as_bytes(), cut, to_head, is_last);
    }
}
