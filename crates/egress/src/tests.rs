//! The proxy with real sockets on the loopback, and without a sandbox.

mod https;
mod kit;
mod proxies;
mod questions;
mod silent;
mod streams;
mod tls_kit;

use std::io::ErrorKind;
use std::time::Duration;

use lifecycle::{Budget, Release};
use model::{ALWAYS_DENIED, Egress, HeaderRule, Ipv4Range, Secret, SocksProxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::CONNECTIONS_MAX;
use crate::tls::testing::client_hello;
use kit::{LIMIT, Program, World, read_all};

fn names(domains: &[&str]) -> Egress {
    Egress {
        deny: vec![Ipv4Range::ALL],
        domains: domains.iter().map(|text| text.parse().unwrap()).collect(),
        ..Egress::default()
    }
}

fn request(path: &str, host: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n")
}

/// The proxy has broken it off, and not just ended it.
async fn is_reset(mut program: Program) -> bool {
    let mut rest = Vec::new();
    let ended = Budget::within(LIMIT).run("the end", program.read_to_end(&mut rest)).await.unwrap();
    rest.is_empty() && ended.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

#[tokio::test]
async fn a_handshake_goes_where_its_name_leads_as_it_is() {
    let world = World::new(names(&["a.com"])).await;
    for cut in [0, 3] {
        let hello = client_hello(Some("a.com"), cut);
        let mut program = world.connect().await;
        program.write_all(&hello).await.unwrap();
        let mut server = world.accept().await;
        let mut got = vec![0; hello.len()];
        server.read_exact(&mut got).await.unwrap();
        assert_eq!(got, hello);
        server.write_all(b"answer").await.unwrap();
        server.shutdown().await.unwrap();
        assert_eq!(read_all(&mut program).await, b"answer");
        program.write_all(b"more").await.unwrap();
        program.shutdown().await.unwrap();
        assert_eq!(read_all(&mut server).await, b"more", "each side ends for itself");
    }
    world.close().await;
}

#[tokio::test]
async fn what_asks_for_no_allowed_name_is_broken_off() {
    let world = World::new(names(&["a.com", "gone.com"])).await;
    let hellos = [Some("b.com"), Some("127.0.0.1"), Some("gone.com"), None];
    let mut beginnings: Vec<Vec<u8>> = hellos.map(|name| client_hello(name, 0)).to_vec();
    beginnings.push(b"SSH-2.0-x\r\n".to_vec());
    beginnings.push(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec());
    for bytes in beginnings {
        let mut program = world.connect().await;
        program.write_all(&bytes).await.unwrap();
        assert!(is_reset(program).await, "{bytes:?}");
    }
    let mut silent = world.connect().await;
    silent.shutdown().await.unwrap();
    assert!(is_reset(silent).await);
    assert!(world.nobody_came());
    world.close().await;
}

#[tokio::test]
async fn a_name_that_leads_where_no_sandbox_gets_leads_nowhere() {
    let world = World::closed_to(names(&["a.com"]), ALWAYS_DENIED.to_vec()).await;
    let mut program = world.connect().await;
    program.write_all(&client_hello(Some("a.com"), 0)).await.unwrap();
    assert!(is_reset(program).await);
    let mut program = world.connect().await;
    program.write_all(request("/", "a.com", "").as_bytes()).await.unwrap();
    let answer = String::from_utf8(read_all(&mut program).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert!(answer.ends_with("\r\n\r\nno sandbox reaches 127.0.0.1\n"), "{answer}");
    assert!(world.nobody_came());
    world.close().await;
}

#[tokio::test]
async fn every_request_is_let_through_for_its_own_host() {
    let world = World::new(names(&["a.com", "*.b.com"])).await;
    let mut program = world.connect().await;
    program.write_all(request("/1", "a.com", "X-Case: Kept\r\n").as_bytes()).await.unwrap();
    let mut server = world.accept().await;
    let first = server.answer().await;
    assert!(first.starts_with("GET /1 HTTP/1.1\r\nHost: a.com\r\nX-Case: Kept\r\n"), "{first}");
    program.write_all(request("/2", "A.com:80", "").as_bytes()).await.unwrap();
    assert!(server.answer().await.starts_with("GET /2 "), "the same connection");
    program.write_all(request("/3", "c.b.com", "").as_bytes()).await.unwrap();
    let mut other = world.accept().await;
    assert!(other.answer().await.contains("Host: c.b.com\r\n"), "another connection");
    program.write_all(request("/4", "b.com", "").as_bytes()).await.unwrap();
    let answers = String::from_utf8(read_all(&mut program).await).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 3, "{answers}");
    assert!(answers.contains("HTTP/1.1 403 Forbidden"), "{answers}");
    assert!(
        answers.ends_with("the network rules of this sandbox do not allow b.com\n"),
        "{answers}"
    );
    world.close().await;
}

#[tokio::test]
async fn requests_that_can_be_read_in_two_ways_do_not_go_on() {
    let world = World::new(names(&["a.com"])).await;
    for (text, status) in [
        ("GET / HTTP/1.1\r\nHost: a.com\r\nHost: b.com\r\n\r\n", "400"),
        ("GET http://b.com/ HTTP/1.1\r\nHost: a.com\r\n\r\n", "400"),
        ("CONNECT a.com:443 HTTP/1.1\r\nHost: a.com\r\n\r\n", "400"),
        ("GET / HTTP/1.0\r\n\r\n", "403"),
        ("GET / HTTP/1.1\r\nHost: a.com@b.com\r\n\r\n", "403"),
        ("POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "400"),
    ] {
        let mut program = world.connect().await;
        program.write_all(text.as_bytes()).await.unwrap();
        let answer = String::from_utf8(read_all(&mut program).await).unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} "))
                || answer.starts_with(&format!("HTTP/1.0 {status} ")),
            "{text}: {answer}"
        );
    }
    assert!(world.nobody_came());
    world.close().await;
}

#[tokio::test]
async fn a_connection_that_becomes_another_protocol_is_carried_on() {
    let world = World::new(names(&["a.com"])).await;
    let mut program = world.connect().await;
    let upgrade = request("/", "a.com", "Connection: Upgrade\r\nUpgrade: echo\r\n");
    program.write_all(upgrade.as_bytes()).await.unwrap();
    let mut server = world.accept().await;
    assert!(server.head().await.contains("Upgrade: echo\r\n"));
    let answer =
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhi";
    server.write_all(answer).await.unwrap();
    let head = program.head().await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let mut said = [0; 2];
    program.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"hi");
    program.write_all(b"ho").await.unwrap();
    server.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"ho");
    world.close().await;
}

