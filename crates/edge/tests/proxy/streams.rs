use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot};

use crate::kit::{
    LIFECYCLE, SANDBOX, Server, TestBody, World, channel, config, empty, full, h2, h2_request,
    in_world, read_head, text,
};

/// A server whose one answer is written by the test, frame by frame.
async fn written_by_test(world: &World) -> (Server, mpsc::Sender<Bytes>) {
    let (frames, body) = channel();
    let body = Arc::new(Mutex::new(Some(body)));
    let server = world
        .sandbox_http(move |_request| {
            let body: TestBody = body.lock().take().unwrap();
            async move { Response::new(body) }
        })
        .await;
    (server, frames)
}

async fn next(body: &mut hyper::body::Incoming) -> Option<Bytes> {
    body.frame().await.map(|frame| frame.unwrap().into_data().unwrap())
}

#[tokio::test]
async fn an_answer_arrives_piece_by_piece() {
    in_world(config(), async |world| {
        let (server, frames) = written_by_test(world).await;
        let mut body = world.send(server.get("/")).await.into_body();
        for piece in ["one", "two", "three"] {
            // The next piece is written only after this one has arrived.
            frames.send(Bytes::from(piece)).await.unwrap();
            assert_eq!(next(&mut body).await.unwrap(), piece);
        }
        drop(frames);
        assert_eq!(next(&mut body).await, None);
    })
    .await;
}

