//! A node that is elsewhere, over a connection that breaks.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use lifecycle::{Budget, TaskGroup};
use model::{EndReason, Secret};
use node_wire::NodeApi;
use node_wire::grpc::{Auth, Client, serve, server};
use serde_json::json;
use tokio::net::TcpListener;

use crate::fake_node::{ADDR, FakeNode};
use crate::service::{Service, wait_for};

const LIMIT: Duration = Duration::from_secs(20);

fn token() -> Secret {
    Secret::new("token-of-this-test".to_owned())
}

/// The listener of a node.
struct Served(TaskGroup);

impl Served {
    async fn at(address: SocketAddr, node: &Arc<FakeNode>) -> (Self, SocketAddr) {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let node = Arc::clone(node) as Arc<dyn NodeApi>;
        let tasks = TaskGroup::default();
        let stop = tasks.stop_token().clone();
        let serving = serve(listener, server(node, Auth::bearer(token())), stop, Duration::ZERO);
        tasks.spawn(tracing::Span::none(), async move { serving.await.unwrap() });
        (Self(tasks), address)
    }

    async fn stop(self) {
        self.0.close(Budget::within(LIMIT)).await.unwrap();
    }
}

fn client(address: SocketAddr) -> Arc<Client> {
    Arc::new(Client::new(&format!("http://{address}"), &token()).unwrap())
}

#[tokio::test]
async fn a_node_elsewhere_that_was_away_is_compared_and_listened_to_again() {
    let node = FakeNode::new();
    let (served, address) = Served::at((Ipv4Addr::LOCALHOST, 0).into(), &node).await;
    let api = client(address);
    let service = Service::start_through(Arc::clone(&api) as _, &node).await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(service.create(json!({})).await);
    }
    let [kept, crashed, killed, late] = &ids[..] else { unreachable!("there are four") };
    served.stop().await;
    service.client.delete(&format!("/sandboxes/{killed}")).await.error(503);
    node.end_unheard(crashed, EndReason::Crashed, "signal 9");
    let (served, _) = Served::at(address, &node).await;
    service.is(crashed, "ended").await;
    let ended = service.explain(crashed).await["ended"].clone();
    assert_eq!((&ended["reason"], &ended["detail"]), (&json!("crashed"), &json!("signal 9")));
    service.is(killed, "ended").await;
    assert!(!node.has(killed));
    // It is not remembered: only who hears it knows why.
    node.end(late, EndReason::Timeout);
    service.gone(late).await;
    assert_eq!(service.explain(late).await["ended"]["reason"], "timeout");
    assert_eq!(service.list("").await, [kept.as_str()]);

    // The address of a sandbox that runs comes with the list.
    let next = client(address);
    let service = service.restart_through(Arc::clone(&next) as _).await;
    wait_for(async || service.routes.addr(kept) == Some(ADDR)).await;
    assert_eq!(service.routes.count(), 1);
    service.stop().await;
    for client in [api, next] {
        client.close(Budget::within(LIMIT)).await.unwrap();
    }
    served.stop().await;
}
