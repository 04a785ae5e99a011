//! Sandboxes whose guest agent gives no sign of life when they are to be paused.

use model::{Keep, SandboxId};
use node_wire::{Knock, WakeError};
use serde_json::{Value, json};

use crate::fake_node::ADDR;
use crate::service::{Service, wait_for};

/// What clients read to know that only the files can be started.
const CODE: &str = "sandbox_snapshot_guest_agent_unresponsive";

fn path(id: &SandboxId, what: &str) -> String {
    format!("/sandboxes/{id}/{what}")
}

impl Service {
    /// What is said of its agent, by itself and in a list.
    async fn said_of(&self, id: &SandboxId) -> [Value; 2] {
        let listed = self.client.get("/v2/sandboxes").await.ok(200);
        let rows = listed.as_array().unwrap().iter();
        let row = rows.clone().find(|row| row["sandboxID"] == id.as_str()).unwrap();
        [self.detail(id).await, row.clone()].map(|told| {
            let said = told.get("envdUnresponsiveAtPause").cloned();
            assert_ne!(said, Some(Value::Null), "clients do not read null here");
            said.unwrap_or_default()
        })
    }

    async fn silent(&self, more: Value) -> SandboxId {
        let id = self.create(more).await;
        self.node.silence_agents(true);
        assert_eq!(self.pause(&id, json!({})).await, 204);
        self.node.silence_agents(false);
        id
    }
}

#[tokio::test]
async fn a_pause_that_needs_the_agent_is_refused_and_nothing_of_the_sandbox_is_touched() {
    let service = Service::start().await;
    let id = service.create(json!({})).await;
    let before = service.detail(&id).await;
    let published = service.routes.changes();
    service.node.silence_agents(true);
    for body in [json!({"requireHealthyGuest": true}), json!({"memory": false})] {
        let answer = service.client.post(&path(&id, "pause"), &body).await;
        assert_eq!(answer.header("retry-after"), Some("1"));
        assert!(answer.error(503).contains("does not answer"));
        assert_eq!(service.detail(&id).await, before);
        assert_eq!(service.routes.addr(&id), Some(ADDR));
    }
    assert_eq!(service.routes.changes(), published, "its connections are those it had");
    service.node.silence_agents(false);
    let strict = json!({"memory": true, "requireHealthyGuest": true});
    assert_eq!(service.pause(&id, strict).await, 204);
    assert_eq!(service.routes.addr(&id), None);
    assert_eq!(service.said_of(&id).await, [Value::Null, Value::Null]);
    service.stop().await;
}

#[tokio::test]
async fn a_memory_with_a_silent_agent_is_told_and_only_the_files_are_started() {
    let service = Service::start().await;
    let id = service.silent(json!({"autoPause": true, "autoResume": {"enabled": true}})).await;
    assert_eq!(service.said_of(&id).await, [json!(true), json!(true)]);
    assert_eq!(service.detail(&id).await["pauseMode"], "full");
    let service = service.restart(|_| {}).await;
    assert_eq!(service.said_of(&id).await, [json!(true), json!(true)]);
    for (what, body) in [
        ("connect", json!({"timeout": 60})),
        ("connect", json!({"timeout": 60, "memory": true})),
        ("resume", json!({})),
    ] {
        let answer = service.client.post(&path(&id, what), &body).await;
        assert_eq!(answer.json()["error_code"], CODE, "{what}");
        assert!(answer.error(409).contains("memory: false"));
    }
    let stranger = Knock::default();
    assert_eq!(service.plane.waker().wake(&id, stranger).await, Err(WakeError::NotFound));
    assert_eq!(service.node.asked_for().1, 0, "its node was not asked");
    let anew = json!({"timeout": 60, "memory": false});
    service.client.post(&path(&id, "connect"), &anew).await.ok(201);
    assert_eq!(service.node.last_keep(), Some(Keep::Files));
    assert_eq!(service.said_of(&id).await, [Value::Null, Value::Null]);
    assert_eq!(service.pause(&id, json!({})).await, 204);
    assert_eq!(service.said_of(&id).await, [Value::Null, Value::Null]);
    assert_eq!(service.connect(&id).await, 201);
    service.stop().await;
}

#[tokio::test]
async fn a_pause_by_its_node_and_a_record_made_anew_say_it_too_and_lost_memory_does_not() {
    let service = Service::start().await;
    let id = service.create(json!({"autoPause": true})).await;
    service.node.silence_agents(true);
    service.node.pause_by_itself(&id, Keep::Memory).await;
    wait_for(async || service.detail(&id).await["pauseMode"] == "full").await;
    assert_eq!(service.said_of(&id).await, [json!(true), json!(true)]);
    let service = service.restart_without_records(|_| {}).await;
    service.shows(&id, "paused").await;
    assert_eq!(service.said_of(&id).await, [json!(true), json!(true)]);
    service.node.lose_memory(&id, true);
    wait_for(async || service.detail(&id).await["pauseMode"] == "filesystem").await;
    assert_eq!(service.said_of(&id).await, [Value::Null, Value::Null]);
    assert_eq!(service.connect(&id).await, 201, "there is nothing of the agent that was");
    service.stop().await;
}

#[tokio::test]
async fn who_asks_for_less_than_another_is_not_refused_with_it() {
    let service = Service::start().await;
    let id = service.create(json!({})).await;
    service.node.silence_agents(true);
    let strict = json!({"requireHealthyGuest": true});
    let (strict, plain) = tokio::join!(service.pause(&id, strict), service.pause(&id, json!({})));
    assert!([204, 503, 409].contains(&strict), "{strict}");
    assert_eq!(plain, 204);
    assert_eq!(service.detail(&id).await["state"], "paused");
    service.stop().await;
}

#[tokio::test]
async fn who_asks_for_less_while_the_node_is_asked_for_more_is_not_refused_with_it_either() {
    let service = Service::start().await;
    let id = service.create(json!({})).await;
    service.node.silence_agents(true);
    service.node.hold_pauses(true);
    let asked = tokio::sync::Notify::new();
    let plain = async {
        wait_for(async || *service.node.held_pauses.borrow() == 1).await;
        asked.notify_one();
        service.pause(&id, json!({})).await
    };
    let let_go = async {
        asked.notified().await;
        for _ in 0..10 {
            assert_eq!(service.detail(&id).await["state"], "paused", "on its way there");
        }
        service.node.hold_pauses(false);
    };
    let strict = service.pause(&id, json!({"requireHealthyGuest": true}));
    let (strict, plain, ()) = tokio::join!(strict, plain, let_go);
    assert_eq!((strict, plain), (503, 204));
    service.stop().await;
}

/// 409 says to clients that it is paused, which would be wrong.
#[tokio::test]
async fn a_pause_that_is_not_possible_now_is_refused_with_503() {
    let service = Service::start().await;
    let id = service.create(json!({})).await;
    service.node.fail_next_pause(node_wire::PauseError::Busy(id.to_string()));
    let busy = service.client.post(&path(&id, "pause"), &json!({})).await;
    assert!(busy.error(503).contains("try again"));
    assert_eq!(service.detail(&id).await["state"], "running");
    assert_eq!(service.pause(&id, json!({})).await, 204);
    service.client.post(&path(&id, "pause"), &json!({})).await.error(409);
    service.stop().await;
}
