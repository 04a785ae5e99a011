//! Requests of HTTP/2 that are given headers: streams side by side, as gRPC has them.

use std::future::poll_fn;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, client, server};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use lifecycle::Budget;

use super::kit::{LIMIT, Program};
use super::tls_kit::{Https, TlsProgram, TlsServer, headers};

const H2: &[&str] = &["h2"];

/// A program's connection, driven by a task of the world.
async fn requests(https: &Https, program: TlsProgram) -> SendRequest<Bytes> {
    let (requests, connection) = client::handshake(program.0).await.unwrap();
    drive(https, async { drop(connection.await) });
    requests
}

fn drive(https: &Https, work: impl Future<Output = ()> + Send + 'static) {
    let stop = https.world.tasks.stop_token().clone();
    https.world.tasks.spawn(tracing::Span::none(), async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = work => {}
        }
    });
}

/// What comes to a server, one request after the other, while a task of the world drives it.
struct Served(tokio::sync::mpsc::Receiver<(Request<RecvStream>, SendResponse<Bytes>)>);

impl Served {
    async fn new(https: &Https, Program(stream): TlsServer) -> Self {
        let mut connection = server::handshake(stream).await.unwrap();
        let (came, next) = tokio::sync::mpsc::channel(64);
        drive(https, async move {
            while let Some(Ok(request)) = connection.accept().await {
                came.send(request).await.unwrap();
            }
        });
        Self(next)
    }

    async fn next(&mut self) -> (Request<RecvStream>, SendResponse<Bytes>) {
        Budget::within(LIMIT).run("a request", self.0.recv()).await.unwrap().unwrap()
    }
}

async fn both(https: &Https) -> (SendRequest<Bytes>, Served) {
    let (program, server) = https.both("a.com", H2).await;
    let requests = requests(https, program);
    tokio::join!(requests, Served::new(https, server))
}

fn request(uri: &str) -> Request<()> {
    Request::post(uri).header("authorization", "mine").body(()).unwrap()
}

fn check(head: &HeaderMap) {
    let values: Vec<&HeaderValue> = head.get_all("authorization").iter().collect();
    assert_eq!(values, ["Bearer key"]);
    assert_eq!(head["x-new"], "1");
}

async fn read(body: &mut RecvStream) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(part) = body.data().await {
        let part = part.unwrap();
        body.flow_control().release_capacity(part.len()).unwrap();
        all.extend(part);
    }
    all
}

async fn send(stream: &mut h2::SendStream<Bytes>, mut rest: Bytes, end: bool) {
    while !rest.is_empty() {
        stream.reserve_capacity(rest.len());
        let room = poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap().unwrap();
        let part = rest.split_to(room.min(rest.len()));
        stream.send_data(part, end && rest.is_empty()).unwrap();
    }
}

#[tokio::test]
async fn streams_side_by_side_have_headers_bodies_and_trailers() {
    let https = Https::new(headers(&["a.com"], "key")).await;
    let (mut requests, mut served) = both(&https).await;
    let mut open = Vec::new();
    for n in 0..3 {
        let (answer, mut body) =
            requests.send_request(request(&format!("https://a.com/{n}")), false).unwrap();
        send(&mut body, Bytes::from(format!("ask {n}")), false).await;
        open.push((answer, body, served.next().await));
    }
    // The last first: none waits for another.
    for (n, (answer, mut body, (asked, mut respond))) in open.into_iter().enumerate().rev() {
        assert_eq!(asked.uri().to_string(), format!("https://a.com/{n}"));
        assert_eq!(asked.headers().get("host"), None);
        check(asked.headers());
        let mut asked = asked.into_body();
        assert_eq!(asked.data().await.unwrap().unwrap(), format!("ask {n}"));
        // The answer begins before the request has ended.
        let mut said = respond.send_response(Response::new(()), false).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        send(&mut said, Bytes::from("said"), false).await;
        let mut answer = answer.into_body();
        assert_eq!(answer.data().await.unwrap().unwrap(), "said");
        let trailers = |text: &'static str| {
            HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static(text))])
        };
        body.send_trailers(trailers("7")).unwrap();
        assert!(asked.data().await.is_none());
        assert_eq!(asked.trailers().await.unwrap().unwrap()["grpc-status"], "7");
        said.send_trailers(trailers("0")).unwrap();
        assert!(answer.data().await.is_none());
        assert_eq!(answer.trailers().await.unwrap().unwrap()["grpc-status"], "0");
    }
    assert!(https.world.nobody_came(), "all on one connection");
    https.close().await;
}

