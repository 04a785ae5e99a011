use e2b_wire::proxy_error::{ErrorForm, ProxyError};

use crate::serve::plain::MAX_HEADERS;
use crate::serve::plain::answer::{Body, Look, look, write_refusal};
use crate::serve::plain::check::{Got, answer};

const DATED: &str = "Date: Sun, 22 Nov 2026 00:00:00 GMT\r\n";

/// What a client gets of `bytes`, after which the sandbox ends the connection.
#[track_caller]
fn got(bytes: impl AsRef<[u8]>) -> Got {
    let bytes = bytes.as_ref();
    let got = answer(&[bytes], false, false);
    got.unwrap_or_else(|| panic!("no answer: {}", bytes.escape_ascii()))
}

#[track_caller]
fn is_no_answer(bytes: impl AsRef<[u8]>) {
    let (bytes, mut out) = (bytes.as_ref(), b"before".to_vec());
    for to_head in [false, true] {
        let seen = look(bytes, to_head, false, &mut out);
        assert!(matches!(seen, Look::Broken), "{seen:?}: {}", bytes.escape_ascii());
        assert_eq!(out, b"before");
    }
}

/// The head as the client gets it, of an answer with `lines`.
fn head(start: &str, lines: &str, to_head: bool, is_last: bool) -> String {
    let mut out = Vec::new();
    let seen = look(format!("{start}\r\n{lines}\r\n").as_bytes(), to_head, is_last, &mut out);
    assert!(matches!(seen, Look::Answer(_)), "{seen:?}");
    String::from_utf8(out).unwrap()
}

