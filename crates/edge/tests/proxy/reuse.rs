use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use edge::Config;
use futures::poll;
use http::Response;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot};

use crate::kit::{
    LIFECYCLE, SANDBOX, Server, World, full, in_world, one_lane, read_head, text, try_read_head,
};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A kept connection serves every request, however slow this machine is.
fn always_fresh() -> Config {
    Config { fresh: Duration::MAX, ..one_lane() }
}

#[tokio::test]
async fn a_request_that_cannot_be_sent_again_does_not_take_an_old_connection() {
    let config = Config { fresh: Duration::ZERO, ..one_lane() };
    in_world(config, async |world| {
        let server = world.sandbox_http(|_request| async { Response::new(full("x")) }).await;
        world.text(server.get("/")).await;
        world.text(server.post("/", full("body"))).await;
        assert_eq!(server.connections(), 2);
        world.text(server.get("/")).await;
        assert_eq!(server.connections(), 2);
    })
    .await;
}

#[tokio::test]
async fn requests_one_after_another_share_a_connection() {
    in_world(always_fresh(), async |world| {
        let server = world.sandbox_http(|_request| async { Response::new(full("x")) }).await;
        let mut client = world.client().await;
        for _ in 0..20 {
            client.ready().await.unwrap();
            text(client.send_request(server.get("/")).await.unwrap()).await;
            client.ready().await.unwrap();
            text(client.send_request(server.post("/", full("body"))).await.unwrap()).await;
        }
        assert_eq!(server.connections(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_new_run_at_the_same_address_gets_connections_of_its_own() {
    in_world(one_lane(), async |world| {
        let server = world.sandbox_http(|_request| async { Response::new(full("x")) }).await;
        world.text(server.get("/")).await;
        world.withdraw(SANDBOX, LIFECYCLE);
        world.publish(SANDBOX, "two");
        world.text(server.get("/")).await;
        assert_eq!(server.connections(), 2);
    })
    .await;
}

#[tokio::test]
async fn withdrawing_closes_unused_connections() {
    in_world(one_lane(), async |world| {
        let (server, closed) = answers_then_waits_for_the_end(world).await;
        world.text(server.get("/")).await;
        world.withdraw(SANDBOX, LIFECYCLE);
        closed.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn an_unused_connection_is_closed_after_its_time() {
    let config = Config { upstream_idle: Duration::from_millis(20), ..one_lane() };
    in_world(config, async |world| {
        let (server, closed) = answers_then_waits_for_the_end(world).await;
        world.text(server.get("/")).await;
        closed.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn an_unused_connection_is_closed_when_its_server_leaves_it() {
    in_world(one_lane(), async |world| {
        let (told, closed) = oneshot::channel();
        let (leave, left) = oneshot::channel::<()>();
        let told = Mutex::new(Some((told, left)));
        let server = world
            .sandbox_raw(move |mut socket| {
                let (told, left) = told.lock().take().unwrap();
                async move {
                    read_head(&mut socket).await;
                    socket.write_all(OK).await.unwrap();
                    left.await.unwrap();
                    socket.shutdown().await.unwrap();
                    assert_eq!(socket.read(&mut [0; 1]).await.unwrap_or(0), 0);
                    told.send(()).unwrap();
                }
            })
            .await;
        world.text(server.get("/")).await;
        leave.send(()).unwrap();
        closed.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn connections_that_are_left_all_the_time_do_not_keep_the_others() {
    let config = Config { upstream_idle: Duration::from_millis(400), ..one_lane() };
    in_world(config, async |world| {
        let (kept, closed) = answers_then_waits_for_the_end(world).await;
        let leave = Arc::new(Notify::new());
        let leaves = Arc::clone(&leave);
        let leaver = world
            .sandbox_raw(move |mut socket| {
                let leaves = Arc::clone(&leaves);
                async move {
                    read_head(&mut socket).await;
                    socket.write_all(OK).await.unwrap();
                    leaves.notified().await;
                }
            })
            .await;
        world.text(kept.get("/")).await;
        let mut closed = pin!(closed);
        while poll!(closed.as_mut()).is_pending() {
            world.text(leaver.get("/")).await;
            leave.notify_one();
        }
    })
    .await;
}

#[tokio::test]
async fn no_connection_is_kept_beyond_the_limit_of_all_sandboxes() {
    let config = Config { max_idle: 0, ..one_lane() };
    in_world(config, async |world| {
        let (server, closed) = answers_then_waits_for_the_end(world).await;
        world.text(server.get("/")).await;
        closed.await.unwrap();
    })
    .await;
}

/// A server that answers once, and tells when the connection is closed by the other side.
async fn answers_then_waits_for_the_end(world: &World) -> (Server, oneshot::Receiver<()>) {
    let (told, closed) = oneshot::channel();
    let told = Mutex::new(Some(told));
    let server = world
        .sandbox_raw(move |mut socket| {
            let told = told.lock().take().unwrap();
            async move {
                read_head(&mut socket).await;
                socket.write_all(OK).await.unwrap();
                assert_eq!(socket.read(&mut [0; 1]).await.unwrap_or(0), 0);
                told.send(()).unwrap();
            }
        })
        .await;
    (server, closed)
}

/// A server whose first connection answers one request and dies in the middle of the next, and
/// whose other connections answer everything.
async fn dies_on_second(world: &World, read_first: usize) -> Server {
    let seen = Arc::new(AtomicUsize::new(0));
    world
        .sandbox_raw(move |mut socket| {
            let first = seen.fetch_add(1, Ordering::SeqCst) == 0;
            async move {
                answer(&mut socket).await.unwrap();
                if first {
                    // What is read of the second request is all this connection ever does.
                    let mut bytes = vec![0; read_first];
                    socket.read_exact(&mut bytes).await.unwrap();
                    return;
                }
                while answer(&mut socket).await.is_ok() {}
            }
        })
        .await
}

/// Answers one request, whose body is `body` if it has one.
async fn answer(socket: &mut TcpStream) -> io::Result<()> {
    let head = try_read_head(socket).await?;
    if head.starts_with("POST") {
        let mut body = [0; 4];
        socket.read_exact(&mut body).await?;
        assert_eq!(&body, b"body");
    }
    socket.write_all(OK).await
}

#[tokio::test]
async fn a_kept_connection_that_dies_is_replaced_for_a_request_that_does_no_harm_twice() {
    in_world(one_lane(), async |world| {
        let server = dies_on_second(world, 1).await;
        assert_eq!(world.text(server.get("/")).await.0, 200);
        assert_eq!(world.text(server.get("/")).await.0, 200);
        assert_eq!(server.connections(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_request_with_side_effects_is_not_sent_twice_once_it_was_sent() {
    in_world(always_fresh(), async |world| {
        let server = dies_on_second(world, 1).await;
        assert_eq!(world.text(server.get("/")).await.0, 200);
        assert_eq!(world.text(server.post("/", full("body"))).await.0, 502);
        assert_eq!(server.connections(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_request_is_sent_again_when_none_of_its_body_was() {
    in_world(always_fresh(), async |world| {
        let server = dies_on_second(world, 1).await;
        assert_eq!(world.text(server.get("/")).await.0, 200);
        // The head goes out alone; the body is written when the second connection has it.
        let mut client = world.socket().await;
        let head = format!(
            "POST / HTTP/1.1\r\nHost: {}-{SANDBOX}.x\r\nContent-Length: 4\r\nConnection: close\r\n\r\n",
            server.port
        );
        client.write_all(head.as_bytes()).await.unwrap();
        while server.connections() < 2 {
            tokio::task::yield_now().await;
        }
        client.write_all(b"body").await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_the_sandbox_closed_while_unused_is_not_noticed_by_anyone() {
    in_world(one_lane(), async |world| {
        let server = world
            .sandbox_raw(|mut socket| async move {
                answer(&mut socket).await.unwrap();
            })
            .await;
        for _ in 0..20 {
            assert_eq!(world.text(server.get("/")).await.0, 200);
        }
        assert_eq!(server.connections(), 20);
    })
    .await;
}

#[tokio::test]
async fn many_at_once_use_many_connections_and_keep_a_few() {
    let config = Config { max_idle_per_port: 2, ..one_lane() };
    in_world(config, async |world| {
        let together = Arc::new(tokio::sync::Barrier::new(8));
        let server = world
            .sandbox_http(move |_request| {
                let together = Arc::clone(&together);
                async move {
                    together.wait().await;
                    Response::new(full(Bytes::from_static(b"x")))
                }
            })
            .await;
        let all = (0..8).map(|_| world.text(server.get("/")));
        for (status, ..) in futures::future::join_all(all).await {
            assert_eq!(status, 200);
        }
        assert_eq!(server.connections(), 8);
    })
    .await;
}
