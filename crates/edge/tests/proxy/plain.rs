//! Requests that the edge passes on by itself, beside the library for HTTP: what is only seen between
//! real sockets.

mod bodies;
mod client;

use std::sync::Arc;

use http::Response;
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::oneshot;

use self::client::{Client, get, request};
use crate::kit::{
    LIFECYCLE, SANDBOX, Server, World, config, full, in_world, one_lane, read_head, try_read_head,
};

const OTHER: &str = "iother";

/// An answer that nobody asked for.
const FORGED: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged";

/// A server that answers the first request on every connection with these bytes, and then waits for the
/// end of the connection.
async fn answers(world: &World, bytes: impl Into<Vec<u8>>) -> Server {
    let bytes: Arc<Vec<u8>> = Arc::new(bytes.into());
    world
        .sandbox_raw(move |mut socket| {
            let bytes = Arc::clone(&bytes);
            async move {
                read_head(&mut socket).await;
                drop(socket.write_all(&bytes).await);
                drop(socket.read(&mut [0; 1]).await);
            }
        })
        .await
}

/// The same of one in the other sandbox, that answers every request.
async fn answers_well(world: &World, text: &'static str) -> Server {
    world.publish(OTHER, "two");
    world.sandbox_http(move |_request| async move { Response::new(full(text)) }).await
}