#[tokio::test]
async fn a_stream_that_one_end_gives_up_is_given_up_towards_the_other() {
    let https = Https::new(headers(&["a.com"], "key")).await;
    let (mut requests, mut served) = both(&https).await;
    let (answer, mut body) = requests.send_request(request("https://a.com/"), false).unwrap();
    let (_asked, mut respond) = served.next().await;
    body.send_reset(Reason::CANCEL);
    drop((answer, body));
    let reset = poll_fn(|cx| respond.poll_reset(cx));
    let reason = Budget::within(LIMIT).run("a reset", reset).await.unwrap().unwrap();
    assert_eq!(reason, Reason::CANCEL);

    for reason in [Reason::REFUSED_STREAM, Reason::ENHANCE_YOUR_CALM] {
        let (answer, _body) = requests.send_request(request("https://a.com/"), true).unwrap();
        let (_asked, mut respond) = served.next().await;
        respond.send_reset(reason);
        assert_eq!(answer.await.unwrap_err().reason(), Some(reason), "before an answer");
    }
    let (answer, _body) = requests.send_request(request("https://a.com/"), true).unwrap();
    let (_asked, mut respond) = served.next().await;
    let mut said = respond.send_response(Response::new(()), false).unwrap();
    let mut answer = answer.await.unwrap().into_body();
    said.send_reset(Reason::INTERNAL_ERROR);
    let error = answer.data().await.unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR), "in the middle of one");

    let (answer, _body) = requests.send_request(request("https://a.com/"), true).unwrap();
    let (_asked, mut respond) = served.next().await;
    respond.send_response(Response::new(()), true).unwrap();
    assert_eq!(answer.await.unwrap().status(), StatusCode::OK, "the connection goes on");
    https.close().await;
}

#[tokio::test]
async fn large_bodies_go_both_ways_at_the_pace_of_who_reads() {
    const LEN: usize = 8 * 1024 * 1024;
    let https = Https::new(headers(&["a.com"], "key")).await;
    let (mut requests, mut served) = both(&https).await;
    let byte = |at: usize| u8::try_from(at % 251).unwrap();
    let whole = Bytes::from_iter((0..LEN).map(byte));
    let (answer, mut body) = requests.send_request(request("https://a.com/"), false).unwrap();
    let (asked, mut respond) = served.next().await;
    // Nobody reads: more than the windows on the way does not leave the program.
    let (sent, mut rest) = (std::cell::Cell::new(0), whole.clone());
    let stalled = poll_fn(|cx| {
        while !rest.is_empty() {
            body.reserve_capacity(rest.len());
            let std::task::Poll::Ready(room) = body.poll_capacity(cx) else {
                return std::task::Poll::Pending::<()>;
            };
            let part = rest.split_to(room.unwrap().unwrap().min(rest.len()));
            sent.set(sent.get() + part.len());
            body.send_data(part, false).unwrap();
        }
        std::task::Poll::Ready(())
    });
    let quiet = std::time::Duration::from_millis(500);
    Budget::within(quiet).run("all of it", stalled).await.unwrap_err();
    assert!((64 * 1024..LEN / 2).contains(&sent.get()), "{} bytes", sent.get());

    let echo = async {
        let got = read(&mut asked.into_body()).await;
        let mut said = respond.send_response(Response::new(()), false).unwrap();
        send(&mut said, Bytes::from(got), true).await;
    };
    let ask = async {
        send(&mut body, rest, true).await;
        read(&mut answer.await.unwrap().into_body()).await
    };
    let (got, ()) = tokio::join!(ask, echo);
    assert!(got == whole, "{} bytes", got.len());
    https.close().await;
}

