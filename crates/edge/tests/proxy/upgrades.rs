use std::num::NonZero;
use std::pin::pin;
use std::time::Duration;

use edge::Config;
use futures::{SinkExt as _, StreamExt as _, poll};
use http::Response;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::kit::{LIFECYCLE, SANDBOX, Server, World, config, full, in_world, read_head, text};

/// A server that changes to a protocol in which every byte is sent back, then says bye.
async fn echo(world: &World) -> Server {
    world
        .sandbox_raw(|mut socket| async move {
            let head = read_head(&mut socket).await;
            assert!(head.contains("Connection: upgrade\r\n"), "{head}");
            assert!(head.contains("Upgrade: echo\r\n"), "{head}");
            // The first bytes of the new protocol come with the head.
            let answer =
                b"HTTP/1.1 101 Over\r\nConnection: Upgrade\r\nUpgrade: echo\r\nX-Own: 1\r\n\r\nhi";
            socket.write_all(answer).await.unwrap();
            let (mut from, mut to) = socket.split();
            if tokio::io::copy(&mut from, &mut to).await.is_ok() {
                drop(to.write_all(b"bye").await);
            }
        })
        .await
}

async fn upgraded(world: &World, server: &Server) -> TcpStream {
    let mut client = world.socket().await;
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {}-{SANDBOX}.x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n",
        server.port
    );
    client.write_all(request.as_bytes()).await.unwrap();
    let head = read_head(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert!(head.contains("Upgrade: echo\r\n") && head.contains("X-Own: 1\r\n"), "{head}");
    assert_eq!(read(&mut client, 2).await, b"hi");
    client
}

async fn read(socket: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    socket.read_exact(&mut bytes).await.unwrap();
    bytes
}

#[tokio::test]
async fn any_protocol_passes_both_ways_and_each_way_ends_by_itself() {
    in_world(config(), async |world| {
        let server = echo(world).await;
        let mut client = upgraded(world, &server).await;
        for _ in 0..3 {
            client.write_all(b"ping").await.unwrap();
            assert_eq!(read(&mut client, 4).await, b"ping");
        }
        client.shutdown().await.unwrap();
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"bye");
    })
    .await;
}

#[tokio::test]
async fn what_is_not_taken_yet_waits_in_order_in_both_directions() {
    /// More than all that lies between can hold.
    const BYTES: usize = 48 << 20;
    in_world(config(), async |world| {
        let server = echo(world).await;
        let mut client = upgraded(world, &server).await;
        let sent: Vec<u8> = (0_usize..BYTES).map(|n| (n * n / 7).to_le_bytes()[0]).collect();
        let mut got = vec![0; BYTES];
        let (mut from, mut to) = client.split();
        let mut write = pin!(to.write_all(&sent));
        // Nobody reads before nothing more fits.
        assert!(poll!(write.as_mut()).is_pending());
        let (written, read) = tokio::join!(write, from.read_exact(&mut got));
        written.unwrap();
        read.unwrap();
        assert!(got == sent, "something was lost or changed its place");
    })
    .await;
}

#[tokio::test]
async fn a_tunnel_has_its_place_on_a_thread_until_it_ends() {
    let config = Config { lanes: NonZero::new(2).unwrap(), ..config() };
    in_world(config, async |world| {
        let tunnels = echo(world).await;
        let server = world.sandbox_http(|_request| async { Response::new(full("x")) }).await;
        let get = async || {
            let mut client = world.client().await;
            assert_eq!(text(client.send_request(server.get("/")).await.unwrap()).await.2, "x");
            client
        };
        let one = get().await;
        // On the other thread, as the first has one.
        let mut tunnel = upgraded(world, &tunnels).await;
        tunnel.write_all(b"ping").await.unwrap();
        assert_eq!(read(&mut tunnel, 4).await, b"ping");
        // Each has one, so the next is on the first, and finds what was left there.
        let next = get().await;
        assert_eq!(server.connections(), 1);
        drop((one, next));
    })
    .await;
}

#[tokio::test]
async fn what_a_client_says_too_early_is_not_lost() {
    in_world(config(), async |world| {
        let server = echo(world).await;
        let mut client = world.socket().await;
        let request = format!(
            "GET / HTTP/1.1\r\nHost: {}-{SANDBOX}.x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nearly",
            server.port
        );
        client.write_all(request.as_bytes()).await.unwrap();
        assert!(read_head(&mut client).await.starts_with("HTTP/1.1 101"));
        assert_eq!(read(&mut client, 7).await, b"hiearly");
    })
    .await;
}

#[tokio::test]
async fn a_websocket_works_through_a_host_name() {
    in_world(config(), async |world| {
        let server = world
            .sandbox_raw(|socket| async move {
                let mut socket = tokio_tungstenite::accept_async(socket).await.unwrap();
                while let Some(Ok(message)) = socket.next().await {
                    if message.is_text() || message.is_binary() {
                        socket.send(message).await.unwrap();
                    }
                }
            })
            .await;
        let uri = format!("ws://{}-{SANDBOX}.localhost/chat", server.port);
        let (mut client, response) =
            tokio_tungstenite::client_async(uri, world.socket().await).await.unwrap();
        assert_eq!(response.status(), 101);
        let big = Message::binary(vec![7; 300_000]);
        for message in [Message::text("one"), big, Message::text("two")] {
            client.send(message.clone()).await.unwrap();
            assert_eq!(client.next().await.unwrap().unwrap(), message);
        }
        client.close(None).await.unwrap();
        while let Some(message) = client.next().await {
            assert!(message.unwrap().is_close());
        }
    })
    .await;
}

