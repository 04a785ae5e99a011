//! Proxies that speak TLS.

use std::net::Ipv4Addr;

use lifecycle::Budget;
use model::{Egress, ProxyTls, SocksProxy};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

use super::kit::{LIMIT, Program, World, read_all};
use super::tls_kit::{Https, Theirs, TlsServer, handshake, headers};
use super::{is_reset, request};
use crate::Roots;
use crate::tls::testing::client_hello;

/// A way through the proxy at `host`, which is where the world's server is.
fn through(world: &World, host: &str, name: Option<&str>, authorities: Option<&str>) -> Egress {
    let tls = ProxyTls::new(name, authorities.map(str::to_owned)).unwrap();
    let address = format!("{host}:{}", world.server_address().port());
    let proxy = SocksProxy::new(&address, None, None).unwrap().in_tls(Some(tls));
    Egress { proxy: Some(proxy), ..Egress::default() }
}

/// The next that comes to the proxy, by its certificate.
async fn accept(world: &World, proxy: &TlsAcceptor) -> std::io::Result<TlsServer> {
    let stream = world.accept().await.0;
    let accepted = Budget::within(LIMIT).run("TLS", proxy.accept(stream)).await.unwrap();
    accepted.map(Program)
}

/// Lets one through, and says to where.
async fn carry<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut Program<S>) -> String {
    let mut greeting = [0; 3];
    stream.read_exact(&mut greeting).await.unwrap();
    assert_eq!(greeting, [5, 1, 0]);
    stream.write_all(&[5, 0]).await.unwrap();
    let mut asked = [0; 4];
    stream.read_exact(&mut asked).await.unwrap();
    let to = match asked[3] {
        1 => {
            let mut address = [0; 4];
            stream.read_exact(&mut address).await.unwrap();
            Ipv4Addr::from(address).to_string()
        }
        _ => {
            let mut name = vec![0; stream.read_u8().await.unwrap().into()];
            stream.read_exact(&mut name).await.unwrap();
            String::from_utf8(name).unwrap()
        }
    };
    stream.read_u16().await.unwrap();
    stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
    stream.flush().await.unwrap();
    to
}

#[tokio::test]
async fn everything_is_said_inside_of_tls_and_each_side_ends_for_itself() {
    let world = World::new(Egress::default()).await;
    let theirs = Theirs::new();
    let proxy = theirs.server(&["p.com"], false, &[]);
    world.proxy.set_rules(through(&world, "p.com", None, Some(&theirs.pem)));
    let hello = client_hello(Some("b.com"), 0);
    let mut program = world.connect().await;
    program.write_all(&hello).await.unwrap();
    let mut server = accept(&world, &proxy).await.unwrap();
    assert_eq!(server.get_ref().1.server_name(), Some("p.com"));
    assert_eq!(carry(&mut server).await, "b.com");
    let mut got = vec![0; hello.len()];
    server.read_exact(&mut got).await.unwrap();
    assert_eq!(got, hello);
    let much: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    server.write_all(&much).await.unwrap();
    server.shutdown().await.unwrap();
    assert_eq!(read_all(&mut program).await, much);
    program.write_all(b"more").await.unwrap();
    program.shutdown().await.unwrap();
    assert_eq!(read_all(&mut server).await, b"more", "the proxy is told of the end in TLS");
    world.close().await;
}

#[tokio::test]
async fn one_that_cannot_be_believed_hears_nothing() {
    let world = World::new(Egress::default()).await;
    let (theirs, others) = (Theirs::new(), Theirs::new());
    let good = theirs.server(&["p.com"], false, &[]);
    let rules = |name, pem| through(&world, "p.com", name, pem);
    let refused = [
        (good.clone(), rules(None, Some(&others.pem)), "of another authority"),
        (good.clone(), rules(Some("q.com"), Some(&theirs.pem)), "of another name"),
        (theirs.server(&["p.com"], true, &[]), rules(None, Some(&theirs.pem)), "expired"),
    ];
    for (proxy, rules, why) in refused {
        world.proxy.set_rules(rules);
        let mut program = world.connect().await;
        program.write_all(&client_hello(Some("b.com"), 0)).await.unwrap();
        let mut said = Vec::new();
        if let Ok(mut server) = accept(&world, &proxy).await {
            drop(server.read_to_end(&mut said).await);
        }
        assert!(said.is_empty() && is_reset(program).await, "{why}");
    }
    world.proxy.set_rules(rules(None, Some(&theirs.pem)));
    let mut program = world.connect().await;
    program.write_all(&client_hello(Some("b.com"), 0)).await.unwrap();
    world.accept().await.write_all(b"\x05\0").await.unwrap();
    assert!(is_reset(program).await, "nobody goes on in the clear");
    world.close().await;
}

