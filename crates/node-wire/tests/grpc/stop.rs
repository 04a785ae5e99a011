//! How a listener ends: in order when it can, in time when it cannot.

use std::sync::Arc;
use std::time::Duration;

use model::{EndReason, SandboxId};
use node_wire::{NodeApi, NodeError};
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tonic::Code;

use crate::dynamic::Peer;
use crate::harness::{LIMIT, Service, listener, within};

const WATCH: &str = "/cofferdam.node.v1.NodeService/WatchDrain";

#[tokio::test]
async fn an_open_stream_is_ended_with_a_status_that_says_why() {
    let service = Service::start().await;
    let peer = Peer::connect(service.address).await;
    let mut drain = peer.stream(WATCH, json!({})).await.unwrap();
    let mut events =
        peer.stream("/cofferdam.node.v1.NodeService/WatchEvents", json!({})).await.unwrap();
    let mut health = peer.stream("/grpc.health.v1.Health/Watch", json!({})).await.unwrap();
    for stream in [&mut drain, &mut events, &mut health] {
        within(stream.message()).await.unwrap().unwrap();
    }
    service.ask_to_stop();
    for stream in [&mut drain, &mut events, &mut health] {
        let ended = within(stream.message()).await.unwrap_err();
        assert_eq!(ended.code(), Code::Unavailable);
        assert_eq!(ended.message(), "the node stopped serving");
    }
    service.stop().await;
}

#[tokio::test]
async fn within_its_grace_a_stream_goes_on_and_new_connections_are_refused() {
    let service = Service::on(listener().await, Arc::default(), Duration::from_secs(3600));
    let peer = Peer::connect(service.address).await;
    let mut drain = peer.stream(WATCH, json!({})).await.unwrap();
    within(drain.message()).await.unwrap().unwrap();
    service.ask_to_stop();
    let refused = async { while TcpStream::connect(service.address).await.is_ok() {} };
    within(refused).await;
    service.node.set_phase(model::NodePhase::Draining);
    within(drain.message()).await.unwrap().unwrap();
    // With its last stream the connection ends, and with it the wait.
    drop(drain);
    service.stop().await;
}

/// A client in the middle of a kill that does not end.
async fn killing(service: &Service) -> impl Future<Output = Result<(), NodeError>> + use<> {
    let client = Arc::new(service.client());
    let id: SandboxId = "i1".parse().unwrap();
    let spec = crate::own_client::spec("i1");
    client.create(spec, LIMIT).await.unwrap();
    service.node.held.send_replace(true);
    let mut killed = Box::pin(async move { client.kill(&id, EndReason::Request).await });
    let node = &service.node;
    let begun = crate::harness::eventually("held", || node.held.receiver_count() == 1);
    tokio::select! {
        () = begun => {}
        ended = &mut killed => panic!("the kill should wait: {ended:?}"),
    }
    killed
}

#[tokio::test]
async fn within_its_grace_a_call_under_way_gets_its_answer() {
    let service = Service::on(listener().await, Arc::default(), Duration::from_secs(3600));
    let killed = killing(&service).await;
    service.ask_to_stop();
    service.node.held.send_replace(false);
    within(killed).await.unwrap();
    service.stop().await;
}

#[tokio::test]
async fn after_its_grace_a_call_that_does_not_end_is_cut_and_the_stop_ends() {
    let service = Service::start().await;
    let killed = killing(&service).await;
    service.stop().await;
    assert!(matches!(within(killed).await.unwrap_err(), NodeError::Unreachable(_)));
}

#[tokio::test]
async fn a_client_that_reads_nothing_does_not_hold_up_the_stop() {
    let service = Service::start().await;
    // A connection that says nothing is cut, and so is one that stopped in the middle.
    let silent = TcpStream::connect(service.address).await.unwrap();
    let half = TcpStream::connect(service.address).await.unwrap();
    half.try_write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04").unwrap();
    let peer = Peer::connect(service.address).await;
    let _unread = peer.stream(WATCH, json!({})).await.unwrap();
    crate::harness::eventually("watched", || service.node.watchers() == 1).await;
    service.stop().await;
    for mut socket in [silent, half] {
        let mut rest = Vec::new();
        drop(within(socket.read_to_end(&mut rest)).await);
    }
}

#[tokio::test]
async fn a_stranger_is_disconnected_after_a_while_and_a_client_is_not() {
    let service = Service::start().await;
    let client = service.client();
    let peer = Peer::connect(service.address).await;
    let mut drain = peer.stream(WATCH, json!({})).await.unwrap();
    drain.message().await.unwrap().unwrap();
    drop(client);
    let mut stranger = TcpStream::connect(service.address).await.unwrap();
    // From here on nothing is on its way that a clock which leaps ahead could overtake.
    tokio::time::pause();
    let began = Instant::now();
    let mut rest = Vec::new();
    drop(stranger.read_to_end(&mut rest).await);
    assert!(began.elapsed() >= Duration::from_secs(9), "{:?}", began.elapsed());
    tokio::time::resume();
    service.node.set_phase(model::NodePhase::Draining);
    drain.message().await.unwrap().unwrap();
}
