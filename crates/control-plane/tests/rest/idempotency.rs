use node_wire::CreateError;
use serde_json::{Value, json};

use crate::client::{Answer, Client};
use crate::service::Service;

async fn create(client: &Client, key: &str, body: &Value) -> Answer {
    client.with("idempotency-key", key).post("/v2/sandboxes", body).await
}

#[tokio::test]
async fn the_same_request_is_answered_the_same_and_made_once() {
    let service = Service::start().await;
    let body = json!({"templateID": "base", "metadata": {"n": "1"}});
    let first = create(&service.client, "key-1", &body).await.ok(201);
    let again = create(&service.client, "key-1", &body).await.ok(201);
    assert_eq!(first, again);
    let other_key = create(&service.client, "key-2", &body).await.ok(201);
    assert_ne!(first["sandboxID"], other_key["sandboxID"]);
    assert_eq!(service.node.count(), 2);

    let service = service.restart(|_| {}).await;
    assert_eq!(create(&service.client, "key-1", &body).await.ok(201), first);
    assert_eq!(service.node.count(), 2);
    service.stop().await;
}

#[tokio::test]
async fn a_key_with_another_body_is_refused() {
    let service = Service::start().await;
    create(&service.client, "key", &json!({"templateID": "base"})).await.ok(201);
    let answer = create(&service.client, "key", &json!({"templateID": "base", "timeout": 9})).await;
    answer.error(422);
    assert_eq!(answer.json()["error_code"], "idempotency_request_mismatch");
    create(&service.client, "NOT LEGAL", &json!({"templateID": "base"})).await.error(400);
    service.stop().await;
}

#[tokio::test]
async fn a_request_under_way_is_told_to_come_back() {
    let service = Service::start().await;
    service.node.hold_creates(true);
    let body = json!({"templateID": "base"});
    let first = create(&service.client, "key", &body);
    let second = async {
        let mut begun = service.node.begun.subscribe();
        begun.wait_for(|begun| *begun == 1).await.unwrap();
        let answer = create(&service.client, "key", &body).await;
        answer.error(409);
        assert_eq!(answer.json()["error_code"], "idempotency_in_progress");
        assert_eq!(answer.header("should-retry"), Some("true"));
        assert_eq!(answer.header("retry-after"), Some("1"));
        service.node.hold_creates(false);
    };
    let (first, ()) = tokio::join!(first, second);
    let first = first.ok(201);
    assert_eq!(create(&service.client, "key", &body).await.ok(201), first);
    service.stop().await;
}

#[tokio::test]
async fn a_failed_request_may_be_tried_again_with_its_key() {
    let service = Service::start().await;
    let body = json!({"templateID": "base"});
    for error in [CreateError::Full { limit: 1 }, CreateError::Cancelled] {
        service.node.fail_next(error);
        assert!(create(&service.client, "key", &body).await.status.as_u16() >= 400);
    }
    create(&service.client, "key", &body).await.ok(201);
    assert_eq!(service.node.count(), 1);
    service.stop().await;
}

#[tokio::test]
async fn a_team_at_its_limit_still_gets_the_answer_it_missed() {
    let service = Service::start_with(|config| config.limits.team_sandboxes = 1).await;
    let body = json!({"templateID": "base"});
    let first = create(&service.client, "key", &body).await.ok(201);
    assert_eq!(create(&service.client, "key", &body).await.ok(201), first);
    create(&service.client, "other", &body).await.error(429);
    service.stop().await;
}

#[tokio::test]
async fn an_expired_key_is_a_new_request() {
    let service = Service::start_with(|config| {
        config.limits.idempotency = std::time::Duration::ZERO;
    })
    .await;
    let body = json!({"templateID": "base"});
    let first = create(&service.client, "key", &body).await.ok(201);
    let second = create(&service.client, "key", &body).await.ok(201);
    assert_ne!(first["sandboxID"], second["sandboxID"]);
    service.stop().await;
}