#[tokio::test]
async fn a_stream_for_another_host_gets_no_further() {
    let https = Https::new(headers(&["a.com", "b.com"], "key")).await;
    let (mut requests, mut served) = both(&https).await;
    for (uri, host) in [("https://b.com/", None), ("https://a.com/", Some("b.com"))] {
        let mut other = request(uri);
        host.into_iter().for_each(|host| {
            other.headers_mut().insert("host", HeaderValue::from_static(host));
        });
        let (answer, _body) = requests.send_request(other, true).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), StatusCode::MISDIRECTED_REQUEST, "{uri}");
        let text = String::from_utf8(read(&mut answer.into_body()).await).unwrap();
        assert!(text.contains("this connection is for a.com"), "{text}");
    }
    let (_answer, _body) = requests.send_request(request("https://a.com/after"), true).unwrap();
    assert_eq!(served.next().await.0.uri().path(), "/after", "nothing came before it");
    https.close().await;
}

#[tokio::test]
async fn a_connection_that_a_server_ends_is_followed_by_another() {
    let https = Https::new(headers(&["a.com"], "key")).await;
    let (program, Program(stream)) = https.both("a.com", H2).await;
    let mut requests = requests(&https, program).await;
    let mut first = server::handshake(stream).await.unwrap();
    let (answer, _body) = requests.send_request(request("https://a.com/1"), true).unwrap();
    let (_asked, mut respond) = first.accept().await.unwrap().unwrap();
    respond.send_response(Response::new(()), true).unwrap();
    first.graceful_shutdown();
    let ends = async { assert!(!matches!(first.accept().await, Some(Ok(_)))) };
    let (answer, ()) = tokio::join!(answer, ends);
    assert_eq!(answer.unwrap().status(), StatusCode::OK);
    drop(first);

    let (answer, _body) = requests.send_request(request("https://a.com/2"), true).unwrap();
    let next = https.theirs.server(&["a.com"], false, H2);
    let server = https.accept(&next).await.unwrap();
    let mut served = Served::new(&https, server).await;
    let (asked, mut respond) = served.next().await;
    check(asked.headers());
    respond.send_response(Response::new(()), true).unwrap();
    assert_eq!(answer.await.unwrap().status(), StatusCode::OK);
    https.close().await;
}

#[tokio::test]
async fn a_server_that_cannot_be_believed_is_told_of_in_http2_and_the_connection_ends() {
    let https = Https::new(headers(&["a.com"], "key")).await;
    let over = https.theirs.server(&["a.com"], true, H2);
    let (program, server) = tokio::join!(https.program("a.com", H2), https.accept(&over));
    server.unwrap_err();
    let (mut requests, connection) = client::handshake(program.unwrap().0).await.unwrap();
    let (answer, _body) = requests.send_request(request("https://a.com/"), true).unwrap();
    let hears = async {
        let answer = answer.await.unwrap();
        let status = answer.status();
        (status, String::from_utf8(read(&mut answer.into_body()).await).unwrap())
    };
    let (ended, (status, text)) = tokio::join!(connection, hears);
    ended.unwrap();
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    assert!(text.contains("cannot be believed") && text.contains("expired"), "{text}");
    https.close().await;
}

#[tokio::test]
async fn with_no_room_for_another_connection_of_http2_the_older_protocol_is_spoken() {
    let https = Https::new(headers(&["a.com"], "key")).await;
    let server = https.theirs.server(&["a.com"], false, &["h2", "http/1.1"]);
    let mut open = Vec::new();
    loop {
        let program = https.program("a.com", &["h2", "http/1.1"]);
        let (program, server) = tokio::join!(program, https.accept(&server));
        let pair = (program.unwrap(), server.unwrap());
        if pair.0.get_ref().1.alpn_protocol() == Some(b"http/1.1") {
            break;
        }
        open.push(pair);
    }
    assert_eq!(open.len(), crate::proxy::H2_MAX);
    https.close().await;
}
