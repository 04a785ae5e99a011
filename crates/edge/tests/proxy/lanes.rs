//! The threads that connections are served on.

use std::convert::Infallible;
use std::num::NonZero;
use std::sync::Arc;

use bytes::Bytes;
use edge::{Config, Edge, serve};
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use lifecycle::{Budget, TaskGroup};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::Span;

use crate::kit::{LIMIT, LOOPBACK, config, full, in_world, text};

#[tokio::test]
async fn what_a_request_to_the_api_has_begun_goes_on_when_the_listener_has_ended() {
    let (begun, go_on) = (TaskGroup::default(), Arc::new(Notify::new()));
    let (done, is_done) = oneshot::channel();
    let done = Arc::new(parking_lot::Mutex::new(Some(done)));
    let (tasks, told) = (begun.clone(), Arc::clone(&go_on));
    let api = tower::service_fn(move |_request: Request<Incoming>| {
        let (done, told) = (done.lock().take().unwrap(), Arc::clone(&told));
        tasks.spawn(Span::none(), async move {
            told.notified().await;
            done.send(()).unwrap();
        });
        async { Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())) }
    });
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let serving = serve(listener, Edge::new(config()), api, stop.clone());
    let client = async {
        let mut client = TcpStream::connect(addr).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut answer = [0; 12];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        stop.cancel();
    };
    let both = async { tokio::join!(serving, client).0.unwrap() };
    Budget::within(LIMIT).run("serve", both).await.unwrap();
    go_on.notify_one();
    Budget::within(LIMIT).run("finish", is_done).await.unwrap().unwrap();
    begun.close(Budget::within(LIMIT)).await.unwrap();
}

#[tokio::test]
async fn every_thread_serves_and_each_has_connections_of_its_own() {
    let config = Config { lanes: NonZero::new(3).unwrap(), ..config() };
    in_world(config, async |world| {
        let server = world.sandbox_http(|_request| async { Response::new(full("x")) }).await;
        let mut clients = Vec::new();
        for _ in 0..6 {
            // The ones before are still there: the next goes where there are fewer.
            let mut client = world.client().await;
            assert_eq!(text(client.send_request(server.get("/")).await.unwrap()).await.2, "x");
            clients.push(client);
        }
        assert_eq!(server.connections(), 3, "what one has made the next of its thread uses");
    })
    .await;
}