#[test]
fn a_body_ends_where_its_head_says() {
    for (lines, body, data, whole, stays) in [
        ("Content-Length: 5", "hello", "hello", true, true),
        ("Content-Length: 5", "hell", "hell", false, false),
        ("Content-Length: 5", "hello!", "hello", true, false),
        ("Content-Length: 005", "hello", "hello", true, true),
        ("Content-Length: 5\r\ncontent-length: 5", "hello", "hello", true, true),
        ("Content-Length: 0", "", "", true, true),
        ("Content-Length: 0", "HTTP/1.1 200 OK\r\n\r\n", "", true, false),
        ("Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n", "hello", true, true),
        ("transfer-encoding: CHUNKED", "5\r\nhello\r\n0\r\n\r\n", "hello", true, true),
        ("Transfer-Encoding: chunked", "0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", "", true, false),
        ("Transfer-Encoding: chunked", "5\r\nhello\r\n", "hello", false, false),
        ("Transfer-Encoding: chunked", "5\r\nhello\n0\r\n\r\n", "hello", false, false),
        // Chunks go before a length, which no client gets to see.
        ("Content-Length: 2\r\nTransfer-Encoding: chunked", "1\r\nx\r\n0\r\n\r\n", "x", true, true),
        ("Transfer-Encoding: chunked\r\nContent-Length: 2", "1\r\nx\r\n0\r\n\r\n", "x", true, true),
        ("Server: old", "until the end", "until the end", true, false),
        ("Server: old", "", "", true, false),
    ] {
        let got = got(format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\n{body}"));
        assert_eq!(String::from_utf8(got.data).unwrap(), data, "{lines}");
        assert_eq!((got.whole, got.stays), (whole, stays), "{lines}: {body}");
    }
}

#[test]
fn some_answers_have_no_body_whatever_they_say() {
    for (to_head, code) in [(true, 200), (true, 404), (false, 204), (false, 304), (true, 304)] {
        for lines in ["", "Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"] {
            let text = format!("HTTP/1.1 {code} X\r\n{lines}\r\n");
            let got = answer(&[text.as_bytes()], to_head, false).unwrap();
            assert_eq!((got.data, got.whole, got.stays), (Vec::new(), true, true), "{text}");
            // That of what `GET` would get is told; 204 has none at all.
            let told = got.headers.contains_key("content-length");
            assert_eq!(told, lines.starts_with('C') && code != 204, "{text}");
            assert!(!got.headers.contains_key("transfer-encoding"));

            let more = format!("{text}HTTP/1.1 200 OK\r\n\r\n");
            let got = answer(&[more.as_bytes()], to_head, false).unwrap();
            assert_eq!((got.data, got.whole, got.stays), (Vec::new(), true, false), "{text}");
        }
    }
}

#[test]
fn what_does_not_say_for_sure_where_it_ends_is_no_answer() {
    for lines in [
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 5",
        "Content-Length: +5",
        "Content-Length: -5",
        "Content-Length: 0x5",
        "Content-Length: 5 5",
        "Content-Length:",
        "Content-Length: ",
        "Content-Length: 18446744073709551616",
        "Content-Length : 5",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chunked;x",
        "Transfer-Encoding:",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding : chunked",
        "X: 1\r\n Content-Length: 5",
    ] {
        is_no_answer(format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\nhello"));
        is_no_answer(format!("HTTP/1.1 200 OK\r\nServer: x\r\n{lines}\r\n\r\n"));
    }
    is_no_answer("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
}

#[test]
fn what_is_no_http_is_no_answer() {
    for bytes in [
        "hello\r\n\r\n",
        "SSH-2.0-x\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 000 X\r\n\r\n",
        "HTTP/1.1 099 X\r\n\r\n",
        "HTTP/1.1 -20 X\r\n\r\n",
        "HTTP/1.1 200 a\0b\r\n\r\n",
        "HTTP/1.1 200 a\rX: 1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\rY: b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX y: a\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        // To nobody's wish.
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    ] {
        is_no_answer(bytes);
    }
    let many = |count: usize| format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: 1\r\n".repeat(count));
    got(many(MAX_HEADERS));
    is_no_answer(many(MAX_HEADERS + 1));
}

#[test]
fn a_head_that_is_not_all_there_is_waited_for() {
    let text = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: 1\r\n\r\nok";
    let ends = text.len() - 2;
    for cut in 0..text.len() {
        let (part, rest) = text.split_at(cut);
        let mut out = Vec::new();
        let is_more = matches!(look(part, false, false, &mut out), Look::More);
        assert_eq!((is_more, out.is_empty()), (cut < ends, cut < ends), "{cut}");
        let got = answer(&[part, rest], false, false).unwrap();
        assert_eq!((got.data.as_slice(), got.whole, got.stays), (&b"ok"[..], true, true));
    }
}

#[test]
fn answers_before_the_last_are_skipped() {
    for interim in [
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 102 x\r\nContent-Length: 5\r\nTransfer-Encoding: x\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 199 X\r\n\r\n",
    ] {
        let got = got(format!("{interim}HTTP/1.1 404 Not\r\nContent-Length: 2\r\n\r\nno"));
        assert_eq!((got.status.as_u16(), got.data, got.stays), (404, b"no".to_vec(), true));
        assert!(!got.headers.contains_key("link"));
        assert_eq!(answer(&[interim.as_bytes()], false, false), None);
    }
}

#[test]
fn the_connection_stays_when_both_the_version_and_the_head_say_so() {
    for (version, lines, stays) in [
        (1, "", true),
        (1, "Connection: keep-alive\r\n", true),
        (1, "Connection: close\r\n", false),
        (1, "Connection: x, CLOSE\r\n", false),
        (1, "Connection: keep-alive\r\nConnection: close\r\n", false),
        (1, "Connection: close\r\nConnection: keep-alive\r\n", false),
        (1, "Connection: closed\r\n", true),
        (0, "", false),
        (0, "Connection: Keep-Alive\r\n", true),
        (0, "Connection: keep-alive, close\r\n", false),
        (0, "Keep-Alive: 5\r\n", false),
    ] {
        let text = format!("HTTP/1.{version} 200 OK\r\nContent-Length: 0\r\n{lines}\r\n");
        assert_eq!(got(&text).stays, stays, "{text}");
    }
}

#[test]
fn the_client_gets_all_headers_but_those_between_neighbours() {
    let lines = "server: x\r\nconnection: X-Secret\r\nConnection: date\r\n\
        x-secret: 1\r\nX-SECRET: 2\r\nKEEP-ALIVE: timeout=5\r\nproxy-authenticate: Basic\r\n\
        Proxy-Authorization: x\r\nProxy-Connection: x\r\nProxy-Other: kept\r\nte: x\r\n\
        upgrade: h2c\r\nhttp2-settings: x\r\nset-cookie: a=1\r\nset-cookie: b=\u{e9}\r\n\
        x-secret-not: kept\r\netag:\r\ncontent-LENGTH: 0\r\n";
    assert_eq!(
        head("HTTP/1.1 200 Very Good", lines, false, false).lines().collect::<Vec<_>>(),
        [
            "HTTP/1.1 200 Very Good",
            "Server: x",
            "Proxy-Other: kept",
            "Set-Cookie: a=1",
            "Set-Cookie: b=\u{e9}",
            "X-Secret-Not: kept",
            "Etag: ",
            "Content-Length: 0",
            head("HTTP/1.1 200", "", false, false)
                .lines()
                .find(|line| line.starts_with("Da"))
                .unwrap(),
            "",
        ]
    );
}

#[test]
fn a_head_is_written_anew() {
    for (start, line) in [
        ("HTTP/1.1 200 OK", "HTTP/1.1 200 OK"),
        ("HTTP/1.0 200 OK", "HTTP/1.1 200 OK"),
        ("HTTP/1.1 200", "HTTP/1.1 200 "),
        ("HTTP/1.1 200 ", "HTTP/1.1 200 "),
        ("HTTP/1.1 999 a b\tc", "HTTP/1.1 999 a b\tc"),
        // What is not ASCII is dropped by the parser, as the standard suggests.
        ("HTTP/1.1 407 \u{e9}", "HTTP/1.1 407 "),
    ] {
        let lines = format!("{DATED}Transfer-Encoding: chunked\r\nContent-Length: 7\r\n");
        let want = format!("{line}\r\n{DATED}Transfer-Encoding: chunked\r\n\r\n");
        let lines = if start.contains("1.0") { DATED.to_owned() } else { lines };
        assert_eq!(head(start, &lines, false, false), want);
    }
    // Ends of lines as on Unix do not get through.
    let mut out = Vec::new();
    let seen = look(b"HTTP/1.1 200 OK\nContent-Length: 0\nDate: x\n\n", false, false, &mut out);
    assert!(matches!(seen, Look::Answer(_)), "{seen:?}");
    assert_eq!(out, b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 0\r\n\r\n");
}

#[test]
fn an_answer_without_a_date_gets_one_and_the_last_says_that_it_is() {
    let count = |head: &str, line: &str| head.lines().filter(|have| have.starts_with(line)).count();
    for is_last in [false, true] {
        for lines in ["", DATED, "date: x\r\n"] {
            let lines = format!("{lines}Connection: keep-alive\r\n");
            let head = head("HTTP/1.1 200 OK", &lines, true, is_last);
            assert_eq!(count(&head, "Date: "), 1, "{head}");
            assert_eq!(count(&head, "Connection: close"), usize::from(is_last), "{head}");
            assert_eq!(count(&head, "Connection"), usize::from(is_last), "{head}");
        }
    }
    let date = head("HTTP/1.1 200 OK", "", true, false);
    let date = date.lines().find_map(|line| line.strip_prefix("Date: ")).unwrap();
    httpdate::parse_http_date(date).unwrap();
}

#[test]
fn an_answer_of_many_bytes_is_no_more_than_its_number() {
    let mut out = Vec::new();
    let text = b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\n";
    let Look::Answer(answer) = look(text, false, false, &mut out) else { panic!() };
    assert!(matches!(answer.body, Body::Left(u64::MAX)), "{answer:?}");
    assert_eq!(answer.head_bytes, text.len());
}

#[test]
fn a_refusal_is_one_answer_with_its_end() {
    let sandbox = "iabc".parse().unwrap();
    let port = "80".parse().unwrap();
    for (error, code) in [
        (ProxyError::NoAnswer { sandbox: &sandbox, port }, 502),
        (ProxyError::SandboxNotFound { sandbox: &sandbox }, 502),
        (ProxyError::ProxyBusy { sandbox: &sandbox }, 503),
    ] {
        for form in [ErrorForm::Json, ErrorForm::Html] {
            for (to_head, is_last) in [(false, false), (false, true), (true, false)] {
                let mut out = Vec::new();
                write_refusal(&error, form, to_head, is_last, &mut out);
                // It is an answer that the edge itself would pass on as it is.
                let got = answer(&[out.as_slice()], to_head, is_last).unwrap();
                let body = error.body(form);
                assert_eq!((got.status.as_u16(), got.whole), (code, true));
                assert_eq!(got.headers.get("content-length").unwrap(), &body.len().to_string());
                assert_eq!(got.headers.get("content-type").unwrap(), form.content_type());
                assert_eq!(got.headers.contains_key("retry-after"), code == 503);
                assert_eq!(got.data, if to_head { b"" } else { body.as_bytes() });
                assert_eq!(got.stays, !is_last);
            }
        }
    }
}
