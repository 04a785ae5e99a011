//! Requests of HTTPS that are given headers, with real TLS on both sides.

use std::io::ErrorKind;

use lifecycle::{Budget, Release};
use model::{Egress, Ipv4Range, SocksProxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::kit::{LIMIT, Program, read_all};
use super::request;
use super::tls_kit::{Https, Theirs, TlsProgram, handshake, headers};

const H1: &[&str] = &["http/1.1"];
const BOTH: &[&str] = &["h2", "http/1.1"];

async fn answer_of(program: &mut TlsProgram, text: &str) -> String {
    program.write_all(text.as_bytes()).await.unwrap();
    String::from_utf8(read_all(program).await).unwrap()
}

/// Whether a connection was broken off, and not ended in order.
async fn is_cut(program: &mut TlsProgram) -> bool {
    let mut byte = [0];
    let read = Budget::within(LIMIT).run("the end", program.read(&mut byte)).await.unwrap();
    let broken = [ErrorKind::ConnectionReset, ErrorKind::UnexpectedEof];
    read.is_err_and(|error| broken.contains(&error.kind()))
}

#[tokio::test]
async fn every_request_of_a_connection_is_given_the_headers() {
    let https = Https::new(headers(&["a.com"], "key")).await;
    let (mut program, mut server) = https.both("a.com", H1).await;
    for path in ["/1", "/2", "/3"] {
        let mine = "Authorization: mine\r\nauthorization: twice\r\nX-Case: Kept\r\n";
        program.write_all(request(path, "a.com:443", mine).as_bytes()).await.unwrap();
        let head = server.answer().await;
        assert!(head.starts_with(&format!("GET {path} HTTP/1.1\r\nHost: a.com:443\r\n")), "{head}");
        assert!(head.contains("X-Case: Kept\r\n"), "{head}");
        let head = head.to_ascii_lowercase();
        assert!(head.contains("authorization: bearer key\r\n") && head.contains("x-new: 1\r\n"));
        assert!(!head.contains("mine") && !head.contains("twice"), "{head}");
        assert!(program.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
    }
    assert!(https.world.nobody_came(), "all on one connection");
    drop(server);
    // A server ends a connection that was kept, and the program's next request has another.
    let next = https.theirs.server(&["a.com"], false, H1);
    program.write_all(request("/4", "a.com", "").as_bytes()).await.unwrap();
    let mut server = https.accept(&next).await.unwrap();
    assert!(server.answer().await.contains("Bearer key"));
    assert!(program.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
    https.close().await;
}

#[tokio::test]
async fn what_the_server_speaks_is_spoken_with_the_program() {
    let https = Https::new(headers(&["a.com"], "key")).await;
    for (offered, speaks, spoken) in [
        (BOTH, BOTH, Some("h2")),
        (BOTH, H1, Some("http/1.1")),
        (BOTH, &[], Some("http/1.1")),
        (H1, BOTH, Some("http/1.1")),
        (&[], BOTH, None),
        (&["acme", "h2"], BOTH, Some("h2")),
    ] {
        let server = https.theirs.server(&["a.com"], false, speaks);
        let (program, server) =
            tokio::join!(https.program("a.com", offered), https.accept(&server));
        let (program, server) = (program.unwrap(), server.unwrap());
        let told = program.get_ref().1.alpn_protocol().map(|told| str::from_utf8(told).unwrap());
        assert_eq!(told, spoken, "{offered:?} {speaks:?}");
        let chosen = server.get_ref().1.alpn_protocol();
        assert_eq!(chosen == Some(b"h2"), spoken == Some("h2"), "{offered:?} {speaks:?}");
    }
    https.close().await;
}

#[tokio::test]
async fn programs_of_tls_1_2_are_served() {
    let https = Https::new(headers(&["a.com"], "key")).await;
    let server = https.theirs.server(&["a.com"], false, H1);
    let stream = https.world.connect().await.0;
    let versions = &[&rustls::version::TLS12];
    let program = handshake(stream, &https.ours, "a.com", H1, versions);
    let (program, server) = tokio::join!(program, https.accept(&server));
    let (mut program, mut server) = (program.unwrap(), server.unwrap());
    program.write_all(request("/", "a.com", "").as_bytes()).await.unwrap();
    assert!(server.answer().await.contains("Bearer key"));
    https.close().await;
}

#[tokio::test]
async fn other_names_are_untouched_end_to_end() {
    let https = Https::new(headers(&["*.b.com", "http://c.com"], "key")).await;
    for (name, touched) in
        [("b.com", false), ("c.com", false), ("a.b.com", true), ("x.a.b.com", true)]
    {
        // By the certificate that it was shown, a program knows with whom it has spoken.
        let believed = if touched { &https.ours } else { &https.theirs.pem };
        let other = if touched { &https.theirs.pem } else { &https.ours };
        for (pem, fits) in [(believed, true), (other, false)] {
            let server = https.theirs.server(&[name], false, H1);
            let program = https.program_that_believes(pem, name, H1);
            let (program, server) = tokio::join!(program, https.accept(&server));
            assert_eq!(program.is_ok(), fits, "{name}");
            let (Ok(mut program), Ok(mut server)) = (program, server) else { continue };
            program.write_all(request("/", name, "").as_bytes()).await.unwrap();
            assert_eq!(server.answer().await.contains("Bearer key"), touched, "{name}");
        }
    }
    https.close().await;
}

#[tokio::test]
async fn what_is_no_http_inside_goes_through_as_it_is() {
    let https = Https::new(headers(&["a.com"], "key")).await;
    let server = https.theirs.server(&["a.com"], false, &["mqtt"]);
    let program = https.program_that_believes(&https.theirs.pem, "a.com", &["mqtt"]);
    let (program, server) = tokio::join!(program, https.accept(&server));
    let (mut program, mut server) = (program.unwrap(), server.unwrap());
    program.write_all(b"hi").await.unwrap();
    let mut said = [0; 2];
    server.read_exact(&mut said).await.unwrap();
    https.close().await;
}

#[tokio::test]
async fn a_server_that_cannot_be_believed_gets_nothing_and_the_program_is_told_why() {
    let https = Https::new(headers(&["a.com"], "key")).await;
    let stranger = Theirs::new();
    for (server, why) in [
        (https.theirs.server(&["a.com"], true, BOTH), "expired"),
        (https.theirs.server(&["b.com"], false, BOTH), "not valid for name"),
        (
            stranger.server(&["a.com"], false, BOTH),
            "no certificate authority that this host believes",
        ),
    ] {
        let (program, server) = tokio::join!(https.program("a.com", H1), https.accept(&server));
        server.unwrap_err();
        let answer = answer_of(&mut program.unwrap(), &request("/", "a.com", "")).await;
        assert!(answer.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{answer}");
        assert!(answer.contains("the server of a.com cannot be believed"), "{answer}");
        assert!(answer.contains(why), "{answer}");
    }
    let mut program = {
        let program = https.program("a.com", H1);
        let no_tls = async { https.world.accept().await.write_all(b"SSH-2.0-x\r\n").await };
        let (program, said) = tokio::join!(program, no_tls);
        said.unwrap();
        program.unwrap()
    };
    let answer = answer_of(&mut program, &request("/", "a.com", "")).await;
    assert!(
        answer.starts_with("HTTP/1.1 502 ") && answer.contains("no TLS with a.com"),
        "{answer}"
    );
    https.close().await;
}

#[tokio::test]
async fn where_the_rules_do_not_lead_the_program_is_told() {
    let denied = Egress { deny: vec![Ipv4Range::ALL], ..headers(&["a.com", "gone.com"], "key") };
    let https = Https::new(denied.clone()).await;
    let mut program = https.program("a.com", BOTH).await.unwrap();
    assert_eq!(program.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let mut program_h1 = https.program("a.com", H1).await.unwrap();
    let answer = answer_of(&mut program_h1, &request("/", "a.com", "")).await;
    assert!(
        answer.starts_with("HTTP/1.1 403 ") && answer.contains("do not allow a.com"),
        "{answer}"
    );
    let domains = vec!["gone.com".parse().unwrap()];
    https.world.proxy.set_rules(Egress { domains, ..denied });
    let mut gone = https.program("gone.com", H1).await.unwrap();
    let answer = answer_of(&mut gone, &request("/", "gone.com", "")).await;
    assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("no IPv4 address"), "{answer}");
    program.shutdown().await.unwrap();
    assert!(https.world.nobody_came());
    https.close().await;
}

#[tokio::test]
async fn a_request_for_another_host_gets_no_further() {
    let https = Https::new(headers(&["a.com", "b.com"], "key")).await;
    for host in ["b.com", "127.0.0.1", "x.a.com"] {
        let (mut program, mut server) = https.both("a.com", H1).await;
        program.write_all(request("/1", "a.com", "").as_bytes()).await.unwrap();
        server.answer().await;
        program.head().await;
        let answer = answer_of(&mut program, &request("/2", host, "")).await;
        assert!(answer.starts_with("HTTP/1.1 421 Misdirected Request\r\n"), "{answer}");
        assert!(answer.contains("this connection is for a.com"), "{answer}");
        assert_eq!(server.try_read_all().await.unwrap_or_default(), b"", "{host}");
    }
    https.close().await;
}

#[tokio::test]
async fn a_program_that_believes_only_its_own_authorities_ends_the_handshake() {
    let https = Https::new(headers(&["a.com"], "key")).await;
    let server = https.theirs.server(&["a.com"], false, H1);
    let program = https.program_that_believes(&https.theirs.pem, "a.com", H1);
    let (program, server) = tokio::join!(program, https.accept(&server));
    let error = program.unwrap_err().to_string();
    assert!(error.contains("UnknownIssuer"), "{error}");
    assert_eq!(server.unwrap().try_read_all().await.unwrap_or_default(), b"");
    https.close().await;
}

#[tokio::test]
async fn other_rules_end_what_would_be_otherwise_by_them_and_nothing_else() {
    let named = Egress {
        deny: vec![Ipv4Range::ALL],
        domains: vec!["a.com".parse().unwrap(), "b.com".parse().unwrap()],
        ..Egress::default()
    };
    // Where names are allowed, headers do not change where anything leads.
    for base in [Egress::default(), named] {
        change_rules_of(|requests, key| Egress {
            headers: headers(requests, key).headers,
            ..base.clone()
        })
        .await;
    }
}

async fn change_rules_of(rules: impl Fn(&[&str], &str) -> Egress) {
    let https = Https::new(rules(&["a.com"], "one")).await;
    let (mut touched, mut server) = https.both("a.com", H1).await;
    let theirs = https.theirs.server(&["b.com"], false, H1);
    let untouched = https.program_that_believes(&https.theirs.pem, "b.com", H1);
    let (untouched, untouched_server) = tokio::join!(untouched, https.accept(&theirs));
    let mut untouched = untouched.unwrap();
    let mut untouched_server = untouched_server.unwrap();

    // Other values are for the next request.
    https.world.proxy.set_rules(rules(&["a.com", "c.com"], "two"));
    touched.write_all(request("/", "a.com", "").as_bytes()).await.unwrap();
    assert!(server.answer().await.contains("Bearer two"));
    untouched.write_all(b"x").await.unwrap();
    untouched_server.read_u8().await.unwrap();

    https.world.proxy.set_rules(rules(&["a.com", "b.com"], "two"));
    assert!(is_cut(&mut untouched).await, "its requests would be given headers");
    touched.head().await;
    touched.write_all(request("/", "a.com", "").as_bytes()).await.unwrap();
    assert!(server.answer().await.contains("Bearer two"), "nothing is different for it");

    touched.head().await;
    https.world.proxy.set_rules(rules(&["http://a.com", "b.com"], "two"));
    assert!(is_cut(&mut touched).await, "it would go through as it is");
    https.close().await;
}

#[tokio::test]
async fn a_websocket_is_carried_on() {
    let https = Https::new(headers(&["a.com"], "key")).await;
    let (mut program, mut server) = https.both("a.com", H1).await;
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    program.write_all(request("/", "a.com", upgrade).as_bytes()).await.unwrap();
    let head = server.head().await;
    assert!(head.contains("Upgrade: websocket\r\n") && head.contains("Bearer key"), "{head}");
    let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                  Upgrade: websocket\r\n\r\nhi";
    server.write_all(answer.as_bytes()).await.unwrap();
    assert!(program.head().await.starts_with("HTTP/1.1 101 "));
    let mut said = [0; 2];
    program.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"hi");
    program.write_all(b"ho").await.unwrap();
    server.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"ho");
    https.close().await;
}

#[tokio::test]
async fn large_bodies_go_both_ways() {
    const LEN: usize = 8 * 1024 * 1024;
    let https = Https::new(headers(&["a.com"], "key")).await;
    let (mut program, mut server) = https.both("a.com", H1).await;
    let byte = |at: usize| u8::try_from(at % 251).unwrap();
    let body: Vec<u8> = (0..LEN).map(byte).collect();
    let head = request("/", "a.com", &format!("Content-Length: {LEN}\r\n")).replace("GET", "PUT");
    let sends = async {
        program.write_all(head.as_bytes()).await.unwrap();
        program.write_all(&body).await.unwrap();
        program.flush().await.unwrap();
        let head = program.head().await;
        let mut got = vec![0; LEN];
        program.read_exact(&mut got).await.unwrap();
        (head, got)
    };
    let echoes = async {
        assert!(server.head().await.contains("Bearer key"));
        let mut got = vec![0; LEN];
        server.read_exact(&mut got).await.unwrap();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LEN}\r\n\r\n");
        server.write_all(head.as_bytes()).await.unwrap();
        server.write_all(&got).await.unwrap();
        server.flush().await.unwrap();
    };
    let ((head, got), ()) = tokio::join!(sends, echoes);
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && got == body, "{head}");
    https.close().await;
}

