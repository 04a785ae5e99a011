use std::sync::Arc;

use http::Response;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;

use super::client::{Client, get, request, value};
use super::{OTHER, answers_well};
use crate::kit::{SANDBOX, Server, World, config, full, in_world, read_head, try_read_head};

#[tokio::test]
async fn a_request_around_the_size_of_the_buffer_arrives_whole() {
    in_world(config(), async |world| {
        let server = world
            .sandbox_http(|request| async move {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                Response::new(full(body))
            })
            .await;
        let head = |bytes: usize| {
            request("POST", (&server, SANDBOX), &format!("Content-Length: {bytes}\r\n"))
        };
        let room = 64 * 1024 - head(10_000).len();
        let mut client = Client::new(world).await;
        for bytes in [room - 1, room, 64 * 1024 - 1, 64 * 1024, room + 1, 1024 * 1024, 3] {
            let body: String = (0..bytes).map(|at| char::from(b"abcdefghijk"[at % 11])).collect();
            client.send(head(bytes)).await;
            let (first, second) = body.split_at(bytes / 3);
            client.send(first).await;
            client.send(second).await;
            assert!(client.data().await == body, "{bytes}");
        }
    })
    .await;
}

#[tokio::test]
async fn an_answer_may_come_byte_by_byte() {
    in_world(config(), async |world| {
        for answer in [
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: 1\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nX: 1\r\nTransfer-Encoding: chunked\r\n\r\n2;x\r\nhe\r\n3\r\nllo\r\n0\r\nT: 1\r\n\r\n",
        ] {
            let server = world
                .sandbox_raw(move |mut socket| async move {
                    socket.set_nodelay(true).unwrap();
                    while try_read_head(&mut socket).await.is_ok() {
                        for byte in answer.as_bytes() {
                            socket.write_all(&[*byte]).await.unwrap();
                            tokio::task::yield_now().await;
                        }
                    }
                })
                .await;
            let mut client = Client::new(world).await;
            for _ in 0..2 {
                client.send(get((&server, SANDBOX))).await;
                let (head, data) = client.answer().await;
                assert_eq!((value(&head, "X: "), data.as_str()), (Some("1"), "hello"));
            }
            assert_eq!(server.connections(), 1);
        }
    })
    .await;
}

/// The bytes of a big answer. No power of two: what is missing, or there twice, is seen.
fn pattern() -> impl Iterator<Item = u8> {
    (0..=250).cycle()
}

/// A server whose answer has so many bytes of the pattern, as `head` says.
async fn sends_much(world: &World, head: &'static str, bytes: usize) -> Server {
    world
        .sandbox_raw(move |mut socket| async move {
            read_head(&mut socket).await;
            let is_chunked = head.contains("chunked");
            let mut all = pattern();
            let mut sent = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n").into_bytes();
            for start in (0..bytes).step_by(100_000) {
                let size = 100_000.min(bytes - start);
                if is_chunked {
                    sent.extend_from_slice(format!("{size:x}\r\n").as_bytes());
                }
                sent.extend(all.by_ref().take(size));
                if is_chunked {
                    sent.extend_from_slice(b"\r\n");
                }
                socket.write_all(&sent).await.unwrap();
                sent.clear();
            }
            if is_chunked {
                socket.write_all(b"0\r\n\r\n").await.unwrap();
            }
        })
        .await
}

#[tokio::test]
async fn a_client_that_reads_slowly_gets_all_of_a_big_answer() {
    // More than fits into anything between the two ends.
    const BYTES: usize = 24 * 1024 * 1024;
    in_world(config(), async |world| {
        for head in ["Content-Length: 25165824", "Transfer-Encoding: chunked", "Connection: close"]
        {
            let server = sends_much(world, head, BYTES).await;
            let mut client = Client::new(world).await;
            client.send(get((&server, SANDBOX))).await;
            let has_length = value(&read_head(&mut client.0).await, "Content-Length: ").is_some();
            let (mut seen, mut all, mut step) = (0, pattern(), vec![0; 8 * 1024]);
            while seen < BYTES {
                let data = if has_length {
                    let read = client.0.read(&mut step).await.unwrap();
                    assert!(read > 0, "{head}: {seen}");
                    step[..read].to_vec()
                } else {
                    client.chunk().await.unwrap()
                };
                assert!(
                    data.iter().eq(&all.by_ref().take(data.len()).collect::<Vec<_>>()),
                    "{seen}"
                );
                seen += data.len();
            }
            assert_eq!(seen, BYTES, "{head}");
            assert!(has_length || client.chunk().await.is_none(), "{head}");
        }
    })
    .await;
}

#[tokio::test]
async fn an_answer_until_the_end_is_whole_only_when_its_sandbox_ends_it() {
    in_world(config(), async |world| {
        for in_order in [true, false] {
            let seen = Arc::new(Notify::new());
            let sees = Arc::clone(&seen);
            let server = world
                .sandbox_raw(move |mut socket| {
                    let sees = Arc::clone(&sees);
                    async move {
                        read_head(&mut socket).await;
                        socket.write_all(b"HTTP/1.1 200 OK\r\n\r\nall there is").await.unwrap();
                        sees.notified().await;
                        if !in_order {
                            socket.set_zero_linger().unwrap();
                        }
                    }
                })
                .await;
            let mut client = Client::new(world).await;
            client.send(get((&server, SANDBOX))).await;
            let head = read_head(&mut client.0).await;
            assert_eq!(value(&head, "Transfer-Encoding: "), Some("chunked"), "{head}");
            assert_eq!(client.chunk().await.unwrap(), b"all there is");
            seen.notify_one();
            if in_order {
                assert_eq!(client.chunk().await, None);
                client.send(get((&answers_well(world, "right").await, OTHER))).await;
                assert_eq!(client.data().await, "right");
            } else {
                assert_eq!(client.rest().await, "", "a part must not look whole");
            }
        }
    })
    .await;
}
