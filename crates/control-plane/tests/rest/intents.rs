//! Kills that were asked for are carried out, whoever is away or dies meanwhile.

use model::{NodePhase, SandboxPhase};
use serde_json::json;

use crate::fake_node::Fault;
use crate::service::{Service, wait_for};

#[tokio::test]
async fn a_kill_on_a_node_that_is_away_is_carried_out_when_it_is_back() {
    let service = Service::start().await;
    let (id, other) = (service.create(json!({})).await, service.create(json!({})).await);
    let path = format!("/sandboxes/{id}");
    service.node.set_fault(Some(Fault::Unreachable));
    let away = service.client.delete(&path).await;
    assert!(away.error(503).contains("cannot be reached"));
    assert_eq!(away.header("retry-after"), Some("5"));
    // It is as good as gone to clients, and its traffic has ended.
    service.client.get(&path).await.error(404);
    assert_eq!(service.list("").await, [other.as_str()]);
    assert_eq!(service.routes.addr(&id), None);
    service.is(&id, "killing").await;
    // Sent again while nobody asks for it.
    let before = *service.node.kills.borrow();
    wait_for(async || *service.node.kills.borrow() > before).await;
    let explained = async || service.explain(&id).await["timeline"].to_string();
    wait_for(async || explained().await.contains("sent again")).await;
    assert!(service.node.has(&id));
    service.node.set_fault(None);
    service.is(&id, "ended").await;
    assert!(!service.node.has(&id) && service.node.has(&other));
    assert_eq!(service.explain(&id).await["ended"]["reason"], "request");
    assert_eq!(service.client.get(&format!("/sandboxes/{other}")).await.status, 200);
    service.stop().await;
}

#[tokio::test]
async fn a_kill_is_carried_out_by_the_control_plane_after_the_one_that_was_asked() {
    // The node was away, the node failed, and the node never got the order.
    for fault in [Some(Fault::Unreachable), Some(Fault::Internal), None] {
        let (service, runtime) = Service::start_doomed().await;
        let (id, kept) = (service.create(json!({})).await, service.create(json!({})).await);
        service.node.set_fault(fault);
        service.node.hold_kills(true);
        let client = service.client.clone();
        let path = format!("/sandboxes/{id}");
        let node = service.node.clone();
        let asking = lifecycle::TaskGroup::default();
        asking.spawn(tracing::Span::none(), async move { client.try_delete(&path).await });
        wait_for(async || *node.kills.borrow() > 0).await;
        let service = service.crash(runtime, |_| {}).await;
        // The next one is up, and may have asked already.
        node.forget_kills();
        assert_eq!(service.list("").await.len(), 1, "{fault:?}");
        assert_eq!(service.routes.addr(&id), None, "{fault:?}");
        node.hold_kills(false);
        node.set_fault(None);
        wait_for(async || !node.has(&id)).await;
        service.is(&id, "ended").await;
        assert!(node.has(&kept), "{fault:?}");
        service.stop().await;
    }
}

#[tokio::test]
async fn a_kill_is_joined_by_whoever_wants_the_same_sandbox_gone() {
    let service = Service::start().await;
    let id = service.create(json!({})).await;
    let path = format!("/sandboxes/{id}");
    service.node.hold_kills(true);
    let kill = async || service.client.delete(&path).await.status;
    let let_go = async {
        wait_for(async || *service.node.kills.borrow() == 1).await;
        // A comparison in the middle of it sends none of its own.
        service.node.set_instance("node-1-instance-2");
        service.ready().await;
        service.is(&id, "killing").await;
        service.node.hold_kills(false);
    };
    let (first, second, third, ()) = tokio::join!(kill(), kill(), kill(), let_go);
    assert!([first, second, third].iter().all(|status| *status == 204), "{first} {second} {third}");
    assert!(!service.node.killed_twice_at_a_time());
    assert!(!service.node.has(&id));
    service.stop().await;
}

#[tokio::test]
async fn what_a_node_that_still_starts_does_not_have_is_neither_closed_nor_taken_for_killed() {
    let service = Service::start().await;
    let (kept, killed) = (service.create(json!({})).await, service.create(json!({})).await);
    // Another process in the node's place, which has taken over nothing yet.
    let taken = [service.node.lose(&kept).unwrap(), service.node.lose(&killed).unwrap()];
    service.node.set_phase(NodePhase::Starting);
    service.node.set_instance("node-1-instance-2");
    service.ready().await;
    service.compare();
    service.client.delete(&format!("/sandboxes/{killed}")).await.error(503);
    assert_eq!(service.list("").await, [kept.as_str()]);
    service.is(&killed, "killing").await;
    // Now it has taken over what there was.
    for status in taken {
        service.node.plant(|planted| *planted = status);
    }
    service.routes.forget();
    service.node.set_phase(NodePhase::Healthy);
    wait_for(async || service.routes.addr(&kept).is_some()).await;
    service.is(&killed, "ended").await;
    assert!(!service.node.has(&killed) && service.node.has(&kept));
    service.client.get(&format!("/sandboxes/{kept}")).await.ok(200);
    service.stop().await;
}

#[tokio::test]
async fn a_stuck_sandbox_is_left_to_its_node_which_has_the_order() {
    let service = Service::start().await;
    let id = service.create(json!({})).await;
    service.node.set_stuck(&id, true);
    service.client.delete(&format!("/sandboxes/{id}")).await.error(500);
    let (other, seen) = (service.create(json!({})).await, service.create(json!({})).await);
    service.node.lose(&seen);
    service.compare();
    service.gone(&seen).await;
    // The order for this one the node may not have got. When it is sent again, that for the other
    // would have been, too.
    service.node.set_fault(Some(Fault::Internal));
    service.client.delete(&format!("/sandboxes/{other}")).await.error(500);
    wait_for(async || service.node.kills_of(&other) > 1).await;
    assert_eq!(service.node.kills_of(&id), 1);
    service.node.set_fault(None);
    // After a restart of its node it may run again, and is ended.
    service.node.set_stuck(&id, false);
    service.node.set_status_phase(&id, SandboxPhase::Live);
    service.compare();
    service.is(&id, "ended").await;
    assert!(!service.node.has(&id));
    service.stop().await;
}
