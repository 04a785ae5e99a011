//! Programs that take their time before they say anything, and servers that speak first.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::kit::World;
use super::request;
use super::tls_kit::{Https, handshake, headers};

#[tokio::test]
async fn a_program_that_speaks_late_is_heard_all_the_same() {
    let https = Https::new(headers(&["a.com"], "key")).await;
    // Nothing was heard for a while, so somebody is asked whether it is his to speak.
    let program = https.world.connect().await;
    let mut silent = https.world.accept().await;
    let server = https.theirs.server(&["a.com"], false, &["http/1.1"]);
    let program = handshake(program.0, &https.ours, "a.com", &["http/1.1"], rustls::ALL_VERSIONS);
    let (program, server) = tokio::join!(program, https.accept(&server));
    let (mut program, mut server) = (program.unwrap(), server.unwrap());
    program.write_all(request("/", "a.com", "").as_bytes()).await.unwrap();
    assert!(server.answer().await.contains("Bearer key"));
    assert_eq!(silent.read(&mut [0]).await.unwrap(), 0, "it was not");
    https.close().await;
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard() {
    let world = World::by_address(headers(&["a.com"], "key")).await;
    let mut program = world.connect().await;
    let mut server = world.accept().await;
    server.write_all(b"SSH-2.0-x\r\n").await.unwrap();
    let mut said = [0; 11];
    program.read_exact(&mut said).await.unwrap();
    program.write_all(b"SSH-2.0-y\r\n").await.unwrap();
    server.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"SSH-2.0-y\r\n");
    world.close().await;
}

#[tokio::test]
async fn a_silent_connection_ends_with_the_rules_that_let_it_through() {
    let world = World::by_address(headers(&["a.com"], "key")).await;
    let mut program = world.connect().await;
    let _server = world.accept().await;
    let denied = vec![model::Ipv4Range::ALL];
    world.proxy.set_rules(model::Egress { deny: denied, ..headers(&["a.com"], "key") });
    program.read(&mut [0]).await.unwrap_err();
    world.close().await;
}