#[tokio::test]
async fn a_request_arrives_piece_by_piece_while_the_answer_goes_back() {
    in_world(config(), async |world| {
        // Echoes every frame.
        let server = world
            .sandbox_http(|request| async move {
                Response::new(request.into_body().map_err(Into::into).boxed_unsync())
            })
            .await;
        let (frames, body) = channel();
        let mut echo = world.send(server.post("/", body)).await.into_body();
        for piece in ["one", "two", "three"] {
            frames.send(Bytes::from(piece)).await.unwrap();
            assert_eq!(next(&mut echo).await.unwrap(), piece);
        }
        drop(frames);
        assert_eq!(next(&mut echo).await, None);
    })
    .await;
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_request_is_passed_on() {
    in_world(config(), async |world| {
        let server = world
            .sandbox_raw(|mut socket| async move {
                read_head(&mut socket).await;
                let answer = b"HTTP/1.1 413 Too Big\r\nContent-Length: 3\r\n\r\nbig";
                socket.write_all(answer).await.unwrap();
                // The connection stays; the request goes on as long as its client likes.
                let mut rest = Vec::new();
                drop(socket.read_to_end(&mut rest).await);
            })
            .await;
        let (frames, body) = channel();
        frames.send(Bytes::from_static(b"part")).await.unwrap();
        let response = world.send(server.post("/", body)).await;
        assert_eq!(text(response).await, (413, String::new(), "big".to_owned()));
        drop(frames);
    })
    .await;
}

#[tokio::test]
async fn a_request_goes_on_while_its_client_does_not_read_the_answer() {
    // More than fits into anything between the two ends.
    const BYTES: usize = 32 * 1024 * 1024;
    in_world(config(), async |world| {
        let (told, all_here) = oneshot::channel();
        let told = Mutex::new(Some(told));
        let server = world
            .sandbox_raw(move |mut socket| {
                let told = told.lock().take().unwrap();
                async move {
                    read_head(&mut socket).await;
                    let (mut reads, mut writes) = socket.into_split();
                    let answer = async {
                        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BYTES}\r\n\r\n");
                        writes.write_all(head.as_bytes()).await.unwrap();
                        drop(writes.write_all(&vec![0; BYTES]).await);
                    };
                    let request = async {
                        let sent = &mut (&mut reads).take(BYTES.try_into().unwrap());
                        tokio::io::copy(sent, &mut tokio::io::sink()).await.unwrap();
                        told.send(()).unwrap();
                    };
                    tokio::join!(answer, request);
                }
            })
            .await;
        let mut client = world.socket().await;
        let (ip, port) = (server.ip, server.port);
        let head = format!(
            "POST / HTTP/1.1\r\nHost: {ip}\r\nE2b-Sandbox-Id: {SANDBOX}\r\n\
             E2b-Sandbox-Port: {port}\r\nContent-Length: {BYTES}\r\n\r\n"
        );
        client.write_all(head.as_bytes()).await.unwrap();
        let answer = read_head(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        client.write_all(&vec![0; BYTES]).await.unwrap();
        all_here.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_sandbox_that_dies_in_the_middle_is_seen_as_a_broken_answer() {
    in_world(config(), async |world| {
        for head in
            ["Transfer-Encoding: chunked\r\n\r\n4\r\npart\r\n", "Content-Length: 9\r\n\r\npart"]
        {
            let server = world
                .sandbox_raw(move |mut socket| async move {
                    read_head(&mut socket).await;
                    let answer = format!("HTTP/1.1 200 OK\r\n{head}");
                    socket.write_all(answer.as_bytes()).await.unwrap();
                })
                .await;
            let mut body = world.send(server.get("/")).await.into_body();
            let mut seen = Vec::new();
            let end = loop {
                match body.frame().await {
                    Some(Ok(frame)) => seen.extend_from_slice(&frame.into_data().unwrap()),
                    end => break end,
                }
            };
            assert!(matches!(end, Some(Err(_))), "a part must not look whole: {head}");
            assert!(b"part".starts_with(&seen));
        }
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_ends_with_its_connection_is_whole() {
    in_world(config(), async |world| {
        let server = world
            .sandbox_raw(|mut socket| async move {
                read_head(&mut socket).await;
                socket.write_all(b"HTTP/1.0 200 OK\r\n\r\nold school").await.unwrap();
            })
            .await;
        assert_eq!(world.text(server.get("/")).await.2, "old school");
    })
    .await;
}

#[tokio::test]
async fn a_sandbox_sees_that_its_client_hung_up() {
    in_world(config(), async |world| {
        for answers in [true, false] {
            let (gone, seen) = oneshot::channel();
            let (heard, head) = oneshot::channel();
            let told = Mutex::new(Some((gone, heard)));
            let server = world
                .sandbox_raw(move |mut socket| {
                    let (gone, heard) = told.lock().take().unwrap();
                    async move {
                        read_head(&mut socket).await;
                        if answers {
                            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart";
                            socket.write_all(answer).await.unwrap();
                        }
                        heard.send(()).unwrap();
                        gone.send(socket.read(&mut [0; 16]).await.unwrap_or(0)).unwrap();
                    }
                })
                .await;
            let mut client = world.socket().await;
            let request = format!("GET / HTTP/1.1\r\nHost: {}-{SANDBOX}.x\r\n\r\n", server.port);
            client.write_all(request.as_bytes()).await.unwrap();
            head.await.unwrap();
            if answers {
                read_head(&mut client).await;
            }
            drop(client);
            assert_eq!(seen.await.unwrap(), 0);
        }
    })
    .await;
}

#[tokio::test]
async fn a_sandbox_sees_that_an_upload_was_broken_off() {
    in_world(config(), async |world| {
        let (told, seen) = oneshot::channel();
        let told = Arc::new(Mutex::new(Some(told)));
        let server = world
            .sandbox_http(move |request| {
                let told = told.lock().take().unwrap();
                async move {
                    told.send(request.into_body().collect().await.is_err()).unwrap();
                    Response::new(full(""))
                }
            })
            .await;
        let mut client = world.socket().await;
        let request = format!(
            "POST / HTTP/1.1\r\nHost: {}-{SANDBOX}.x\r\nContent-Length: 9\r\n\r\npart",
            server.port
        );
        client.write_all(request.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        drop(client);
        assert!(seen.await.unwrap(), "a part must not look whole");
    })
    .await;
}

#[tokio::test]
async fn withdrawing_a_sandbox_ends_its_streams_and_no_others() {
    in_world(config(), async |world| {
        world.publish("iother", "two");
        let (server, frames) = written_by_test(world).await;
        let (kept, kept_frames) = written_by_test(world).await;
        let mut request = kept.get("/");
        request.headers_mut().insert("e2b-sandbox-id", "iother".parse().unwrap());
        let mut body = world.send(server.get("/")).await.into_body();
        let mut kept_body = world.send(request).await.into_body();
        frames.send(Bytes::from_static(b"x")).await.unwrap();
        assert_eq!(next(&mut body).await.unwrap(), "x");

        world.withdraw(SANDBOX, "another");
        frames.send(Bytes::from_static(b"y")).await.unwrap();
        assert_eq!(next(&mut body).await.unwrap(), "y", "it is not that run's to withdraw");

        world.withdraw(SANDBOX, LIFECYCLE);
        assert!(body.frame().await.unwrap().is_err());
        frames.closed().await;
        assert_eq!(world.text(server.get("/")).await.0, 502);

        kept_frames.send(Bytes::from_static(b"z")).await.unwrap();
        assert_eq!(next(&mut kept_body).await.unwrap(), "z");
    })
    .await;
}

#[tokio::test]
async fn withdrawing_answers_a_request_that_waits() {
    in_world(config(), async |world| {
        let (heard, head) = oneshot::channel();
        let heard = Mutex::new(Some(heard));
        let server = world
            .sandbox_raw(move |mut socket| {
                let heard = heard.lock().take().unwrap();
                async move {
                    read_head(&mut socket).await;
                    heard.send(()).unwrap();
                    drop(socket.read(&mut [0; 16]).await);
                }
            })
            .await;
        let mut client = world.client().await;
        let (answer, ()) = tokio::join!(client.send_request(server.get("/")), async {
            head.await.unwrap();
            world.withdraw(SANDBOX, LIFECYCLE);
        });
        let (status, _, body) = text(answer.unwrap()).await;
        assert!(status == 502 && body.contains("The sandbox was not found"), "{body}");
    })
    .await;
}

#[tokio::test]
async fn a_new_run_takes_the_traffic_and_ends_the_old_runs_streams() {
    in_world(config(), async |world| {
        let (server, frames) = written_by_test(world).await;
        let mut body = world.send(server.get("/")).await.into_body();
        world.publish(SANDBOX, LIFECYCLE);
        frames.send(Bytes::from_static(b"x")).await.unwrap();
        assert_eq!(next(&mut body).await.unwrap(), "x", "the same route again changes nothing");
        world.publish(SANDBOX, "two");
        assert!(body.frame().await.unwrap().is_err());
        world.withdraw(SANDBOX, LIFECYCLE);
        let other = world.sandbox_http(|_request| async { Response::new(full("new")) }).await;
        assert_eq!(world.text(other.get("/")).await.2, "new");
    })
    .await;
}

#[tokio::test]
async fn server_sent_events_arrive_one_by_one_over_both_protocols() {
    in_world(config(), async |world| {
        for over_h2 in [false, true] {
            let (server, events) = written_by_test(world).await;
            let mut answer = if over_h2 {
                let uri = format!("http://{}-{SANDBOX}.localhost/", server.port);
                h2(world).await.send_request(h2_request(uri, empty())).await.unwrap()
            } else {
                world.send(server.get("/")).await
            };
            for number in 0..3 {
                let event = Bytes::from(format!("data: {number}\n\n"));
                // The next event is sent only after this one has arrived.
                events.send(event.clone()).await.unwrap();
                assert_eq!(next(answer.body_mut()).await.unwrap(), event, "h2: {over_h2}");
            }
        }
    })
    .await;
}
