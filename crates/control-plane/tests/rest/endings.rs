//! Why a sandbox ended, as its record says it.

use std::time::Duration;

use model::{EndReason, LifecycleId, SandboxId, SandboxPhase};
use node_wire::Ending;
use serde_json::json;

use crate::fake_node::{CHANGED_AT, Fault};
use crate::service::Service;

/// When the fake node remembers its endings to have been, as it is shown.
const AT: &str = "2023-11-14T22:13:20Z";

async fn reason(service: &Service, id: &SandboxId) -> String {
    let explained = service.explain(id).await;
    explained["ended"]["reason"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_sandbox_that_ended_while_nobody_listened_has_the_reason_its_node_remembers() {
    use EndReason as R;
    let service = Service::start().await;
    let reasons = [R::Request, R::Timeout, R::Crashed, R::StartFailed, R::NodeStop, R::Reclaimed];
    let mut ids = Vec::new();
    for _ in reasons {
        ids.push(service.create(json!({})).await);
    }
    let restarted = service.restart(|node| {
        for (id, reason) in ids.iter().zip(reasons) {
            let detail = if reason == R::Reclaimed { "the host was restarted" } else { "" };
            node.end_unheard(id, reason, detail);
        }
    });
    let service = restarted.await;
    assert_eq!(service.list("").await, [""; 0]);
    for (id, reason) in ids.iter().zip(reasons) {
        let ended = service.explain(id).await["ended"].clone();
        assert_eq!(ended["reason"], reason.as_str());
        assert!(ended["at"].as_str().unwrap().starts_with(AT.trim_end_matches('Z')), "{ended}");
        let detail = (reason == R::Reclaimed).then_some("the host was restarted");
        assert_eq!(ended["detail"].as_str(), detail);
    }
    service.stop().await;
}

#[tokio::test]
async fn what_is_remembered_of_another_run_says_nothing_of_this_one() {
    let service = Service::start().await;
    let id = service.create(json!({})).await;
    service.node.remember(Ending {
        id: id.clone(),
        lifecycle: LifecycleId::parse("another").unwrap(),
        reason: EndReason::Timeout,
        at: CHANGED_AT + Duration::from_secs(1_800_000_000),
        detail: String::new(),
    });
    service.node.end_unheard(&id, EndReason::Crashed, "");
    service.compare();
    service.gone(&id).await;
    assert_eq!(reason(&service, &id).await, "crashed");
    service.stop().await;
}

#[tokio::test]
async fn a_sandbox_that_is_still_being_released_has_its_reason_already() {
    let service = Service::start().await;
    let id = service.create(json!({})).await;
    let status = service.node.lose(&id).unwrap();
    service.node.plant(|planted| {
        *planted = status.clone();
        planted.phase = SandboxPhase::TearingDown;
    });
    service.node.remember(Ending {
        id: id.clone(),
        lifecycle: status.lifecycle,
        reason: EndReason::NodeStop,
        at: CHANGED_AT,
        detail: String::new(),
    });
    service.compare();
    service.gone(&id).await;
    let explained = service.explain(&id).await;
    assert_eq!(explained["ended"]["reason"], "node-stop");
    assert!(!explained["timeline"].to_string().contains("released"), "{explained}");
    service.node.lose(&id);
    service.compare();
    crate::service::wait_for(async || {
        service.explain(&id).await["timeline"].to_string().contains("released")
    })
    .await;
    service.stop().await;
}

#[tokio::test]
async fn a_kill_of_what_had_ended_by_itself_keeps_the_true_reason() {
    let service = Service::start().await;
    let (known, unknown) = (service.create(json!({})).await, service.create(json!({})).await);
    service.node.end_unheard(&known, EndReason::Timeout, "");
    service.node.lose(&unknown);
    for (id, expected) in [(&known, "timeout"), (&unknown, "request")] {
        assert_eq!(service.client.delete(&format!("/sandboxes/{id}")).await.status, 204);
        assert_eq!(reason(&service, id).await, expected);
    }
    service.stop().await;
}

#[tokio::test]
async fn a_node_that_lost_everything_has_its_rows_closed_by_the_first_comparison() {
    let service = Service::start_nodes(["a", "b"]).await;
    let ids = [service.create(json!({})).await, service.create(json!({})).await];
    let a = service.nodes[0].clone();
    let (lost, kept) = if a.has(&ids[0]) { (&ids[0], &ids[1]) } else { (&ids[1], &ids[0]) };
    a.set_fault(Some(Fault::Unreachable));
    service.shown("a", "unhealthy").await;
    a.lose_all();
    a.set_instance("a-instance-2");
    a.set_fault(None);
    service.gone(lost).await;
    let ended = service.explain(lost).await["ended"].clone();
    assert_eq!(ended["reason"], "lost");
    assert!(ended["detail"].as_str().unwrap().contains("node a does not have it"), "{ended}");
    assert_eq!(service.list("").await, [kept.as_str()]);
    service.stop().await;
}

#[tokio::test]
async fn a_service_is_ready_when_no_sandbox_that_is_gone_is_shown_any_more() {
    let service = Service::start().await;
    let (kept, dead) = (service.create(json!({})).await, service.create(json!({})).await);
    // Nobody remembers how it ended, so only a look at everything finds out.
    let service = service
        .restart(|node| {
            node.lose(&dead);
            node.set_phase(model::NodePhase::Starting);
        })
        .await;
    let (node, plane) = (service.node.clone(), service.plane.clone());
    assert_eq!(service.list("").await.len(), 2, "it may be found yet");
    node.hold_lists(true);
    node.set_phase(model::NodePhase::Healthy);
    let listed = node.listed.subscribe();
    let ready = async {
        plane.nodes_started().await;
        assert!(!node.lists_are_held(), "ready before the comparison");
    };
    let let_go = async {
        let (mut listed, before) = (listed.clone(), *listed.borrow());
        listed.wait_for(|listed| *listed > before).await.unwrap();
        node.hold_lists(false);
    };
    tokio::join!(ready, let_go);
    assert_eq!(service.list("").await, [kept.as_str()]);
    service.stop().await;
}
