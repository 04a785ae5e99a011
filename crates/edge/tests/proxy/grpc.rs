//! gRPC from end to end: tonic on both sides, and the edge between them.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;

use bytes::{Buf as _, BufMut as _, Bytes};
use e2b_wire::host_name::ENVD_PORT;
use edge::Config;
use futures::{Stream, StreamExt as _};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use model::Secret;
use node_wire::Ingress;
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::kit::{LIFECYCLE, SANDBOX, Server, World, config, full, in_world};

/// Messages that are the bytes they are made of.
#[derive(Debug, Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

type Messages = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

/// What is different about one server.
#[derive(Clone, Default)]
struct Traits {
    /// Calls that one connection may have open; 0 for as many as its client likes.
    streams: u32,
    /// Told when the answer of `/test/Hang` is dropped.
    dropped: Option<mpsc::Sender<()>>,
}

/// A gRPC server inside the sandbox: `Echo` and `Fail` answer one message, `Talk` sends back every
/// message, `Hang` sends one and never ends.
async fn server(world: &World, traits: Traits) -> Server {
    world
        .sandbox_raw(move |socket| {
            let traits = traits.clone();
            async move {
                let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                if traits.streams > 0 {
                    builder.max_concurrent_streams(traits.streams);
                }
                let service = service_fn(move |request| {
                    let dropped = traits.dropped.clone();
                    async move { Ok::<_, Infallible>(serve(request, dropped).await) }
                });
                drop(builder.serve_connection(TokioIo::new(socket), service).await);
            }
        })
        .await
}

pub(crate) async fn serve(
    request: http::Request<Incoming>,
    dropped: Option<mpsc::Sender<()>>,
) -> http::Response<tonic::body::Body> {
    assert_eq!(request.headers()["te"], "trailers");
    assert!(!request.headers().contains_key("host"), "the authority is enough");
    let host = request.uri().authority().unwrap().to_string();
    let mut grpc = tonic::server::Grpc::new(Raw);
    match request.uri().path() {
        "/test/Echo" => {
            let echo = tower::service_fn(move |asked: Request<Bytes>| {
                let mut answer = Response::new(asked.get_ref().clone());
                answer.metadata_mut().insert("host-seen", host.parse().unwrap());
                if let Some(value) = asked.metadata().get("own") {
                    answer.metadata_mut().insert("own", value.clone());
                }
                async move { Ok(answer) }
            });
            grpc.unary(echo, request).await
        }
        "/test/Fail" => {
            let fail = tower::service_fn(|_asked: Request<Bytes>| async {
                let details = Bytes::from_static(b"\0\xff");
                let why = "100 % wrong, für immer";
                Err::<Response<Bytes>, _>(Status::with_details(Code::DataLoss, why, details))
            });
            grpc.unary(fail, request).await
        }
        "/test/Talk" => {
            let talk = tower::service_fn(|asked: Request<Streaming<Bytes>>| async {
                Ok(Response::new(Box::pin(asked.into_inner()) as Messages))
            });
            grpc.streaming(talk, request).await
        }
        _ => {
            let hang = tower::service_fn(move |_asked: Request<Bytes>| {
                let told = Told(dropped.clone());
                let first = futures::stream::once(async { Ok(Bytes::from_static(b"first")) });
                let never = futures::stream::poll_fn(move |_cx| {
                    let _until_dropped = &told;
                    std::task::Poll::Pending
                });
                async move { Ok(Response::new(Box::pin(first.chain(never)) as Messages)) }
            });
            grpc.server_streaming(hang, request).await
        }
    }
}

struct Told(Option<mpsc::Sender<()>>);

impl Drop for Told {
    fn drop(&mut self) {
        if let Some(told) = &self.0 {
            told.try_send(()).unwrap_or_default();
        }
    }
}

/// A client, with a connection of its own, of `port` in [`SANDBOX`] by its host name.
pub(crate) async fn client(world: &World, port: u16) -> Grpc<Channel> {
    let origin = format!("http://{port}-{SANDBOX}.localhost").parse().unwrap();
    let edge = Endpoint::from_shared(format!("http://{}", world.addr)).unwrap();
    Grpc::new(edge.origin(origin).connect().await.unwrap())
}

pub(crate) async fn call(
    client: &mut Grpc<Channel>,
    method: &'static str,
    message: Request<Bytes>,
) -> Result<Response<Bytes>, Status> {
    client.ready().await.unwrap();
    client.unary(message, PathAndQuery::from_static(method), Raw).await
}

