//! What one connection and one request may ask for, and what is answered beyond that.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt as _;
use http::{HeaderName, HeaderValue, Response};
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt as _;

use crate::kit::{
    SANDBOX, channel, config, empty, full, h2, h2_request, in_world, read_head, text,
};

/// Streams that an HTTP/2 connection may have open.
const STREAMS: usize = 100;

#[tokio::test]
async fn a_head_that_is_too_big_is_told_so_over_both_protocols() {
    in_world(config(), async |world| {
        let server = world.sandbox_http(|_request| async { Response::new(full("seen")) }).await;
        let host = format!("{}-{SANDBOX}.localhost", server.port);
        let big = "x".repeat(200_000);
        let many: String = (0..120).map(|n| format!("X-{n}: 1\r\n")).collect();
        for request in [
            format!("GET / HTTP/1.1\r\nHost: {host}\r\nX-Big: {big}\r\n\r\n"),
            format!("GET / HTTP/1.1\r\nHost: {host}\r\n{many}\r\n"),
            format!("GET /{big} HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        ] {
            let mut client = world.socket().await;
            client.write_all(request.as_bytes()).await.unwrap();
            let head = read_head(&mut client).await;
            assert!(head.starts_with("HTTP/1.1 431 "), "{head}");
        }

        let mut client = h2(world).await;
        let mut request = h2_request(format!("http://{host}/"), empty());
        for n in 0..9 {
            let name = HeaderName::try_from(format!("x-{n}")).unwrap();
            let value = HeaderValue::try_from("x".repeat(8_000)).unwrap();
            request.headers_mut().insert(name, value);
        }
        assert_eq!(client.send_request(request).await.unwrap().status(), 431);
        let small = client.send_request(h2_request(format!("http://{host}/"), empty())).await;
        assert_eq!(text(small.unwrap()).await.2, "seen", "the connection goes on");
        assert_eq!(server.connections(), 1);
    })
    .await;
}

#[tokio::test]
async fn an_answer_whose_head_is_too_big_is_no_answer() {
    in_world(config(), async |world| {
        let server = world
            .sandbox_raw(|mut socket| async move {
                read_head(&mut socket).await;
                let answer = format!("HTTP/1.1 200 OK\r\nX-Big: {}\r\n\r\n", "x".repeat(200_000));
                drop(socket.write_all(answer.as_bytes()).await);
            })
            .await;
        assert_eq!(world.text(server.get("/")).await.0, 502);
    })
    .await;
}

#[tokio::test]
async fn one_stream_too_many_on_a_connection_waits_for_another_to_end() {
    in_world(config(), async |world| {
        let open = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&open);
        let server = world
            .sandbox_http(move |_request| {
                let (frames, body) = channel();
                kept.lock().push(frames);
                async move { Response::new(body) }
            })
            .await;
        let mut client = h2(world).await;
        let request = || h2_request(format!("http://{}-{SANDBOX}.x/", server.port), empty());
        // The first answer comes after the edge's settings.
        let mut answers = vec![client.send_request(request()).await.unwrap()];
        for _ in 1..STREAMS {
            answers.push(client.send_request(request()).await.unwrap());
        }
        let mut more = Box::pin(client.send_request(request()));
        // Another connection has streams of its own.
        h2(world).await.send_request(request()).await.unwrap();
        assert!((&mut more).now_or_never().is_none());
        answers.pop();
        more.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn an_upload_that_nobody_takes_does_not_hold_up_the_others_of_its_connection() {
    in_world(config(), async |world| {
        let server = world
            .sandbox_http(|request| async move {
                if request.uri().path() == "/never" {
                    std::future::pending::<()>().await;
                }
                let size = request.into_body().collect().await.unwrap().to_bytes().len();
                Response::new(full(size.to_string()))
            })
            .await;
        let mut client = h2(world).await;
        let uri = |path| format!("http://{}-{SANDBOX}.x/{path}", server.port);
        let (frames, body) = channel();
        let never = client.send_request(h2_request(uri("never"), body));
        let mut stuck = Box::pin(never);
        let piece = Bytes::from(vec![0; 64 * 1024]);
        // As much as goes: no more is taken for as long as another request needs from end to end.
        loop {
            tokio::select! {
                biased;
                _answer = &mut stuck => panic!("answered"),
                sent = frames.send(piece.clone()) => sent.unwrap(),
                other = client.clone().send_request(h2_request(uri("x"), empty())) => {
                    assert_eq!(text(other.unwrap()).await.2, "0");
                    break;
                }
            }
        }
        let big = Bytes::from(vec![0; 3_000_000]);
        let answer = client.send_request(h2_request(uri("x"), full(big.clone()))).await.unwrap();
        assert_eq!(text(answer).await.2, big.len().to_string());
    })
    .await;
}
