use std::time::{Duration, Instant, SystemTime};

use model::{EndReason, SandboxId};
use serde_json::json;

use crate::service::Service;

/// Checks how long the node still gives a sandbox; a slow machine has used up some of it.
#[track_caller]
fn check_left(service: &Service, id: &SandboxId, seconds: u64) {
    let left = service.node.ends_at(id).duration_since(SystemTime::now()).unwrap().as_secs();
    assert!((seconds.saturating_sub(9)..=seconds).contains(&left), "{left} s of {seconds} s left");
}

async fn end_at(service: &Service, id: &SandboxId) -> String {
    let detail = service.client.get(&format!("/sandboxes/{id}")).await.ok(200);
    detail["endAt"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_killed_sandbox_is_gone_from_everywhere() {
    let service = Service::start().await;
    let id = service.create(json!({})).await;
    let path = format!("/sandboxes/{id}");
    let answer = service.client.delete(&path).await;
    assert_eq!((answer.status.as_u16(), answer.text.as_str()), (204, ""));
    assert!(!service.node.has(&id));
    assert_eq!(service.routes.addr(&id), None);
    assert_eq!(service.list("").await, [""; 0]);
    service.client.get(&path).await.error(404);
    service.client.delete(&path).await.error(404);
    service.stop().await;
}

#[tokio::test]
async fn an_id_with_a_client_suffix_is_the_same_sandbox() {
    let service = Service::start().await;
    let id = service.create(json!({})).await;
    service.client.get(&format!("/sandboxes/{id}-6532622b")).await.ok(200);
    service.client.get(&format!("/sandboxes/{id}-a-b")).await.error(400);
    service.client.get("/sandboxes/UPPER").await.error(400);
    service.client.get("/sandboxes/a%2Fb").await.error(400);
    service.client.get("/sandboxes/%ff").await.error(400);
    assert_eq!(service.client.delete(&format!("/sandboxes/{id}-6532622b")).await.status, 204);
    service.stop().await;
}

#[tokio::test]
async fn a_stuck_kill_is_an_error_until_a_repeated_one_succeeds() {
    let service = Service::start().await;
    let id = service.create(json!({})).await;
    let path = format!("/sandboxes/{id}");
    service.node.set_stuck(&id, true);
    for _ in 0..2 {
        let message = service.client.delete(&path).await.error(500);
        assert!(message.contains("repeated DELETE") && !message.contains("/var"), "{message}");
        assert_eq!(service.routes.addr(&id), None);
        service.client.get(&path).await.error(404);
        assert_eq!(service.list("").await, [""; 0]);
        service.client.post(&format!("{path}/connect"), &json!({"timeout": 1})).await.error(409);
        service.client.post(&format!("{path}/timeout"), &json!({"timeout": 1})).await.error(409);
    }
    service.node.set_stuck(&id, false);
    assert_eq!(service.client.delete(&path).await.status, 204);
    service.client.delete(&path).await.error(404);
    service.stop().await;
}

#[tokio::test]
async fn a_sandbox_that_ended_a_moment_ago_is_still_killed_without_an_error() {
    let service = Service::start().await;
    let id = service.create(json!({})).await;
    service.node.lose(&id);
    assert_eq!(service.client.delete(&format!("/sandboxes/{id}")).await.status, 204);
    service.client.delete(&format!("/sandboxes/{id}")).await.error(404);
    service.stop().await;
}

#[tokio::test]
async fn timeout_moves_the_end_both_ways_and_not_past_the_longest_life() {
    let service = Service::start().await;
    let id = service.create(json!({"timeout": 100})).await;
    let path = format!("/sandboxes/{id}/timeout");
    let timeout = async |seconds: i64| {
        service.client.post(&path, &json!({"timeout": seconds})).await.status.as_u16()
    };
    assert_eq!(timeout(1000).await, 204);
    check_left(&service, &id, 1000);
    assert_eq!(timeout(50).await, 204);
    check_left(&service, &id, 50);
    assert_eq!(timeout(1_000_000).await, 204);
    check_left(&service, &id, 24 * 3600);
    assert_eq!(timeout(-1).await, 400);
    assert_eq!(timeout(5_000_000_000).await, 400);
    assert_eq!(timeout(0).await, 204);
    service.gone(&id).await;
    assert_eq!(timeout(10).await, 404);
    service.stop().await;
}

#[tokio::test]
async fn the_new_end_is_told_at_once() {
    let service = Service::start().await;
    let id = service.create(json!({"timeout": 100})).await;
    let before = end_at(&service, &id).await;
    service.client.post(&format!("/sandboxes/{id}/timeout"), &json!({"timeout": 500})).await;
    let after = end_at(&service, &id).await;
    assert!(after > before, "{before} {after}");
    service.stop().await;
}

#[tokio::test]
async fn a_sandbox_past_its_longest_life_gets_no_more() {
    let service =
        Service::start_with(|config| config.limits.sandbox_length = Duration::from_secs(1)).await;
    let id = service.create(json!({"timeout": 1})).await;
    // Asked only when its longest life is over: an earlier request would move its end.
    let began = Instant::now();
    crate::service::wait_for(async || began.elapsed() > Duration::from_millis(1100)).await;
    let path = format!("/sandboxes/{id}/timeout");
    let answer = service.client.post(&path, &json!({"timeout": 1000})).await;
    assert!(answer.error(400).contains("create another"));
    service.stop().await;
}

#[tokio::test]
async fn connect_answers_a_running_sandbox_and_only_lengthens_its_life() {
    let service = Service::start().await;
    let id = service.create(json!({"timeout": 100, "secure": true})).await;
    for (path, body, expected) in [
        (format!("/sandboxes/{id}/connect"), json!({"timeout": 10}), 100),
        (format!("/sandboxes/{id}/connect"), json!({"timeout": 0}), 100),
        (format!("/sandboxes/{id}/connect"), json!({"timeout": 200, "memory": true}), 200),
        (format!("/v2/sandboxes/{id}/connect"), json!({}), 300),
        (format!("/v2/sandboxes/{id}/connect"), json!({"timeout": 400}), 400),
    ] {
        let sandbox = service.client.post(&path, &body).await.ok(200);
        assert_eq!(sandbox["sandboxID"], id.as_str());
        assert_eq!(sandbox["envdAccessToken"].as_str().unwrap().len(), 64);
        check_left(&service, &id, expected);
    }
    let path = format!("/sandboxes/{id}/connect");
    for body in [json!({}), json!({"timeout": -1}), json!({"timeout": 90_000})] {
        service.client.post(&path, &body).await.error(400);
    }
    // Of one that runs nothing is started anew.
    service.client.post(&path, &json!({"timeout": 1, "memory": false})).await.ok(200);
    service.node.end(&id, EndReason::Crashed);
    service.gone(&id).await;
    service.client.post(&path, &json!({"timeout": 1})).await.error(404);
    service.stop().await;
}

#[tokio::test]
async fn a_refresh_never_shortens_and_lasts_at_least_fifteen_seconds() {
    let service = Service::start().await;
    let id = service.create(json!({"timeout": 5})).await;
    let path = format!("/sandboxes/{id}/refreshes");
    for (body, expected) in [
        (json!({}), 15),
        (json!({"duration": 1}), 15),
        (json!({"duration": 60}), 60),
        (json!({"duration": 20}), 60),
    ] {
        assert_eq!(service.client.post(&path, &body).await.status, 204);
        check_left(&service, &id, expected);
    }
    for duration in [-1, 3601] {
        service.client.post(&path, &json!({"duration": duration})).await.error(400);
    }
    service.client.send("POST", &path, "").await.error(400);
    service.stop().await;
}