pub(crate) fn hello() -> Request<Bytes> {
    Request::new(Bytes::from_static(b"hello"))
}

/// A call that is open, and whose first message has come.
async fn hanging(client: &mut Grpc<Channel>) -> Streaming<Bytes> {
    client.ready().await.unwrap();
    let path = PathAndQuery::from_static("/test/Hang");
    let mut answer = client.server_streaming(hello(), path, Raw).await.unwrap().into_inner();
    assert_eq!(answer.message().await.unwrap().unwrap(), "first");
    answer
}

#[tokio::test]
async fn a_call_reaches_its_server_and_brings_back_message_metadata_and_status() {
    in_world(Config { fresh: std::time::Duration::MAX, ..config() }, async |world| {
        let server = server(world, Traits::default()).await;
        let mut client = client(world, server.port).await;
        for _ in 0..5 {
            let mut asked = hello();
            asked.metadata_mut().insert("own", "1".parse().unwrap());
            let answer = call(&mut client, "/test/Echo", asked).await.unwrap();
            assert_eq!(answer.metadata().get("own").unwrap(), "1");
            let seen = answer.metadata().get("host-seen").unwrap().to_str().unwrap();
            assert_eq!(seen, format!("{}-{SANDBOX}.localhost", server.port));
            assert_eq!(answer.into_inner(), "hello");

            let failed = call(&mut client, "/test/Fail", hello()).await.unwrap_err();
            assert_eq!(failed.code(), Code::DataLoss);
            assert_eq!(failed.message(), "100 % wrong, für immer");
            assert_eq!(failed.details(), b"\0\xff");
        }
        let big = Request::new(Bytes::from(vec![7; 3_000_000]));
        let answer = call(&mut client, "/test/Echo", big).await.unwrap().into_inner();
        assert!(answer.len() == 3_000_000 && answer.iter().all(|byte| *byte == 7));
        assert_eq!(server.connections(), 1, "one after another they share a connection");
    })
    .await;
}

#[tokio::test]
async fn messages_pass_both_ways_while_a_call_is_open() {
    in_world(config(), async |world| {
        let server = server(world, Traits::default()).await;
        let mut client = client(world, server.port).await;
        let (say, mut said) = mpsc::channel(1);
        let messages = futures::stream::poll_fn(move |cx| said.poll_recv(cx));
        client.ready().await.unwrap();
        let path = PathAndQuery::from_static("/test/Talk");
        let answer = client.streaming(Request::new(messages), path, Raw).await.unwrap();
        let mut answer = answer.into_inner();
        for word in ["one", "two", "three"] {
            // The next is said only after this one has come back.
            say.send(Bytes::from(word)).await.unwrap();
            assert_eq!(answer.message().await.unwrap().unwrap(), word);
        }
        drop(say);
        assert_eq!(answer.message().await.unwrap(), None);
        assert!(answer.trailers().await.unwrap().is_some());
    })
    .await;
}

#[tokio::test]
async fn calls_do_not_wait_for_others_whatever_their_server_lets_in_on_one_connection() {
    in_world(config(), async |world| {
        let server = server(world, Traits { streams: 1, ..Traits::default() }).await;
        let mut client = client(world, server.port).await;
        let mut open = Vec::new();
        for _ in 0..3 {
            open.push(hanging(&mut client).await);
            call(&mut client, "/test/Echo", hello()).await.unwrap();
        }
        assert!(server.connections() > 3);
    })
    .await;
}

