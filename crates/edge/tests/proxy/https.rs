//! Ports on which the program in the sandbox speaks TLS.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use edge::Config;
use futures::{SinkExt as _, StreamExt as _};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use node_wire::Ingress;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::tungstenite::Message;

use crate::grpc::{call, client, hello, serve};
use crate::kit::{
    LIFECYCLE, SANDBOX, Server, TestBody, World, config, full, in_world, one_lane, read_head,
    to_host, to_port,
};

/// A certificate that nobody has signed, for a name that nobody asks for, and of another century.
fn acceptor(protocols: &[&str]) -> TlsAcceptor {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut certificate = rcgen::CertificateParams::new(["elsewhere.example".into()]).unwrap();
    certificate.not_before = rcgen::date_time_ymd(1990, 1, 1);
    certificate.not_after = rcgen::date_time_ymd(1990, 1, 2);
    let certificate = certificate.self_signed(&key).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

/// A program that speaks TLS, and inside of it one of `protocols`.
async fn server<F, R>(world: &World, protocols: &[&str], handle: F) -> Server
where
    F: Fn(TlsStream<TcpStream>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let acceptor = acceptor(protocols);
    world
        .sandbox_raw(move |socket| {
            let (acceptor, handle) = (acceptor.clone(), handle.clone());
            async move {
                let Ok(stream) = acceptor.accept(socket).await else { return };
                handle(stream).await;
            }
        })
        .await
}

/// Answers with what was agreed on, and the name the client gave.
async fn told(stream: TlsStream<TcpStream>) {
    let (_, session) = stream.get_ref();
    let protocol = session.alpn_protocol().map(|name| String::from_utf8(name.to_vec()).unwrap());
    let agreed = format!("{} {:?}", protocol.unwrap_or_default(), session.server_name());
    let service = service_fn(move |request: Request<Incoming>| {
        let host = request.headers()["host"].to_str().unwrap().to_owned();
        let answer = Response::new(full(format!("{agreed} {host}")));
        async move { Ok::<Response<TestBody>, Infallible>(answer) }
    });
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    drop(connection.await);
}

fn https(ports: &[u16]) -> Ingress {
    let https_ports = ports.iter().map(|port| (*port).try_into().unwrap()).collect();
    Ingress { https_ports, ..Ingress::default() }
}

#[tokio::test]
async fn a_program_is_reached_by_tls_whatever_its_certificate_says() {
    in_world(one_lane(), async |world| {
        let server = server(world, &["h2", "http/1.1"], told).await;
        let plain = world.sandbox_http(|_request| async { Response::new(full("plain")) }).await;
        world.publish_under(SANDBOX, LIFECYCLE, https(&[server.port]));
        let host = format!("{}-{SANDBOX}.x", server.port);
        for _ in 0..3 {
            let (status, _, text) = world.text(to_host(&host)).await;
            assert_eq!((status, text), (200, format!("http/1.1 None {host}")));
        }
        assert_eq!(server.connections(), 1, "it is kept for the next request");
        assert_eq!(world.text(to_port(plain.port, "/")).await.2, "plain");
        // Under other terms the same port is another one.
        world.publish(SANDBOX, LIFECYCLE);
        assert_eq!(world.text(to_host(&host)).await.0, 502);
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_ends_with_its_connection_is_whole_however_that_is_closed() {
    in_world(config(), async |world| {
        let server = server(world, &[], |mut stream| async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nwhole").await.unwrap();
            stream.flush().await.unwrap();
            // Without the last message of TLS.
            stream.into_inner().0.shutdown().await.unwrap();
        })
        .await;
        world.publish_under(SANDBOX, LIFECYCLE, https(&[server.port]));
        let (status, _, text) = world.text(to_port(server.port, "/")).await;
        assert_eq!((status, text.as_str()), (200, "whole"));
    })
    .await;
}

#[tokio::test]
async fn a_program_that_agrees_on_no_protocol_is_spoken_to_all_the_same() {
    in_world(config(), async |world| {
        let server = server(world, &[], told).await;
        world.publish_under(SANDBOX, LIFECYCLE, https(&[server.port]));
        let (status, _, text) = world.text(to_port(server.port, "/")).await;
        assert_eq!((status, text.as_str()), (200, " None any.name:3000"));
    })
    .await;
}

#[tokio::test]
async fn a_websocket_goes_through_tls_both_ways_and_is_told_of_the_end() {
    in_world(config(), async |world| {
        let server = server(world, &["http/1.1"], |stream| async move {
            let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
            while let Some(Ok(message)) = socket.next().await {
                if message.is_text() {
                    socket.send(message).await.unwrap();
                }
            }
        })
        .await;
        world.publish_under(SANDBOX, LIFECYCLE, https(&[server.port]));
        let url = format!("ws://{}-{SANDBOX}.x/", server.port);
        let (mut socket, _) =
            tokio_tungstenite::client_async(url, world.socket().await).await.unwrap();
        let long = "x".repeat(100_000);
        for text in ["hi", &long] {
            socket.send(Message::text(text)).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(text));
        }
        world.withdraw(SANDBOX, LIFECYCLE);
        let last = socket.next().await.unwrap().unwrap();
        assert!(matches!(last, Message::Close(Some(_))), "{last:?}");
    })
    .await;
}

#[tokio::test]
async fn a_call_of_grpc_is_http_2_inside_of_tls() {
    in_world(config(), async |world| {
        let server = server(world, &["http/1.1", "h2"], |stream| async move {
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
            let service = service_fn(|request: Request<Incoming>| async {
                assert_eq!(request.uri().scheme_str(), Some("https"));
                Ok::<_, Infallible>(serve(request, None).await)
            });
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            drop(builder.serve_connection(TokioIo::new(stream), service).await);
        })
        .await;
        world.publish_under(SANDBOX, LIFECYCLE, https(&[server.port]));
        let mut client = client(world, server.port).await;
        let answer = call(&mut client, "/test/Echo", hello()).await.unwrap();
        assert!(answer.metadata().contains_key("host-seen"));
    })
    .await;
}

#[tokio::test]
async fn a_port_that_does_not_speak_tls_is_named() {
    let config = Config { dial_limit: Duration::from_millis(500), ..config() };
    in_world(config, async |world| {
        let plain = world
            .sandbox_raw(|mut socket| async move {
                drop(socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await);
                // Until the edge has had enough of it.
                drop(tokio::io::copy(&mut socket, &mut tokio::io::sink()).await);
            })
            .await;
        let mute = world
            .sandbox_raw(|socket| async move {
                let _kept = socket;
                std::future::pending::<()>().await;
            })
            .await;
        world.publish_under(SANDBOX, LIFECYCLE, https(&[plain.port, mute.port]));
        for server in [plain, mute] {
            let (status, _, text) = world.text(to_port(server.port, "/")).await;
            assert_eq!(status, 502, "{text}");
            let body: Value = serde_json::from_str(&text).unwrap();
            assert!(body["message"].as_str().unwrap().contains("httpsPorts"), "{body}");
            assert_eq!(body["port"], server.port);
        }
    })
    .await;
}

#[tokio::test]
async fn the_guest_agent_is_spoken_to_without_tls_whatever_is_published() {
    in_world(config(), async |world| {
        let agent = world.agent_listener().await;
        let agent = world.sandbox_on(agent, |mut socket| async move {
            read_head(&mut socket).await;
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nagent";
            socket.write_all(answer).await.unwrap();
        });
        world.publish_at(SANDBOX, agent.ip, https(&[agent.port]));
        assert_eq!(world.text(to_port(agent.port, "/")).await.2, "agent");
    })
    .await;
}