#[tokio::test]
async fn what_a_sandbox_sends_after_its_answer_is_nobody_elses_answer() {
    in_world(one_lane(), async |world| {
        let well = answers_well(world, "right").await;
        for (method, answer, data) in [
            ("GET", "200 OK\r\nContent-Length: 5\r\n\r\nhello", "hello"),
            ("GET", "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "hello"),
            (
                "GET",
                "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=\"b\"\r\nhello\r\n0\r\n\
                 Content-Length: 9\r\nTransfer-Encoding: x\r\n\r\n",
                "hello",
            ),
            (
                "GET",
                "200 OK\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                "",
            ),
            ("GET", "103 Early\r\nContent-Length: 9\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ""),
            ("GET", "204 No Content\r\n\r\n", ""),
            ("GET", "204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", ""),
            ("GET", "304 Not Modified\r\nContent-Length: 5\r\n\r\nhello", ""),
            ("HEAD", "200 OK\r\nContent-Length: 5\r\n\r\nhello", ""),
            ("HEAD", "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", ""),
        ] {
            let forger = answers(world, format!("HTTP/1.1 {answer}{FORGED}")).await;
            let mut client = Client::new(world).await;
            for round in 1..=2 {
                client.send(request(method, (&forger, SANDBOX), "")).await;
                let bodiless = method == "HEAD" || !answer.contains("200");
                if bodiless {
                    read_head(&mut client.0).await;
                } else {
                    assert_eq!(client.data().await, data, "{answer}");
                }
                client.send(get((&well, OTHER))).await;
                assert_eq!(client.data().await, "right", "{answer}");
                assert_eq!(forger.connections(), round, "it is not asked again on that one");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_body_that_could_be_read_in_two_ways_ends_the_connection() {
    in_world(config(), async |world| {
        for body in [
            "5\nhello\r\n0\r\n\r\n",
            "5;\nx\r\nhello\r\n0\r\n\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "5\r\nhello0\r\n\r\n",
            "5\r\nhello\r\n0\n\r\n",
            "5\r\nhello\r\n0\r\nX: 1\n\r\n",
            "0x5\r\nhello\r\n0\r\n\r\n",
            "+5\r\nhello\r\n0\r\n\r\n",
            "\r\nhello\r\n0\r\n\r\n",
            "10000000000000005\r\nhello\r\n0\r\n\r\n",
        ] {
            let answer =
                format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}{FORGED}");
            let forger = answers(world, answer).await;
            let mut client = Client::new(world).await;
            client.send(get((&forger, SANDBOX))).await;
            let seen = client.rest().await;
            assert!(!seen.contains("forged") && !seen.contains("0\r\n\r\n"), "{body}: {seen}");
        }
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_makes_no_sense_is_refused_as_by_the_library() {
    in_world(config(), async |world| {
        for answer in [
            "",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX y: 1\r\n\r\nhello",
            "SSH-2.0-OpenSSH_10.0\r\n",
        ] {
            let server = world
                .sandbox_raw(move |mut socket| async move {
                    read_head(&mut socket).await;
                    socket.write_all(answer.as_bytes()).await.unwrap();
                })
                .await;
            let well = answers_well(world, "right").await;
            for lines in ["", "User-Agent: Mozilla/5.0 Firefox/140.0\r\nAccept: text/html\r\n"] {
                for method in ["GET", "POST"] {
                    let mut refusals = Vec::new();
                    // The one with `TE` is the library's.
                    for te in ["", "TE: x\r\nConnection: te\r\n"] {
                        let mut client = Client::new(world).await;
                        client
                            .send(request(method, (&server, SANDBOX), &format!("{lines}{te}")))
                            .await;
                        let (head, text) = client.answer().await;
                        let mut head: Vec<_> =
                            head.lines().filter(|line| !line.starts_with("Date")).collect();
                        head.sort_unstable();
                        refusals.push((head.join("\n"), text));
                        client.send(get((&well, OTHER))).await;
                        assert_eq!(client.data().await, "right", "the connection goes on");
                    }
                    let (ours, theirs) = (&refusals[0], &refusals[1]);
                    assert_eq!(
                        (&ours.0.to_lowercase(), &ours.1),
                        (&theirs.0.to_lowercase(), &theirs.1)
                    );
                    assert!(ours.0.contains("502 Bad Gateway"), "{}", ours.0);
                }
            }
        }
    })
    .await;
}

#[tokio::test]
async fn plain_requests_and_others_on_one_connection_are_answered_in_order() {
    in_world(config(), async |world| {
        let server = world
            .sandbox_http(|request| async move {
                let path = request.uri().path().to_owned();
                let body = request.into_body().collect().await.unwrap().to_bytes();
                Response::new(full(format!("{path} {}", String::from_utf8_lossy(&body))))
            })
            .await;
        let to = |line: &str, rest: &str| {
            format!("{line} HTTP/1.1\r\nHost: {}-{SANDBOX}.x\r\n{rest}", server.port)
        };
        let api = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        for others in [
            api("/v2/x"),
            to("POST /chunks", "Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"),
            to("POST /now", "Expect: 100-continue\r\nContent-Length: 4\r\n\r\nbody"),
            to("GET /te", "TE: trailers\r\n\r\n"),
        ] {
            let plain = to("POST /one", "Content-Length: 4\r\n\r\nbody") + &to("GET /two", "\r\n");
            let all = format!("{plain}{others}{plain}{}", api("/end"));
            let wanted = match others.split(' ').nth(1).unwrap() {
                "/v2/x" => "api /v2/x",
                "/chunks" => "/chunks body",
                "/now" => "/now body",
                _ => "/te ",
            };
            // At once, and with a cut that is seen: in each of the requests.
            for cut in [0, 40, plain.len() - 3, plain.len() + 30, all.len() - 3] {
                let mut client = Client::new(world).await;
                let (first, second) = all.split_at(cut);
                let mut answers = Vec::new();
                client.send(first).await;
                if cut > plain.len() {
                    answers.push(client.data().await);
                }
                client.send(second).await;
                while answers.len() < 6 {
                    answers.push(client.data().await);
                }
                let two = ["/one body", "/two "];
                let wanted = [two[0], two[1], wanted, two[0], two[1], "api /end"];
                assert_eq!(answers, wanted, "{cut}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_was_seen_to_be_closed_is_not_used_for_what_cannot_be_sent_again() {
    let config = edge::Config { fresh: std::time::Duration::MAX, ..one_lane() };
    in_world(config, async |world| {
        let (told, closed) = tokio::sync::mpsc::channel(1);
        let mut closed = closed;
        let server = world
            .sandbox_raw(move |mut socket| {
                let told = told.clone();
                async move {
                    read_head(&mut socket).await;
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                    socket.write_all(answer).await.unwrap();
                    socket.shutdown().await.unwrap();
                    // The edge has seen it when it closes its side.
                    assert_eq!(socket.read(&mut [0; 1]).await.unwrap_or(0), 0);
                    told.send(()).await.unwrap();
                }
            })
            .await;
        let mut client = Client::new(world).await;
        for _ in 0..5 {
            client.send(request("POST", (&server, SANDBOX), "Content-Length: 0\r\n")).await;
            assert_eq!(client.data().await, "ok");
            closed.recv().await.unwrap();
        }
        assert_eq!(server.connections(), 5);
    })
    .await;
}

#[tokio::test]
async fn the_end_of_a_sandbox_is_told_as_by_the_library_and_the_connection_goes_on() {
    in_world(config(), async |world| {
        let well = answers_well(world, "right").await;
        for te in ["", "TE: x\r\nConnection: te\r\n"] {
            world.publish(SANDBOX, LIFECYCLE);
            let (heard, head) = oneshot::channel();
            let heard = Mutex::new(Some(heard));
            let server = world
                .sandbox_raw(move |mut socket| {
                    let heard = heard.lock().take().unwrap();
                    async move {
                        read_head(&mut socket).await;
                        heard.send(()).unwrap();
                        drop(socket.read(&mut [0; 1]).await);
                    }
                })
                .await;
            let mut client = Client::new(world).await;
            // The next one is on its way already.
            let both = request("POST", (&server, SANDBOX), te) + &get((&well, OTHER));
            client.send(both).await;
            head.await.unwrap();
            world.withdraw(SANDBOX, LIFECYCLE);
            let (head, text) = client.answer().await;
            assert!(head.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{head}");
            let wanted = format!(
                r#"{{"sandboxId":"{SANDBOX}","message":"The sandbox was not found","code":502}}"#
            );
            assert_eq!(text, wanted);
            assert_eq!(client.data().await, "right");
        }
    })
    .await;
}

/// A server that has one connection at a time, as small ones do, and answers every request on it.
async fn one_at_a_time(world: &World) -> Server {
    let turn = Arc::new(tokio::sync::Semaphore::new(1));
    world
        .sandbox_raw(move |mut socket| {
            let turn = Arc::clone(&turn);
            async move {
                let _turn = turn.acquire().await.unwrap();
                while let Ok(head) = try_read_head(&mut socket).await {
                    if head.contains("chunked") {
                        // `0`, its line and the end.
                        socket.read_exact(&mut [0; 5]).await.unwrap();
                    }
                    socket
                        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                        .await
                        .unwrap();
                }
            }
        })
        .await
}

#[tokio::test]
async fn a_server_of_one_connection_at_a_time_is_not_waited_for_by_those_who_hold_it() {
    for plain_first in [true, false] {
        in_world(one_lane(), async |world| {
            let server = one_at_a_time(world).await;
            let plain = get((&server, SANDBOX));
            let other =
                request("POST", (&server, SANDBOX), "Transfer-Encoding: chunked\r\n") + "0\r\n\r\n";
            let both = if plain_first { [plain, other] } else { [other, plain] };
            for text in both {
                // Each on a connection of its own: the first of two decides who has it.
                let mut client = Client::new(world).await;
                client.send(text).await;
                assert_eq!(client.data().await, "ok", "{plain_first}");
            }
        })
        .await;
    }
}
