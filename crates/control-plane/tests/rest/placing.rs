use model::NodePhase;
use node_wire::{CreateError, NodeApi as _};
use serde_json::json;

use crate::fake_node::{FakeNode, Fault};
use crate::service::{Service, wait_for};

/// From now on it does not say how it is; nobody has noticed yet.
async fn hush(node: &FakeNode) {
    node.hold_info(true);
    let mut asked = node.asked.subscribe();
    let before = *asked.borrow_and_update();
    asked.wait_for(|asked| *asked > before).await.unwrap();
}

#[tokio::test]
async fn sandboxes_are_spread_over_the_nodes() {
    let service = Service::start_nodes(["a", "b"]).await;
    for _ in 0..10 {
        service.create(json!({})).await;
    }
    assert_eq!(service.counts(), [5, 5]);
    service.stop().await;
}

#[tokio::test]
async fn only_healthy_nodes_that_answer_get_sandboxes() {
    let service = Service::start_nodes(["a", "b"]).await;
    let [a, b] = &service.nodes[..] else { unreachable!("there are two") };
    for phase in [NodePhase::Standby, NodePhase::Unhealthy, NodePhase::Starting] {
        a.set_phase(phase);
        service.ready().await;
        service.create(json!({})).await;
        assert_eq!((*a.begun.borrow(), a.count()), (0, 0), "{phase:?}");
    }
    a.set_fault(Some(Fault::Unreachable));
    service.ready().await;
    service.create(json!({})).await;
    assert_eq!((*a.begun.borrow(), b.count()), (0, 4));
    service.stop().await;
}

#[tokio::test]
async fn a_node_that_turned_a_sandbox_away_is_left_out_until_it_says_how_it_is() {
    for refusal in [NodePhase::Draining, NodePhase::Starting] {
        let service = Service::start_nodes(["a", "b"]).await;
        let [a, b] = &service.nodes[..] else { unreachable!("there are two") };
        hush(a).await;
        // It has not said yet that it drains.
        a.set_phase(refusal);
        for _ in 0..5 {
            service.create(json!({})).await;
        }
        assert_eq!((*a.begun.borrow(), b.count()), (1, 5), "{refusal:?}");
        let shown = service.admin().get("/nodes/a").await.ok(200);
        assert_eq!(shown["createFails"], 0, "a refusal is no attempt");
        a.set_phase(NodePhase::Healthy);
        a.hold_info(false);
        wait_for(async || {
            service.create(json!({})).await;
            a.count() > 0
        })
        .await;
        service.stop().await;
    }
}

#[tokio::test]
async fn a_full_node_is_asked_after_the_others_and_its_reason_is_told_when_there_are_none() {
    let service = Service::start_nodes(["a", "b"]).await;
    let [a, b] = &service.nodes[..] else { unreachable!("there are two") };
    for error in [
        CreateError::Full { limit: 1 },
        CreateError::TooManyStarting { limit: 1 },
        CreateError::DiskFull { free_mib: 1, reserve_mib: 2 },
    ] {
        service.ready().await;
        a.fail_next(error.clone());
        b.fail_next(error.clone());
        let answer = service.client.post("/sandboxes", &json!({"templateID": "base"})).await;
        assert!(answer.error(503).contains(&error.to_string()), "{error:?}");
        let wait = error.retry_after().unwrap().as_secs().to_string();
        assert_eq!(answer.header("retry-after"), Some(wait.as_str()));
        assert_eq!(answer.json()["error_code"], "sandbox_capacity_unavailable");
        assert_eq!(service.counts(), [0, 0]);
    }
    service.ready().await;
    a.fail_next(CreateError::Full { limit: 1 });
    b.fail_next(CreateError::TooManyStarting { limit: 1 });
    let answer = service.client.post("/sandboxes", &json!({"templateID": "base"})).await;
    assert_eq!(answer.header("retry-after"), Some("1"), "the sooner of the two");
    service.stop().await;
}

#[tokio::test]
async fn a_create_gets_a_typed_503_only_when_no_node_is_left() {
    let service = Service::start_nodes(["a", "b"]).await;
    let create = async || service.client.post("/sandboxes", &json!({"templateID": "base"})).await;
    for node in ["a", "b"] {
        create().await.ok(201);
        let body = json!({"status": "draining"});
        assert_eq!(service.admin().post(&format!("/nodes/{node}"), &body).await.status, 204);
    }
    let answer = create().await;
    assert!(answer.error(503).contains("2 draining"));
    assert_eq!(answer.json()["error_code"], "sandbox_capacity_unavailable");
    assert_eq!(answer.header("retry-after"), Some("30"));
    assert_eq!(service.list("").await.len(), 2, "nothing of the refused one is left");
    service.stop().await;
}

