use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use lifecycle::Budget;
use model::{Keep, NodeRequest};
use node_wire::grpc::Client;
use node_wire::{
    BuildError, BuildRequest, CreateError, NewSnapshot, NodeApi, NodeError, PauseError,
    RemoveError, StatusError,
};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::broadcast::error::RecvError;

use crate::harness::{LIMIT, Service, listener, token, within};

/// A listener where one has just been.
fn again(address: SocketAddr) -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    socket.listen(16).unwrap()
}

/// Waits until a call is answered: between tries there are pauses.
async fn answered(client: &Client) {
    let until = async {
        while client.list().await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(until).await;
}

#[tokio::test]
async fn a_client_goes_on_when_its_node_is_back() {
    let mut service = Service::start().await;
    let client = service.client();
    for _restart in 0..3 {
        answered(&client).await;
        let (address, node) = (service.address, Arc::clone(&service.node));
        service.stop().await;
        assert!(matches!(client.list().await.unwrap_err(), NodeError::Unreachable(_)));
        service = Service::on(again(address), node, Duration::ZERO);
    }
    answered(&client).await;
    service.stop().await;
}

#[tokio::test]
async fn listeners_learn_that_events_may_be_missing_and_can_listen_again() {
    let service = Service::start().await;
    let (address, node) = (service.address, Arc::clone(&service.node));
    let client = service.client();
    let mut listener = client.events();
    let mut drains = client.drain_updates().await.unwrap();
    client.list().await.unwrap();
    service.stop().await;
    assert_eq!(within(listener.recv()).await.unwrap_err(), RecvError::Closed);
    within(async { while drains.next().await.is_some() {} }).await;

    // Listening to a node that is not there ends as well.
    assert_eq!(within(client.events().recv()).await.unwrap_err(), RecvError::Closed);

    let service = Service::on(again(address), node, Duration::ZERO);
    answered(&client).await;
    let _listener = client.events();
    client.list().await.unwrap();
    assert_eq!(service.node.listeners(), 1);
    service.stop().await;
}

#[tokio::test]
async fn events_that_the_node_could_not_keep_are_never_missed_in_silence() {
    let service = Service::start().await;
    let client = service.client();
    let mut listener = client.events();
    client.list().await.unwrap();
    // The node keeps four, and nothing runs between these.
    for _ in 0..10 {
        service.node.announce(node_wire::NodeEvent::EndMoved {
            id: "i1".parse().unwrap(),
            lifecycle: "l1".parse().unwrap(),
            ends_at: crate::fake_node::moment(1),
        });
    }
    let heard = async {
        let mut heard = 0;
        loop {
            match listener.recv().await {
                Ok(_event) => heard += 1,
                Err(error) => return (heard, error),
            }
        }
    };
    let (heard, error) = within(heard).await;
    assert_eq!(error, RecvError::Closed);
    assert!(heard < 10);
}

#[tokio::test]
async fn every_call_to_a_node_that_is_not_there_says_so() {
    let listener = listener().await;
    let address = listener.local_addr().unwrap();
    drop(listener);
    let client = Client::new(&format!("http://{address}"), &token()).unwrap();
    let created = client.create(crate::own_client::spec("i1"), LIMIT).await;
    assert!(matches!(created.unwrap_err(), CreateError::Unreachable(_)));
    assert!(matches!(client.info().await.unwrap_err(), NodeError::Unreachable(_)));
    assert!(matches!(client.paused().await.unwrap_err(), NodeError::Unreachable(_)));
    let id = "i1".parse().unwrap();
    let paused = client.pause(&id, Keep::Memory).await;
    assert!(matches!(paused.unwrap_err(), PauseError::Unreachable(_)));
    let spec = crate::own_client::spec("i1");
    let resumed = client.resume(spec, Keep::Memory, LIMIT).await;
    assert!(matches!(resumed.unwrap_err(), CreateError::Unreachable(_)));
    let new =
        NewSnapshot { template: "s".parse().unwrap(), build: "b".parse().unwrap(), passing: false };
    let taken = client.snapshot(&id, new).await;
    assert!(matches!(taken.unwrap_err(), PauseError::Unreachable(_)));
    let removed = client.remove_template(&"s".parse().unwrap()).await;
    assert!(matches!(removed.unwrap_err(), RemoveError::Unreachable(_)));
    let changed = client.request(NodeRequest::Drain).await;
    assert!(matches!(changed.unwrap_err(), StatusError::Unreachable(_)));
    let request = BuildRequest {
        build: "b".parse().unwrap(),
        template: "base".parse().unwrap(),
        alias: "base".into(),
    };
    assert!(matches!(client.build(request).await.unwrap_err(), BuildError::Unreachable(_)));
}

#[tokio::test]
async fn a_closed_client_has_no_connection_left_and_says_so() {
    let service = Service::start().await;
    let client = service.client();
    let mut listener = client.events();
    let mut drains = client.drain_updates().await.unwrap();
    client.list().await.unwrap();
    client.close(Budget::within(LIMIT)).await.unwrap();
    assert_eq!(within(listener.recv()).await.unwrap_err(), RecvError::Closed);
    within(async { while drains.next().await.is_some() {} }).await;
    let NodeError::Unreachable(why) = client.list().await.unwrap_err() else { panic!() };
    assert_eq!(why, "the client is closed");
    service.stop().await;
}

#[tokio::test]
async fn a_call_that_was_given_up_leaves_the_connection_to_the_next_one() {
    let service = Service::start().await;
    let client = service.client();
    for _given_up in 0..3 {
        drop(futures::poll!(Box::pin(client.list())));
    }
    client.list().await.unwrap();
    service.stop().await;
}
