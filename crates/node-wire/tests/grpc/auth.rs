use std::net::SocketAddr;

use model::{NodePhase, Secret};
use node_wire::grpc::Client;
use node_wire::{NodeApi, NodeError};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;

use crate::dynamic::{Peer, pool};
use crate::harness::Service;

#[tokio::test]
async fn no_method_of_any_service_answers_without_the_token_or_with_another() {
    let service = Service::start().await;
    let mut methods = 0;
    let wrong = [
        None,
        Some("Bearer "),
        Some("Bearer wrong"),
        Some("Bearer 0123456789abcdee"),
        Some("Bearer 0123456789abcdef0"),
        Some("Basic 0123456789abcdef"),
        Some("0123456789abcdef"),
    ];
    for found in pool().services() {
        for method in found.methods() {
            methods += 1;
            // Of its own: who shows no token for a while is cut off.
            let peer = Peer::connect(service.address).await;
            for token in wrong {
                let path = format!("/{}/{}", found.full_name(), method.name());
                let stranger = peer.showing(token);
                let refused = if method.is_server_streaming() {
                    stranger.stream(&path, json!({})).await.map(drop).unwrap_err()
                } else {
                    stranger.refused(&path, json!({})).await
                };
                assert_eq!(refused.code(), Code::Unauthenticated, "{path} {token:?}");
            }
        }
    }
    assert_eq!(methods, 6 + 2 + 4 + 22 + 2);
    let peer = Peer::connect(service.address).await;
    let refused = peer.showing(None).refused("/InfoService/ServiceInfo", json!({})).await;
    assert!(refused.message().contains("authorization: Bearer TOKEN"), "it says what to do");
    let kept = peer.showing(Some("bearer 0123456789abcdef"));
    kept.call("/InfoService/ServiceInfo", json!({})).await.unwrap();
}

#[tokio::test]
async fn a_client_with_another_token_learns_that_the_node_refuses_it() {
    let service = Service::start().await;
    let client = Client::new(&service.url(), &Secret::new("wrong".into())).unwrap();
    let NodeError::Internal(why) = client.list().await.unwrap_err() else { panic!() };
    assert_eq!(why, "the token given is not this node's");
    service.stop().await;
}

#[tokio::test]
async fn a_token_is_shown_by_no_debug_output() {
    let service = Service::start().await;
    let client = service.client();
    client.list().await.unwrap();
    assert!(!format!("{client:?}").contains(crate::harness::TOKEN));
}

/// Status, head and body of what is answered to a plain HTTP/1.1 request.
async fn ask(address: SocketAddr, method: &str) -> (u16, String, String) {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request = format!("{method} /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_ascii_lowercase(), body.to_owned())
}

#[tokio::test]
async fn health_is_told_to_anybody_and_only_an_unhealthy_node_answers_503() {
    let service = Service::start().await;
    for phase in NodePhase::ALL {
        service.node.set_phase(phase);
        let (status, word) = match phase {
            NodePhase::Healthy => (200, "healthy"),
            NodePhase::Unhealthy => (503, "unhealthy"),
            _ => (200, "draining"),
        };
        let (answered, head, body) = ask(service.address, "GET").await;
        assert_eq!(answered, status, "{phase:?}");
        assert!(head.contains("content-type: application/json"), "{head}");
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body, json!({ "status": word, "version": "1.2.3" }));
    }
    let (status, head, _) = ask(service.address, "POST").await;
    assert_eq!(status, 405);
    assert!(head.contains("allow: get, head"), "{head}");
    *service.node.fail.lock() = Some(NodeError::Internal("gone".into()));
    assert_eq!(ask(service.address, "GET").await.0, 503);
}