#[tokio::test]
async fn closing_cuts_off_what_is_spoken_in_tls() {
    let https = Https::new(headers(&["a.com"], "key")).await;
    let (mut program, mut server) = https.both("a.com", H1).await;
    program.write_all(request("/", "a.com", "").as_bytes()).await.unwrap();
    server.head().await;
    https.world.proxy.release(Budget::within(LIMIT)).await.unwrap();
    assert!(is_cut(&mut program).await);
    // What is held towards the server is in the sandbox's network, too.
    let mut rest = Vec::new();
    let ended = Budget::within(LIMIT).run("the end", server.read_to_end(&mut rest)).await.unwrap();
    assert!(ended.is_err() || rest.is_empty());
}

#[tokio::test]
async fn the_way_to_the_server_is_that_of_all_connections() {
    let https = Https::new(Egress::default()).await;
    let port = https.world.server_address().port();
    let proxy = SocksProxy::new(&format!("b.com:{port}"), None, None).unwrap();
    https.world.proxy.set_rules(Egress { proxy: Some(proxy), ..headers(&["a.com"], "key") });
    let server = https.theirs.server(&["a.com"], false, H1);
    let serves = async {
        let mut stream = https.world.accept().await.0;
        let mut asked = [0; 3];
        stream.read_exact(&mut asked).await.unwrap();
        stream.write_all(&[5, 0]).await.unwrap();
        let mut asked = [0; 10];
        stream.read_exact(&mut asked).await.unwrap();
        assert_eq!(asked[..8], [5, 1, 0, 1, 127, 0, 0, 1], "an address that the rules permit");
        stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
        Program(server.accept(stream).await.unwrap())
    };
    let (program, mut server) = tokio::join!(https.program("a.com", H1), serves);
    let mut program = program.unwrap();
    program.write_all(request("/", "a.com", "").as_bytes()).await.unwrap();
    assert!(server.answer().await.contains("Bearer key"));
    https.close().await;
}

#[tokio::test]
async fn without_an_authority_nothing_goes_on() {
    let world = super::World::new(headers(&["a.com"], "key")).await;
    let theirs = Theirs::new();
    let stream = world.connect().await.0;
    let failed = handshake(stream, &theirs.pem, "a.com", H1, rustls::ALL_VERSIONS).await;
    failed.unwrap_err();
    assert!(world.nobody_came());
    world.close().await;
}
