//! A node that cannot be reached: what it has is not gone.

use model::EndReason;
use serde_json::json;

use crate::fake_node::Fault;
use crate::service::{Service, wait_for};

#[tokio::test]
async fn the_sandboxes_of_a_node_that_is_away_stay_as_they_were_and_calls_say_why() {
    let service = Service::start().await;
    let (id, other) = (service.create(json!({})).await, service.create(json!({})).await);
    let path = format!("/sandboxes/{id}");
    let before = service.client.get(&path).await.ok(200);
    service.ready().await;
    service.node.set_fault(Some(Fault::Unreachable));
    let shown = service.shown("node-1", "unhealthy").await;
    assert_eq!(shown["sandboxCount"], 2, "what it said last");
    service.compare();
    service.ready().await;
    assert_eq!(service.client.get(&path).await.ok(200), before);
    assert_eq!(service.list("").await.len(), 2);
    assert_eq!(service.routes.count(), 2, "its traffic may still get there");
    let body = json!({"timeout": 400});
    let refused = [
        service.client.get(&format!("{path}/metrics")).await,
        service.client.post(&format!("{path}/timeout"), &body).await,
        service.client.post(&format!("{path}/connect"), &body).await,
        service.client.post(&format!("{path}/refreshes"), &json!({"duration": 3000})).await,
        service.client.delete(&format!("/sandboxes/{other}")).await,
    ];
    for answer in refused {
        assert!(answer.error(503).contains("cannot be reached"));
        assert_eq!(answer.header("retry-after"), Some("5"));
    }
    let create = service.client.post("/sandboxes", &json!({"templateID": "base"})).await;
    assert!(create.error(503).contains("out of reach"));
    assert_eq!(service.client.get(&path).await.ok(200), before, "nothing was changed");
    let explained = service.explain(&id).await;
    assert_eq!(explained["state"], "running");
    assert_eq!(explained["nodeError"], "its node did not answer");
    service.stop().await;
}

#[tokio::test]
async fn a_node_that_is_back_as_another_process_is_compared_at_once() {
    let service = Service::start().await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(service.create(json!({})).await);
    }
    let [kept, crashed, lost, killed] = &ids[..] else { unreachable!("there are four") };
    let node = &service.node;
    node.set_fault(Some(Fault::Unreachable));
    service.shown("node-1", "unhealthy").await;
    service.client.delete(&format!("/sandboxes/{killed}")).await.error(503);
    node.end_unheard(crashed, EndReason::Crashed, "signal 9");
    node.lose(lost);
    let new = node.plant(|_| {});
    node.set_instance("node-1-instance-2");
    service.routes.forget();
    node.set_fault(None);
    // Nothing else makes a comparison here.
    for (id, reason) in [(crashed, "crashed"), (lost, "lost"), (killed, "request")] {
        service.is(id, "ended").await;
        assert_eq!(service.explain(id).await["ended"]["reason"], reason);
    }
    service.is(&new.id, "running").await;
    service.is(kept, "running").await;
    let running = async || {
        let has = |id| service.routes.addr(id).is_some();
        has(kept) && has(&new.id) && service.routes.count() == 2
    };
    wait_for(running).await;
    service.stop().await;
}

#[tokio::test]
async fn a_node_whose_events_broke_off_is_listened_to_again_and_nothing_between_is_missed() {
    let service = Service::start().await;
    let (early, late) = (service.create(json!({})).await, service.create(json!({})).await);
    service.node.break_events();
    service.node.end_unheard(&early, EndReason::Timeout, "");
    service.gone(&early).await;
    assert_eq!(service.explain(&early).await["ended"]["reason"], "timeout");
    // Heard, and not found by a comparison: the node does not remember this one.
    service.node.end(&late, EndReason::Crashed);
    service.gone(&late).await;
    assert_eq!(service.explain(&late).await["ended"]["reason"], "crashed");
    service.stop().await;
}