#[tokio::test]
async fn headers_of_the_rules_take_the_place_of_those_of_the_program() {
    let header = |name: &str, value: &str| (name.to_owned(), Secret::new(value.into()));
    let headers = vec![header("authorization", "Bearer key"), header("x-new", "1")];
    let rule = HeaderRule { requests: "a.com".parse().unwrap(), headers };
    let world = World::new(Egress { headers: vec![rule], ..Egress::default() }).await;
    let mut program = world.connect().await;
    let mine = "Authorization: mine\r\nauthorization: twice\r\n";
    program.write_all(request("/", "a.com", mine).as_bytes()).await.unwrap();
    let head = world.accept().await.answer().await.to_ascii_lowercase();
    assert!(
        head.contains("authorization: bearer key\r\n") && head.contains("x-new: 1\r\n"),
        "{head}"
    );
    assert!(!head.contains("mine") && !head.contains("twice"), "{head}");
    world.close().await;
}

/// Which of its addresses a name has led to may be just the one that is denied now.
#[tokio::test]
async fn what_a_name_led_to_is_cut_off_when_the_rules_by_address_change() {
    let rule = HeaderRule { requests: "a.com".parse().unwrap(), headers: Vec::new() };
    let rules = |deny: &[&str]| Egress {
        deny: deny.iter().map(|range| range.parse().unwrap()).collect(),
        headers: vec![rule.clone()],
        ..Egress::default()
    };
    let world = World::new(rules(&[])).await;
    let mut named = world.connect().await;
    named.write_all(request("/", "a.com", "").as_bytes()).await.unwrap();
    let mut server = world.accept().await;
    server.answer().await;
    named.head().await;
    world.proxy.set_rules(rules(&[]));
    named.write_all(request("/", "a.com", "").as_bytes()).await.unwrap();
    server.answer().await;
    named.head().await;
    world.proxy.set_rules(rules(&["203.0.113.77"]));
    assert!(is_reset(named).await);
    world.close().await;
}

