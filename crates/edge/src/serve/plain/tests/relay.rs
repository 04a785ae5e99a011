use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::task::Poll;

use futures::poll;
use lifecycle::TaskGroup;
use node_wire::{Ingress, Route};
use rustix::net::sockopt;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Notify;

use crate::Config;
use crate::seats::Seats;
use crate::serve::plain::relay::{End, Relay};
use crate::upstream::{Bare, Protocol, Upstream};

/// What the ends of the client's connection hold between them, at most.
const LITTLE: usize = 4096;
const BODY: usize = 48 * 1024;

/// A client and its sandbox, and the edge's two ends between them.
struct Both {
    client: TcpStream,
    to_client: TcpStream,
    bare: Bare,
    sandbox: TcpStream,
    upstream: Upstream,
}

impl Both {
    async fn new() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let client = TcpSocket::new_v4().unwrap();
        client.set_recv_buffer_size(LITTLE.try_into().unwrap()).unwrap();
        let (client, accepted) = tokio::join!(client.connect(addr), listener.accept());
        let to_client = accepted.unwrap().0;
        sockopt::set_socket_send_buffer_size(&to_client, LITTLE).unwrap();

        let upstream = upstream(addr);
        let port = upstream.port(addr.port().try_into().unwrap(), Protocol::Http1);
        let (bare, accepted) = tokio::join!(upstream.connect_bare(port), listener.accept());
        Self {
            client: client.unwrap(),
            to_client,
            bare: bare.unwrap(),
            sandbox: accepted.unwrap().0,
            upstream,
        }
    }

    /// The sandbox has sent `bytes`, and all of them are there to be read.
    async fn answers(&mut self, bytes: &[u8]) {
        self.sandbox.write_all(bytes).await.unwrap();
        let mut seen = vec![0; bytes.len()];
        while self.bare.socket().peek(&mut seen).await.unwrap() < bytes.len() {}
    }
}

fn upstream(addr: SocketAddr) -> Upstream {
    let route = Route {
        sandbox: "iabc".parse().unwrap(),
        lifecycle: "one".parse().unwrap(),
        addr: addr.ip(),
    };
    let (idle, sweep) = (Seats::new(1), Arc::new(Notify::new()));
    Upstream::new(route, Ingress::default(), &Config::default(), idle, sweep, TaskGroup::default())
}

#[tokio::test]
async fn an_answer_that_is_all_there_reaches_its_client_whatever_becomes_of_the_sandbox() {
    let mut both = Both::new().await;
    let head = format!("HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: {BODY}\r\n\r\n");
    let answer = [head.as_bytes(), &[b'x'; BODY]].concat();
    both.answers(&answer).await;
    let Both { mut client, mut to_client, mut bare, upstream, .. } = both;
    let mut out = Vec::new();
    let mut relay = Relay::new((&mut to_client, &mut bare, None), b"GET", &mut out, false);
    assert_eq!(poll!(poll_fn(|cx| relay.poll(cx, false))), Poll::Pending);
    upstream.end();
    assert_eq!(poll!(poll_fn(|cx| relay.poll(cx, false))), Poll::Pending);
    let mut seen = vec![0; answer.len()];
    let (end, read) =
        tokio::join!(poll_fn(|cx| relay.poll(cx, false)), client.read_exact(&mut seen));
    assert_eq!((end, read.unwrap()), (End::Done, answer.len()));
    assert!(seen == answer);
}

#[tokio::test]
async fn the_end_of_a_sandbox_ends_what_it_has_not_answered() {
    for (answer, end) in [
        ("", End::Ended),
        ("HTTP/1.1 200 OK\r\n", End::Ended),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nx", End::Cut),
        ("HTTP/1.1 200 OK\r\n\r\nx", End::Cut),
    ] {
        let mut both = Both::new().await;
        if !answer.is_empty() {
            both.answers(answer.as_bytes()).await;
        }
        let mut out = Vec::new();
        let Both { to_client, bare, upstream, .. } = &mut both;
        let mut relay = Relay::new((to_client, bare, None), b"GET", &mut out, false);
        assert_eq!(poll!(poll_fn(|cx| relay.poll(cx, false))), Poll::Pending, "{answer}");
        upstream.end();
        assert_eq!(poll!(poll_fn(|cx| relay.poll(cx, false))), Poll::Ready(end), "{answer}");
        assert!(relay.has_begun(), "{answer}");
    }
}
