//! A node that is elsewhere, over a connection that breaks.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use lifecycle::{Budget, TaskGroup};
use model::{EndReason, Keep, Secret};
use node_wire::NodeApi;
use node_wire::grpc::{Auth, Client, serve, server};
use serde_json::json;
use tokio::net::TcpListener;

use crate::fake_node::{ADDR, FakeNode};
use crate::service::{Service, wait_for};

const LIMIT: Duration = Duration::from_secs(60);

fn token() -> Secret {
    Secret::new("token-of-this-test".to_owned())
}

/// An address that nobody else on this machine uses, all of which that begin with 127 are its own:
/// nobody is given its port while the node is away.
fn own() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(0);
    let [.., high, low] = std::process::id().to_be_bytes();
    let own = 64 + NEXT.fetch_add(1, Ordering::Relaxed) % 128;
    (Ipv4Addr::new(127, own, high, low), 0).into()
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
    let (served, address) = Served::at(own(), &node).await;
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

#[tokio::test]
async fn a_node_elsewhere_pauses_resumes_and_copies() {
    let node = FakeNode::new();
    let (served, address) = Served::at(own(), &node).await;
    let api = client(address);
    let service = Service::start_through(Arc::clone(&api) as _, &node).await;
    let id = service.create(json!({"autoPause": true, "autoResume": {"enabled": true}})).await;
    assert_eq!(service.pause(&id, json!({})).await, 204);
    assert_eq!(service.detail(&id).await["pauseMode"], "full");
    assert_eq!(service.connect(&id).await, 201);
    assert_eq!(service.routes.addr(&id), Some(ADDR));
    node.pause_by_itself(&id, Keep::Files).await;
    wait_for(async || service.detail(&id).await["pauseMode"] == "filesystem").await;
    assert_eq!(service.connect(&id).await, 201);
    let path = format!("/sandboxes/{id}");
    let made = service.client.post(&format!("{path}/snapshots"), &json!({"name": "app"})).await;
    made.ok(201);
    let forks = service.client.post(&format!("{path}/fork"), &json!({"count": 2})).await.ok(201);
    assert!(forks.as_array().unwrap().iter().all(|fork| fork.get("sandbox").is_some()), "{forks}");
    let templates = service.client.get("/templates").await.ok(200);
    assert_eq!(templates.as_array().unwrap().len(), 1, "{templates}");
    let gone = service.client.delete("/templates/app").await;
    assert_eq!(gone.status, 204);
    // What was paused while nobody could hear it.
    served.stop().await;
    node.pause_unheard(&id, true);
    let (served, _) = Served::at(address, &node).await;
    service.is(&id, "paused").await;
    assert_eq!(service.client.delete(&path).await.status, 204);
    assert!(!node.has(&id));
    service.stop().await;
    api.close(Budget::within(LIMIT)).await.unwrap();
    served.stop().await;
}