#[tokio::test]
async fn a_start_that_fails_is_tried_on_three_nodes_at_most() {
    let service = Service::start_nodes(["a", "b", "c", "d"]).await;
    let failed = || CreateError::Failed { step: "slot", message: String::new() };
    service.nodes[0].fail_next(failed());
    let id = service.create(json!({})).await;
    assert!(service.nodes[1].has(&id), "the next one runs it");
    let fails = service.admin().get("/nodes/a").await.ok(200)["createFails"].clone();
    assert_eq!(fails, 1);
    for node in &service.nodes {
        node.fail_next(failed());
    }
    let answer = service.client.post("/sandboxes", &json!({"templateID": "base"})).await;
    assert!(answer.error(500).contains("step slot"));
    let begun: u32 = service.nodes.iter().map(|node| *node.begun.borrow()).sum();
    assert_eq!(begun, 2 + 3);
    service.stop().await;
}

#[tokio::test]
async fn a_start_that_a_forced_drain_cancels_goes_to_another_node() {
    let service = Service::start_nodes(["a", "b"]).await;
    let [a, b] = &service.nodes[..] else { unreachable!("there are two") };
    for (node, survives) in [(a, true), (b, false)] {
        node.hold_creates(true);
        let before = *node.begun.borrow();
        let body = json!({"templateID": "base"});
        let create = service.client.post("/sandboxes", &body);
        let force = async {
            node.begun.subscribe().wait_for(|begun| *begun > before).await.unwrap();
            let force = json!({"status": "draining", "forceStop": true});
            let path = if survives { "/nodes/a" } else { "/nodes/b" };
            assert_eq!(service.admin().post(path, &force).await.status, 204);
            node.fail_next(CreateError::Cancelled);
            node.hold_creates(false);
        };
        let (answer, ()) = tokio::join!(create, force);
        if survives {
            answer.ok(201);
        } else {
            answer.error(503);
            assert_eq!(answer.header("retry-after"), Some("30"));
        }
        assert_eq!(service.counts(), [0, 1]);
    }
    service.stop().await;
}

#[tokio::test]
async fn a_sandbox_on_a_draining_node_is_served_to_its_end() {
    let service = Service::start_nodes(["a", "b"]).await;
    let (first, second) = (service.create(json!({})).await, service.create(json!({})).await);
    for node in &service.nodes {
        node.set_phase(NodePhase::Draining);
    }
    for node in ["a", "b"] {
        service.shown(node, "draining").await;
    }
    for id in [&first, &second] {
        let path = format!("/sandboxes/{id}");
        service.client.get(&path).await.ok(200);
        service.client.get(&format!("{path}/metrics")).await.ok(200);
        let timeout =
            service.client.post(&format!("{path}/timeout"), &json!({"timeout": 77})).await;
        assert_eq!(timeout.status, 204);
        let body = json!({"timeout": 99});
        service.client.post(&format!("{path}/connect"), &body).await.ok(200);
        assert_eq!(service.client.delete(&path).await.status, 204);
    }
    assert_eq!(service.counts(), [0, 0]);
    service.stop().await;
}

#[tokio::test]
async fn a_restart_finds_every_sandbox_on_its_own_node() {
    let service = Service::start_nodes(["a", "b"]).await;
    let ids = [service.create(json!({})).await, service.create(json!({})).await];
    let [a, b] = &service.nodes[..] else { unreachable!("there are two") };
    assert_eq!(service.counts(), [1, 1]);
    // The order of the nodes means nothing.
    let nodes = vec![b.clone(), a.clone()];
    let service = service.restart_on(nodes).await;
    for id in &ids {
        service.client.get(&format!("/sandboxes/{id}")).await.ok(200);
        assert_eq!(service.client.delete(&format!("/sandboxes/{id}")).await.status, 204);
    }
    assert_eq!(service.counts(), [0, 0]);
    service.stop().await;
}

