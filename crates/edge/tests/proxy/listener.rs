use std::time::Duration;

use bytes::Bytes;
use edge::Config;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::kit::{
    SANDBOX, channel, config, empty, full, h2, h2_request, in_world, read_head, text,
};

#[tokio::test]
async fn http_2_without_tls_reaches_sandboxes_and_the_api_on_one_connection() {
    in_world(config(), async |world| {
        let server = world
            .sandbox_http(|request: Request<_>| async move {
                let host = request.headers()["host"].clone();
                assert!(host.to_str().unwrap().ends_with(".localhost"), "{host:?}");
                assert_eq!(request.headers()["cookie"], "a=1; b=2");
                let body: hyper::body::Incoming = request.into_body();
                Response::new(body.map_err(Into::into).boxed_unsync())
            })
            .await;
        let mut client = h2(world).await;
        let (frames, body) = channel();
        let mut request = h2_request(format!("http://{}-{SANDBOX}.localhost/", server.port), body);
        request.headers_mut().append("cookie", "a=1".parse().unwrap());
        request.headers_mut().append("cookie", "b=2".parse().unwrap());
        let mut echo = client.send_request(request).await.unwrap().into_body();

        let api = h2_request("http://localhost/v2/x".to_owned(), empty());
        let api = client.send_request(api).await.unwrap();
        assert_eq!(text(api).await.2, "api /v2/x");

        for piece in ["one", "two"] {
            frames.send(Bytes::from(piece)).await.unwrap();
            assert_eq!(echo.frame().await.unwrap().unwrap().into_data().unwrap(), piece);
        }
        drop(frames);
        assert_eq!(echo.collect().await.unwrap().to_bytes(), "");
    })
    .await;
}

#[tokio::test]
async fn a_dropped_http_2_stream_ends_its_connection_to_the_sandbox() {
    in_world(config(), async |world| {
        let (frames, body) = channel();
        let body = std::sync::Arc::new(parking_lot::Mutex::new(Some(body)));
        let server = world
            .sandbox_http(move |_request| {
                let body = body.lock().take().unwrap();
                async move { Response::new(body) }
            })
            .await;
        let mut client = h2(world).await;
        let request = h2_request(format!("http://{}-{SANDBOX}.localhost/", server.port), empty());
        let response = client.send_request(request).await.unwrap();
        drop(response);
        frames.closed().await;
    })
    .await;
}

#[tokio::test]
async fn a_head_that_drips_in_is_cut_off() {
    // Long enough for those who mean to send one.
    let config = Config { head_limit: Duration::from_secs(1), ..config() };
    in_world(config, async |world| {
        let mut fresh = world.socket().await;
        fresh.write_all(b"GET / HT").await.unwrap();
        let mut silent = world.socket().await;
        let mut used = world.socket().await;
        used.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let head = read_head(&mut used).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert_eq!(used.read(&mut [0; 5]).await.unwrap(), 5);
        used.write_all(b"GET /again HTTP/1.1\r\n").await.unwrap();
        for socket in [&mut fresh, &mut silent, &mut used] {
            assert_eq!(socket.read(&mut [0; 1]).await.unwrap_or(0), 0);
        }
    })
    .await;
}

#[tokio::test]
async fn an_unused_connection_outlives_the_limit_of_a_head_and_ends_with_its_own() {
    let config = Config {
        head_limit: Duration::from_secs(1),
        client_idle: Duration::from_secs(2),
        ..config()
    };
    in_world(config, async |world| {
        let mut client = world.socket().await;
        let start = tokio::time::Instant::now();
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        read_head(&mut client).await;
        assert_eq!(client.read(&mut [0; 5]).await.unwrap(), 5);
        assert_eq!(client.read(&mut [0; 1]).await.unwrap_or(0), 0);
        assert!(start.elapsed() >= Duration::from_secs(2), "{:?}", start.elapsed());
    })
    .await;
}

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let config = Config { max_connections: 1, ..config() };
    in_world(config, async |world| {
        let mut first = world.client().await;
        let request = || Request::get("/").header("host", "x").body(empty()).unwrap();
        assert_eq!(text(first.send_request(request()).await.unwrap()).await.0, 200);

        let refused = world.send(request()).await;
        assert_eq!(refused.headers()["retry-after"], "1");
        let (status, kind, body) = text(refused).await;
        assert_eq!((status, kind.as_str()), (503, "application/json; charset=utf-8"));
        assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["code"], 503);

        drop(first);
        // The place is free when the edge has seen the end of the first connection.
        while world.text(request()).await.0 != 200 {}
    })
    .await;
}

#[tokio::test]
async fn stopping_ends_what_is_unused_and_waits_for_what_is_under_way() {
    let config = Config { grace: Duration::from_secs(30), ..config() };
    in_world(config, async |world| {
        let (frames, body) = channel();
        let body = std::sync::Arc::new(parking_lot::Mutex::new(Some(body)));
        let server = world
            .sandbox_http(move |_request| {
                let body = body.lock().take().unwrap();
                async move { Response::new(body) }
            })
            .await;
        let mut unused = world.socket().await;
        unused.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        read_head(&mut unused).await;
        unused.read_exact(&mut [0; 5]).await.unwrap();
        let mut streaming = world.send(server.get("/")).await.into_body();

        world.stop.cancel();
        assert_eq!(unused.read(&mut [0; 1]).await.unwrap(), 0);
        while TcpStream::connect(world.addr).await.is_ok() {}
        frames.send(Bytes::from_static(b"last")).await.unwrap();
        assert_eq!(streaming.frame().await.unwrap().unwrap().into_data().unwrap(), "last");
        drop(frames);
        assert!(streaming.frame().await.is_none());
    })
    .await;
}

#[tokio::test]
async fn stopping_cuts_what_does_not_end_in_time() {
    let config = Config { grace: Duration::from_millis(20), ..config() };
    in_world(config, async |world| {
        let (reached, mut reaches) = mpsc::channel(1);
        let server = world
            .sandbox_http(move |_request| {
                let reached = reached.clone();
                async move {
                    reached.send(()).await.unwrap();
                    std::future::pending::<()>().await;
                    Response::new(full(""))
                }
            })
            .await;
        let mut client = world.client().await;
        let (answer, ()) = tokio::join!(client.send_request(server.get("/")), async {
            reaches.recv().await.unwrap();
            world.stop.cancel();
        });
        answer.unwrap_err();
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_is_cut_is_seen_to_be_incomplete() {
    let config = Config { grace: Duration::from_millis(20), ..config() };
    in_world(config, async |world| {
        let open = std::sync::Arc::new(parking_lot::Mutex::new(Vec::new()));
        let kept = std::sync::Arc::clone(&open);
        let server = world
            .sandbox_http(move |_request| {
                let kept = std::sync::Arc::clone(&kept);
                async move {
                    let (frames, body) = channel();
                    frames.send(Bytes::from_static(b"first")).await.unwrap();
                    // It does not end by itself.
                    kept.lock().push(frames);
                    Response::new(body)
                }
            })
            .await;
        let mut one = world.send(server.get("/")).await.into_body();
        let mut client = h2(world).await;
        let request = h2_request(format!("http://{}-{SANDBOX}.localhost/", server.port), empty());
        let mut other = client.send_request(request).await.unwrap().into_body();
        for body in [&mut one, &mut other] {
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "first");
        }
        world.stop.cancel();
        for body in [&mut one, &mut other] {
            body.frame().await.unwrap().unwrap_err();
        }
        assert!(client.is_closed(), "and no more is asked on that connection");
        assert_eq!(open.lock().len(), 2);
    })
    .await;
}