#[tokio::test]
async fn withdrawing_a_sandbox_closes_its_tunnels_in_order() {
    in_world(config(), async |world| {
        let server = echo(world).await;
        let mut client = upgraded(world, &server).await;
        world.withdraw(SANDBOX, LIFECYCLE);
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"");
    })
    .await;
}

/// The longest a test may be held up by what does not end by itself.
const PATIENT: Duration = Duration::from_secs(30);
/// As good as none.
const HURRIED: Duration = Duration::from_millis(20);

/// A WebSocket server that sends back what it gets, then says how its connection ended.
async fn websocket(world: &World) -> (WebSocketStream<TcpStream>, mpsc::Receiver<Option<Message>>) {
    let (ends, ended) = mpsc::channel(1);
    let server = world
        .sandbox_raw(move |socket| {
            let ends = ends.clone();
            async move {
                let mut socket = tokio_tungstenite::accept_async(socket).await.unwrap();
                let last = loop {
                    match socket.next().await {
                        Some(Ok(message)) if message.is_text() => {
                            socket.send(message).await.unwrap();
                        }
                        Some(Ok(message)) => break Some(message),
                        Some(Err(_)) | None => break None,
                    }
                };
                ends.send(last).await.unwrap();
            }
        })
        .await;
    let uri = format!("ws://{}-{SANDBOX}.localhost/", server.port);
    let (mut client, _) = tokio_tungstenite::client_async(uri, world.socket().await).await.unwrap();
    client.send(Message::text("before")).await.unwrap();
    assert_eq!(client.next().await.unwrap().unwrap(), Message::text("before"));
    (client, ended)
}

/// Waits until the listener has stopped.
async fn stopped(world: &World) {
    world.stop.cancel();
    while TcpStream::connect(world.addr).await.is_ok() {}
}

#[tokio::test]
async fn tunnels_go_on_within_the_budget_of_a_stop_and_end_as_their_ends_wish() {
    in_world(Config { grace: PATIENT, ..config() }, async |world| {
        let server = echo(world).await;
        let mut raw = upgraded(world, &server).await;
        let (mut client, mut ended) = websocket(world).await;
        stopped(world).await;
        raw.write_all(b"ping").await.unwrap();
        assert_eq!(read(&mut raw, 4).await, b"ping");
        client.send(Message::text("after")).await.unwrap();
        assert_eq!(client.next().await.unwrap().unwrap(), Message::text("after"));

        raw.shutdown().await.unwrap();
        let mut rest = Vec::new();
        raw.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"bye", "the sandbox has the last word");
        client.close(None).await.unwrap();
        assert!(ended.recv().await.unwrap().unwrap().is_close());
    })
    .await;
}

#[tokio::test]
async fn tunnels_are_cut_at_the_end_of_the_budget_and_websockets_are_told() {
    in_world(Config { grace: HURRIED, ..config() }, async |world| {
        let server = echo(world).await;
        let mut raw = upgraded(world, &server).await;
        let (mut client, mut ended) = websocket(world).await;
        stopped(world).await;
        let mut rest = Vec::new();
        raw.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"", "an end, not a reset");
        let Message::Close(Some(frame)) = client.next().await.unwrap().unwrap() else {
            panic!("no word of the end");
        };
        assert_eq!(frame.code, CloseCode::Away);
        assert_eq!(ended.recv().await, Some(None), "the sandbox sees the connection end");
    })
    .await;
}

#[tokio::test]
async fn a_websocket_whose_message_is_half_sent_is_cut_without_a_word() {
    in_world(Config { grace: HURRIED, ..config() }, async |world| {
        let server = world
            .sandbox_raw(|mut socket| async move {
                read_head(&mut socket).await;
                let answer = b"HTTP/1.1 101 Over\r\nConnection: Upgrade\r\n\
                               Upgrade: websocket\r\n\r\n\x82\x05ab";
                socket.write_all(answer).await.unwrap();
                drop(socket.read(&mut [0; 1]).await);
            })
            .await;
        let mut client = world.socket().await;
        let request = format!(
            "GET / HTTP/1.1\r\nHost: {}-{SANDBOX}.x\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\n\r\n",
            server.port
        );
        client.write_all(request.as_bytes()).await.unwrap();
        read_head(&mut client).await;
        assert_eq!(read(&mut client, 4).await, b"\x82\x05ab");
        stopped(world).await;
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"", "a close here would be taken for the rest of the message");
    })
    .await;
}

#[tokio::test]
async fn a_sandbox_may_decline_an_upgrade() {
    in_world(config(), async |world| {
        let server = world
            .sandbox_http(|request: http::Request<_>| async move {
                assert_eq!(request.headers()["upgrade"], "websocket");
                Response::builder().status(426).body(full("no")).unwrap()
            })
            .await;
        let mut request = server.get("/");
        request.headers_mut().insert("connection", "upgrade".parse().unwrap());
        request.headers_mut().insert("upgrade", "websocket".parse().unwrap());
        let (status, _, body) = world.text(request).await;
        assert_eq!((status, body.as_str()), (426, "no"));
    })
    .await;
}

#[tokio::test]
async fn a_change_of_protocol_that_nobody_asked_for_is_no_answer() {
    in_world(config(), async |world| {
        let server = world
            .sandbox_raw(|mut socket| async move {
                read_head(&mut socket).await;
                let answer = b"HTTP/1.1 101 Over\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
                socket.write_all(answer).await.unwrap();
                drop(socket.read(&mut [0; 16]).await);
            })
            .await;
        assert_eq!(world.text(server.get("/")).await.0, 502);
        let mut request = server.get("/");
        request.headers_mut().insert("connection", "upgrade".parse().unwrap());
        request.headers_mut().insert("upgrade", "websocket".parse().unwrap());
        assert_eq!(world.text(request).await.0, 502);
    })
    .await;
}
