//! Servers on loopback, reached from outside. Another loopback address stands for the sandbox's
//! own: the agent tells them apart all the same.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use crate::program::{Envd, wait_until};

/// One that nobody else uses: an agent forwards every server on this machine's loopback, those of
/// other tests included.
fn outside(test: u8) -> Ipv4Addr {
    let [.., high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 32 + test, high, low)
}

#[tokio::test]
async fn a_server_on_loopback_is_reached_until_it_goes() {
    let outside = outside(1);
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let _envd = Envd::start_with(&["--forward-to", &outside.to_string()], &[]);
    let mut client = None;
    wait_until("the port is forwarded", || {
        client = TcpStream::connect((outside, port)).ok();
        client.is_some()
    })
    .await;
    let mut client = client.unwrap();
    let (mut served, _peer) = server.accept().unwrap();
    client.write_all(b"ping").unwrap();
    let mut read = [0; 4];
    served.read_exact(&mut read).unwrap();
    served.write_all(b"pong").unwrap();
    drop(served);
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!((&read, answer.as_str()), (b"ping", "pong"));

    drop(server);
    wait_until("the port is closed", || TcpStream::connect((outside, port)).is_err()).await;
}

#[tokio::test]
async fn a_port_that_is_reachable_already_is_left_alone() {
    let outside = outside(2);
    // Bound to both, it is served by itself on either.
    let inner = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = inner.local_addr().unwrap().port();
    let outer = TcpListener::bind((outside, port)).unwrap();
    let probe = TcpListener::bind("127.0.0.1:0").unwrap();
    let probe_port = probe.local_addr().unwrap().port();
    let _envd = Envd::start_with(&["--forward-to", &outside.to_string()], &[]);
    // Once the probe is forwarded, the others were looked at as well.
    wait_until("another port is forwarded", || TcpStream::connect((outside, probe_port)).is_ok())
        .await;
    outer.set_nonblocking(true).unwrap();
    let _client = TcpStream::connect((outside, port)).unwrap();
    wait_until("the server itself is reached", || outer.accept().is_ok()).await;
}
