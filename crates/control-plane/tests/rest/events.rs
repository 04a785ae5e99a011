use model::EndReason;
use observe::metrics::{LOST, LOST_EVENTS};
use serde_json::json;

use crate::service::{Service, wait_for};

#[tokio::test]
async fn the_end_of_a_sandbox_takes_its_route_and_its_record() {
    let service = Service::start().await;
    for reason in [EndReason::Timeout, EndReason::Crashed, EndReason::NodeStop] {
        let id = service.create(json!({})).await;
        service.node.end(&id, reason);
        service.gone(&id).await;
        assert_eq!(service.routes.addr(&id), None);
    }
    service.stop().await;
}

#[tokio::test]
async fn a_control_plane_that_missed_events_looks_for_itself() {
    let service = Service::start().await;
    let (lost, kept) = (service.create(json!({})).await, service.create(json!({})).await);
    service.node.lose(&lost);
    let missed = LOST.of(LOST_EVENTS);
    service.node.babble();
    service.gone(&lost).await;
    assert!(LOST.of(LOST_EVENTS) > missed, "what was missed is counted");
    assert_eq!(service.routes.addr(&lost), None);
    assert_eq!(service.list("").await, [kept.as_str()]);
    service.stop().await;
}

#[tokio::test]
async fn a_restart_keeps_what_runs_and_closes_what_does_not() {
    let service = Service::start().await;
    let (lost, kept) = (service.create(json!({})).await, service.create(json!({})).await);
    let service = service
        .restart(|node| {
            node.lose(&lost);
        })
        .await;
    assert_eq!(service.list("").await, [kept.as_str()]);
    service.client.get(&format!("/sandboxes/{lost}")).await.error(404);
    assert_eq!(service.client.delete(&format!("/sandboxes/{kept}")).await.status, 204);
    service.stop().await;
}

#[tokio::test]
async fn a_kill_that_was_stuck_is_closed_once_the_node_released_it() {
    let service = Service::start().await;
    let id = service.create(json!({})).await;
    service.node.set_stuck(&id, true);
    service.client.delete(&format!("/sandboxes/{id}")).await.error(500);
    service.node.lose(&id);
    service.node.babble();
    let path = format!("/sandboxes/{id}");
    let body = json!({"timeout": 1});
    let connect = format!("{path}/connect");
    wait_for(async || service.client.post(&connect, &body).await.status == 404).await;
    service.client.delete(&path).await.error(404);
    service.stop().await;
}

#[tokio::test]
async fn a_start_that_is_cancelled_is_an_error_and_leaves_no_route() {
    let service = Service::start().await;
    service.node.hold_creates(true);
    let body = json!({"templateID": "base"});
    let create = service.client.post("/sandboxes", &body);
    let cancel = async {
        let mut begun = service.node.begun.subscribe();
        begun.wait_for(|begun| *begun == 1).await.unwrap();
        service.node.fail_next(node_wire::CreateError::Cancelled);
        service.node.hold_creates(false);
    };
    let (answer, ()) = tokio::join!(create, cancel);
    assert!(answer.error(409).contains("killed while it started"));
    assert_eq!(service.routes.count(), 0);
    service.stop().await;
}

#[tokio::test]
async fn a_start_whose_record_was_closed_meanwhile_is_undone() {
    let service = Service::start().await;
    service.node.hold_creates(true);
    let body = json!({"templateID": "base"});
    let create = service.client.post("/sandboxes", &body);
    let next = async {
        let mut begun = service.node.begun.subscribe();
        begun.wait_for(|begun| *begun == 1).await.unwrap();
        // Finds a record of a start that its node knows nothing of.
        let next = service.beside().await;
        service.node.hold_creates(false);
        next
    };
    let (answer, next) = tokio::join!(create, next);
    answer.error(409);
    assert_eq!((service.node.count(), service.routes.count()), (0, 0));
    next.stop().await;
    service.stop().await;
}

#[tokio::test]
async fn a_sandbox_whose_start_was_not_recorded_is_taken_up_by_the_next_control_plane() {
    let service = Service::start().await;
    service.node.hold_answers(true);
    let body = json!({"templateID": "base"});
    let create = service.client.post("/sandboxes", &body);
    let next = async {
        wait_for(async || service.node.count() == 1).await;
        assert_eq!(service.list("").await, [""; 0]);
        let next = service.beside().await;
        assert_eq!(next.list("").await.len(), 1);
        service.node.hold_answers(false);
        next
    };
    let (_answer, next) = tokio::join!(create, next);
    next.stop().await;
    service.stop().await;
}

#[tokio::test]
async fn a_sandbox_that_was_gone_before_its_start_was_recorded_has_no_route() {
    let service = Service::start().await;
    service.node.hold_answers(true);
    let body = json!({"templateID": "base"});
    let create = service.client.post("/sandboxes", &body);
    let next = async {
        wait_for(async || service.node.count() == 1).await;
        service.node.lose_all();
        let next = service.beside().await;
        service.node.hold_answers(false);
        next
    };
    let (answer, next) = tokio::join!(create, next);
    answer.error(409);
    assert_eq!(service.routes.count(), 0);
    next.stop().await;
    service.stop().await;
}