#[tokio::test]
async fn a_server_sees_that_its_client_gave_up() {
    in_world(config(), async |world| {
        let (dropped, mut seen) = mpsc::channel(1);
        let server = server(world, Traits { dropped: Some(dropped), ..Traits::default() }).await;
        let mut client = client(world, server.port).await;
        drop(hanging(&mut client).await);
        seen.recv().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn withdrawing_a_sandbox_ends_its_calls_and_their_clients_may_try_again() {
    in_world(config(), async |world| {
        let server = server(world, Traits::default()).await;
        let mut client = client(world, server.port).await;
        let mut answer = hanging(&mut client).await;
        world.withdraw(SANDBOX, LIFECYCLE);
        let ended = answer.message().await.unwrap_err();
        assert_eq!(ended.code(), Code::Unavailable, "{ended:?}");

        let connections = server.connections();
        world.publish(SANDBOX, "two");
        call(&mut client, "/test/Echo", hello()).await.unwrap();
        assert!(server.connections() > connections, "a new run has connections of its own");
    })
    .await;
}

#[tokio::test]
async fn a_call_that_does_not_reach_its_server_has_a_status_and_says_why() {
    let config = Config { max_exchanges_per_sandbox: 1, ..config() };
    in_world(config, async |world| {
        let server = server(world, Traits::default()).await;
        let mut one = client(world, server.port).await;
        let kept = hanging(&mut one).await;
        let full = call(&mut one, "/test/Echo", hello()).await.unwrap_err();
        assert_eq!(full.code(), Code::ResourceExhausted);
        assert!(full.message().contains("1 connections, which is its limit"), "{full:?}");
        drop(kept);

        let ingress =
            Ingress { traffic_token: Some(Secret::new("token".into())), ..Ingress::default() };
        world.publish_under(SANDBOX, "private", ingress);
        let private = call(&mut one, "/test/Echo", hello()).await.unwrap_err();
        assert_eq!(private.code(), Code::PermissionDenied);

        world.withdraw(SANDBOX, "private");
        let gone = call(&mut one, "/test/Echo", hello()).await.unwrap_err();
        assert_eq!((gone.code(), gone.message()), (Code::Unavailable, "The sandbox was not found"));
    })
    .await;
}

#[tokio::test]
async fn a_server_that_speaks_no_http_2_is_told_apart_from_one_that_answers() {
    in_world(config(), async |world| {
        let server = world.sandbox_http(|_request| async { http::Response::new(full("1")) }).await;
        let mut client = client(world, server.port).await;
        let failed = call(&mut client, "/test/Echo", hello()).await.unwrap_err();
        assert_eq!(failed.code(), Code::Unavailable);
        assert!(failed.message().contains("without an answer"), "{failed:?}");
    })
    .await;
}

#[tokio::test]
async fn the_guest_agent_is_not_called_by_grpc() {
    in_world(config(), async |world| {
        let mut client = client(world, ENVD_PORT.get()).await;
        let failed = call(&mut client, "/process.Process/List", hello()).await.unwrap_err();
        assert_eq!(failed.code(), Code::Unimplemented);
        assert!(failed.message().contains("use Connect or gRPC-Web"), "{failed:?}");
    })
    .await;
}

#[tokio::test]
async fn a_masked_host_is_the_authority_of_a_call() {
    in_world(config(), async |world| {
        let server = server(world, Traits::default()).await;
        let ingress = Ingress { mask_host: Some("own.${PORT}".to_owned()), ..Ingress::default() };
        world.publish_under(SANDBOX, "masked", ingress);
        let mut client = client(world, server.port).await;
        let answer = call(&mut client, "/test/Echo", hello()).await.unwrap();
        let seen = answer.metadata().get("host-seen").unwrap().to_str().unwrap();
        assert_eq!(seen, format!("own.{}", server.port));
    })
    .await;
}

#[tokio::test]
async fn a_call_whose_connection_the_server_closed_meanwhile_finds_another() {
    in_world(Config { fresh: std::time::Duration::MAX, ..config() }, async |world| {
        let closed = Arc::new(Notify::new());
        let told = Arc::clone(&closed);
        // Every connection answers one call and is closed in order.
        let server = world
            .sandbox_raw(move |socket: TcpStream| {
                let told = Arc::clone(&told);
                async move {
                    let answered = Arc::new(Notify::new());
                    let after = Arc::clone(&answered);
                    let service = service_fn(move |request| {
                        let answered = Arc::clone(&answered);
                        async move {
                            let answer = serve(request, None).await;
                            answered.notify_one();
                            Ok::<_, Infallible>(answer)
                        }
                    });
                    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    let connection = builder.serve_connection(TokioIo::new(socket), service);
                    let mut connection = std::pin::pin!(connection);
                    tokio::select! {
                        _ended = connection.as_mut() => return,
                        () = after.notified() => connection.as_mut().graceful_shutdown(),
                    }
                    drop(connection.await);
                    told.notify_one();
                }
            })
            .await;
        let mut client = client(world, server.port).await;
        for _ in 0..5 {
            call(&mut client, "/test/Echo", hello()).await.unwrap();
            closed.notified().await;
        }
        assert_eq!(server.connections(), 5);
    })
    .await;
}