#[tokio::test]
async fn without_certificates_of_its_own_a_proxy_is_believed_as_servers_are() {
    let world = World::new(Egress::default()).await;
    let theirs = Theirs::new();
    let proxy = theirs.server(&["127.0.0.1", "p.com"], false, &[]);
    let by_address = through(&world, "127.0.0.1", None, None);
    world.proxy.set_rules(by_address.clone());
    let mut early = world.connect().await;
    early.write_all(&client_hello(Some("b.com"), 0)).await.unwrap();
    assert!(is_reset(early).await, "nobody is believed yet");
    drop(world.accept().await);
    world.node.believe(Roots::of_pem(theirs.pem.as_bytes()).unwrap());
    for rules in [by_address, through(&world, "127.0.0.1", Some("p.com"), None)] {
        world.proxy.set_rules(rules);
        let mut program = world.connect().await;
        program.write_all(&client_hello(Some("b.com"), 0)).await.unwrap();
        let mut server = accept(&world, &proxy).await.unwrap();
        assert_eq!(carry(&mut server).await, "b.com");
    }
    world.close().await;
}

#[tokio::test]
async fn a_program_that_waits_for_the_server_is_not_hurried_by_what_only_tls_says() {
    let world = World::new(Egress::default()).await;
    let theirs = Theirs::new();
    // Its tickets come after the handshake: bytes that say nothing.
    let proxy = theirs.server(&["p.com"], false, &[]);
    world.proxy.set_rules(through(&world, "p.com", None, Some(&theirs.pem)));
    let mut program = world.connect().await;
    let mut server = accept(&world, &proxy).await.unwrap();
    assert_eq!(carry(&mut server).await, "203.0.113.9");
    server.write_all(b"SSH-2.0-x\r\n").await.unwrap();
    server.flush().await.unwrap();
    let mut said = [0; 11];
    program.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"SSH-2.0-x\r\n");

    let mut late = world.connect().await;
    let mut asked_for_nothing = accept(&world, &proxy).await.unwrap();
    assert_eq!(carry(&mut asked_for_nothing).await, "203.0.113.9");
    late.write_all(request("/", "b.com", "").as_bytes()).await.unwrap();
    let mut server = accept(&world, &proxy).await.unwrap();
    assert_eq!(carry(&mut server).await, "b.com", "it is heard, and goes by its name");
    assert!(server.head().await.contains("Host: b.com"));
    world.close().await;
}

#[tokio::test]
async fn requests_of_https_get_their_headers_on_the_way_through_it() {
    let https = Https::new(Egress::default()).await;
    let theirs = &https.theirs;
    let through = through(&https.world, "p.com", None, Some(&theirs.pem));
    https.world.proxy.set_rules(Egress { proxy: through.proxy, ..headers(&["a.com"], "key") });
    let proxy = theirs.server(&["p.com"], false, &[]);
    let origin = theirs.server(&["a.com"], false, &["http/1.1"]);
    let stream = https.world.connect().await;
    let program = handshake(stream.0, &https.ours, "a.com", &["http/1.1"], rustls::ALL_VERSIONS);
    let server = async {
        let mut carried = accept(&https.world, &proxy).await.unwrap();
        carry(&mut carried).await;
        let accepted = Budget::within(LIMIT).run("TLS in TLS", origin.accept(carried.0)).await;
        Program(accepted.unwrap().unwrap())
    };
    let (program, mut server) = tokio::join!(program, server);
    let mut program = program.unwrap();
    program.write_all(request("/", "a.com", "").as_bytes()).await.unwrap();
    assert!(server.answer().await.contains("Bearer key"));
    assert!(program.head().await.starts_with("HTTP/1.1 200"));
    https.close().await;
}