#[tokio::test]
async fn other_rules_cut_off_what_they_do_not_allow_and_nothing_else() {
    let world = World::new(names(&["a.com", "b.com"])).await;
    let mut open = Vec::new();
    for name in ["a.com", "b.com"] {
        let mut program = world.connect().await;
        program.write_all(&client_hello(Some(name), 0)).await.unwrap();
        open.push((program, world.accept().await));
    }
    let mut asking = world.connect().await;
    asking.write_all(request("/", "b.com", "").as_bytes()).await.unwrap();
    let mut asked = world.accept().await;
    asked.answer().await;
    asking.head().await;
    world.proxy.set_rules(names(&["a.com"]));
    let (b, _server) = open.pop().unwrap();
    assert!(is_reset(b).await && is_reset(asking).await);
    let (mut a, mut server) = open.pop().unwrap();
    server.write_all(b"still").await.unwrap();
    let mut said = [0; 5];
    a.read_exact(&mut said).await.unwrap();
    world.close().await;
}

#[tokio::test]
async fn a_proxy_is_told_the_name_and_its_refusal_ends_the_connection() {
    let world = World::new(Egress::default()).await;
    let at = world.server_address();
    let proxy = SocksProxy::new(&format!("a.com:{}", at.port()), None, None).unwrap();
    world.proxy.set_rules(Egress { proxy: Some(proxy), ..Egress::default() });
    for reply in [0, 2] {
        let hello = client_hello(Some("b.com"), 0);
        let mut program = world.connect().await;
        program.write_all(&hello).await.unwrap();
        let mut server = world.accept().await;
        let mut asked = [0; 3];
        server.read_exact(&mut asked).await.unwrap();
        server.write_all(&[5, 0]).await.unwrap();
        let mut asked = [0; 4 + 1 + 5 + 2];
        server.read_exact(&mut asked).await.unwrap();
        assert_eq!(asked[3..10], *b"\x03\x05b.com");
        server.write_all(&[5, reply, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
        if reply == 0 {
            let mut got = vec![0; hello.len()];
            server.read_exact(&mut got).await.unwrap();
            assert_eq!(got, hello);
        } else {
            assert!(is_reset(program).await);
        }
    }
    world.close().await;
}

#[tokio::test]
async fn at_the_limit_the_next_connection_is_broken_off_and_there_is_room_again_after_an_end() {
    let world = World::new(names(&["a.com"])).await;
    let mut open = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        open.push(world.connect().await);
    }
    assert!(is_reset(world.connect().await).await);
    drop(open);
    loop {
        // The ends of the others are taken in as they come.
        let mut program = world.connect().await;
        if program.write_all(request("/", "b.com", "").as_bytes()).await.is_ok()
            && let Ok(answer) = program.try_read_all().await
            && answer.starts_with(b"HTTP/1.1 403 ")
        {
            break;
        }
    }
    world.close().await;
}

#[tokio::test]
async fn closing_cuts_off_everything_and_can_be_repeated() {
    let world = World::new(names(&["a.com"])).await;
    let mut program = world.connect().await;
    program.write_all(&client_hello(Some("a.com"), 0)).await.unwrap();
    let _server = world.accept().await;
    let waiting = world.connect().await;
    for _ in 0..2 {
        world.proxy.release(Budget::within(Duration::from_secs(30))).await.unwrap();
    }
    assert!(is_reset(program).await && is_reset(waiting).await);
}