#[tokio::test]
async fn the_sandboxes_of_a_node_that_is_away_are_kept_and_compared_when_it_is_back() {
    let service = Service::start_nodes(["a", "b"]).await;
    let ids = [service.create(json!({})).await, service.create(json!({})).await];
    let [a, _] = &service.nodes[..] else { unreachable!("there are two") };
    let lost = ids.iter().find(|id| a.has(id)).unwrap();
    a.set_fault(Some(Fault::Unreachable));
    service.shown("a", "unhealthy").await;
    let away = service.client.delete(&format!("/sandboxes/{lost}")).await;
    assert!(away.error(503).contains("cannot be reached"));
    assert_eq!(away.header("retry-after"), Some("5"));
    let metrics = service.client.get(&format!("/sandboxes/{lost}/metrics")).await;
    assert_eq!(metrics.ok(200), json!([]), "it is being killed");
    a.set_fault(None);
    service.shown("a", "ready").await;
    wait_for(async || {
        let killed = service.client.delete(&format!("/sandboxes/{lost}")).await.status;
        killed == 204 || killed == 404
    })
    .await;
    assert_eq!(service.counts(), [0, 1]);
    service.stop().await;
}

#[tokio::test]
async fn a_sandbox_that_vanished_with_its_node_is_gone_when_the_node_is_back() {
    let service = Service::start_nodes(["a", "b"]).await;
    let ids = [service.create(json!({})).await, service.create(json!({})).await];
    let a = &service.nodes[0];
    let lost = ids.iter().find(|id| a.has(id)).unwrap();
    a.set_fault(Some(Fault::Unreachable));
    service.shown("a", "unhealthy").await;
    service.client.get(&format!("/sandboxes/{lost}")).await.ok(200);
    a.lose_all();
    a.set_fault(None);
    service.gone(lost).await;
    assert_eq!(service.list("").await.len(), 1);
    service.stop().await;
}

#[tokio::test]
async fn a_node_that_restarted_between_two_questions_is_compared_at_once() {
    let service = Service::start_nodes(["a"]).await;
    let id = service.create(json!({})).await;
    service.node.lose_all();
    service.ready().await;
    service.client.get(&format!("/sandboxes/{id}")).await.ok(200);
    service.node.set_instance("a-instance-2");
    service.gone(&id).await;
    service.stop().await;
}

#[tokio::test]
async fn a_start_whose_answer_was_lost_runs_elsewhere_and_its_first_copy_is_ended() {
    let service = Service::start_nodes(["a", "b"]).await;
    let [a, b] = &service.nodes[..] else { unreachable!("there are two") };
    hush(a).await;
    a.set_fault(Some(Fault::AnswersLost));
    let id = service.create(json!({})).await;
    assert!(a.has(&id) && b.has(&id), "both run it");
    a.set_fault(None);
    a.hold_info(false);
    service.shown("a", "ready").await;
    // The next comparison finds it.
    a.babble();
    wait_for(async || !a.has(&id)).await;
    assert!(b.has(&id));
    service.client.get(&format!("/sandboxes/{id}")).await.ok(200);
    assert_eq!(b.list().await.unwrap().len(), service.list("").await.len());
    service.stop().await;
}

#[tokio::test]
async fn a_node_that_comes_late_is_taken_in() {
    let service = Service::start_nodes(["a"]).await;
    let id = service.create(json!({})).await;
    let late = FakeNode::named("late");
    late.set_fault(Some(Fault::Unreachable));
    let nodes = vec![service.node.clone(), late.clone()];
    let service = service.restart_on(nodes).await;
    let nodes = service.admin().get("/nodes").await.ok(200);
    assert_eq!(nodes.as_array().unwrap().len(), 1, "nobody knows its name");
    late.set_fault(None);
    wait_for(async || service.admin().get("/nodes/late").await.status == 200).await;
    service.create(json!({})).await;
    assert_eq!(service.counts(), [1, 1]);
    service.client.get(&format!("/sandboxes/{id}")).await.ok(200);
    service.stop().await;
}

#[tokio::test]
async fn records_of_a_node_that_is_not_there_any_more_are_closed_or_taken_over() {
    let service = Service::start_nodes(["old"]).await;
    let (kept, lost) = (service.create(json!({})).await, service.create(json!({})).await);
    let renamed = FakeNode::named("new");
    renamed.take_over(&service.node, &kept);
    let service = service.restart_on(vec![renamed]).await;
    assert_eq!(service.list("").await, [kept.as_str()]);
    service.client.get(&format!("/sandboxes/{lost}")).await.error(404);
    assert_eq!(service.client.delete(&format!("/sandboxes/{kept}")).await.status, 204);
    assert_eq!(service.counts(), [0]);
    service.stop().await;
}
