//! A control plane that ends at any instant, and the one after it.

use model::EndReason;
use serde_json::{Value, json};

use crate::client::{Answer, Client};
use crate::fake_node::{ADDR, FakeNode};
use crate::service::{Service, wait_for};

async fn create(client: &Client, body: &Value) -> Answer {
    client.with("idempotency-key", "key").post("/v2/sandboxes", body).await
}

/// Crashes the control plane while a create with a key waits for its node, `before` or after the
/// node did its work.
async fn cut_off(before: bool, between: impl FnOnce(&FakeNode)) -> Service {
    let (service, runtime) = Service::start_doomed().await;
    let node = service.node.clone();
    if before {
        node.hold_creates(true);
    } else {
        node.hold_answers(true);
    }
    let client = service.client.clone();
    let connections = lifecycle::TaskGroup::default();
    connections.spawn(tracing::Span::none(), async move {
        // Its connection breaks.
        client.try_post("/v2/sandboxes", &json!({"templateID": "base"}), "key").await;
    });
    wait_for(async || *node.begun.borrow() == 1).await;
    wait_for(async || before || node.count() == 1).await;
    let service = service.crash(runtime, between).await;
    node.hold_creates(false);
    node.hold_answers(false);
    service
}

#[tokio::test]
async fn a_create_that_was_cut_off_is_repeated_with_its_key_and_gets_the_one_sandbox() {
    let service = cut_off(false, |_| {}).await;
    let body = json!({"templateID": "base"});
    let sandbox = create(&service.client, &body).await.ok(201);
    assert_eq!(service.list("").await, [sandbox["sandboxID"].as_str().unwrap()]);
    assert_eq!(create(&service.client, &body).await.ok(201), sandbox);
    assert_eq!((service.node.count(), *service.node.begun.borrow()), (1, 1));
    let id = sandbox["sandboxID"].as_str().unwrap().parse().unwrap();
    assert_eq!(service.routes.addr(&id), Some(ADDR), "it can be reached");
    let other = create(&service.client, &json!({"templateID": "base", "timeout": 9})).await;
    other.error(422);
    service.stop().await;
}

#[tokio::test]
async fn a_create_that_was_rolled_back_is_a_new_one_when_it_is_repeated() {
    let service = cut_off(false, |node| {
        let listed = node.only();
        node.end_unheard(&listed, EndReason::Reclaimed, "its start was cut off");
    })
    .await;
    assert_eq!(service.list("").await, [""; 0]);
    let sandbox = create(&service.client, &json!({"templateID": "base"})).await.ok(201);
    assert_eq!(service.list("").await, [sandbox["sandboxID"].as_str().unwrap()]);
    assert_eq!((service.node.count(), *service.node.begun.borrow()), (1, 2));
    service.stop().await;
}

#[tokio::test]
async fn a_create_whose_node_was_not_asked_yet_is_a_new_one_when_it_is_repeated() {
    let service = cut_off(true, |_| {}).await;
    let sandbox = create(&service.client, &json!({"templateID": "base"})).await.ok(201);
    assert_eq!(service.list("").await, [sandbox["sandboxID"].as_str().unwrap()]);
    assert_eq!(service.node.count(), 1);
    service.stop().await;
}

#[tokio::test]
async fn a_repeated_create_waits_for_a_node_that_is_away_and_then_gets_the_one_sandbox() {
    let service = cut_off(false, |node| node.set_fault(Some(crate::fake_node::Fault::Unreachable)));
    let service = service.await;
    let body = json!({"templateID": "base"});
    let early = create(&service.client, &body).await;
    early.error(409);
    assert_eq!(early.json()["error_code"], "idempotency_in_progress");
    service.node.set_fault(None);
    wait_for(async || create(&service.client, &body).await.status == 201).await;
    assert_eq!((service.node.count(), *service.node.begun.borrow()), (1, 1));
    service.stop().await;
}

#[tokio::test]
async fn a_start_that_goes_on_on_its_node_is_found_by_the_request_that_repeats_it() {
    let service = cut_off(false, |node| {
        node.set_status_phase(&node.only(), model::SandboxPhase::Booting);
    })
    .await;
    let body = json!({"templateID": "base"});
    create(&service.client, &body).await.error(409);
    // Nobody says that it runs now, and nothing is compared before an hour is over.
    service.node.set_status_phase(&service.node.only(), model::SandboxPhase::Live);
    wait_for(async || create(&service.client, &body).await.status == 201).await;
    assert_eq!((service.node.count(), *service.node.begun.borrow()), (1, 1));
    service.stop().await;
}

#[tokio::test]
async fn the_next_control_plane_publishes_the_routes_again_and_answers_as_before() {
    let (service, runtime) = Service::start_doomed().await;
    let ids =
        [service.create(json!({"metadata": {"n": "1"}})).await, service.create(json!({})).await];
    let path = format!("/sandboxes/{}", ids[0]);
    let paths = [path.clone(), format!("{path}/metrics"), "/sandboxes".to_owned()];
    let mut before = Vec::new();
    for path in &paths {
        before.push(service.client.get(path).await.ok(200));
    }
    let service = service.crash(runtime, |_| {}).await;
    for id in &ids {
        assert_eq!(service.routes.addr(id), Some(ADDR));
    }
    for (path, before) in paths.iter().zip(before) {
        assert_eq!(service.client.get(path).await.ok(200), before, "{path}");
    }
    let moved = service.client.post(&format!("{path}/timeout"), &json!({"timeout": 77})).await;
    assert_eq!(moved.status, 204);
    service.node.end(&ids[1], EndReason::Crashed);
    service.gone(&ids[1]).await;
    assert_eq!(service.client.delete(&path).await.status, 204);
    assert_eq!((service.node.count(), service.routes.count()), (0, 0));
    service.stop().await;
}

#[tokio::test]
async fn a_route_that_was_lost_is_published_by_the_next_comparison_and_only_while_it_runs() {
    let service = Service::start().await;
    let (kept, killed) = (service.create(json!({})).await, service.create(json!({})).await);
    service.node.set_stuck(&killed, true);
    service.client.delete(&format!("/sandboxes/{killed}")).await.error(500);
    service.node.set_status_phase(&killed, model::SandboxPhase::Live);
    service.routes.forget();
    service.compare();
    wait_for(async || service.routes.addr(&kept) == Some(ADDR)).await;
    assert_eq!(service.routes.count(), 1, "what is being killed is not reachable again");
    service.stop().await;
}

#[tokio::test]
async fn what_was_killed_while_the_records_were_compared_is_not_reachable_again() {
    let service = Service::start().await;
    let (killed, lost) = (service.create(json!({})).await, service.create(json!({})).await);
    service.node.lose(&lost);
    service.node.hold_lists(true);
    let before = *service.node.listed.borrow();
    service.compare();
    wait_for(async || *service.node.listed.borrow() > before).await;
    // The node has said that it runs, and that is what the comparison goes by. It does not say soon
    // that it has ended.
    service.node.set_stuck(&killed, true);
    service.client.delete(&format!("/sandboxes/{killed}")).await.error(500);
    service.node.hold_lists(false);
    service.gone(&lost).await;
    // Another comparison ends after the first.
    let seen = service.create(json!({})).await;
    service.node.lose(&seen);
    service.compare();
    service.gone(&seen).await;
    assert_eq!(service.routes.count(), 0);
    service.stop().await;
}
