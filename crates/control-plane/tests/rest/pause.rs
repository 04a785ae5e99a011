//! Pausing sandboxes and letting them go on.

use model::{Keep, NodePhase, OnTimeout, SandboxId};
use node_wire::{CreateError, PauseError};
use serde_json::{Value, json};

use crate::fake_node::{ADDR, Fault};
use crate::service::{Service, wait_for};

fn path(id: &SandboxId, what: &str) -> String {
    format!("/sandboxes/{id}/{what}")
}

impl Service {
    pub(crate) async fn pause(&self, id: &SandboxId, body: Value) -> u16 {
        self.client.post(&path(id, "pause"), &body).await.status.as_u16()
    }

    pub(crate) async fn connect(&self, id: &SandboxId) -> u16 {
        self.client.post(&path(id, "connect"), &json!({"timeout": 300})).await.status.as_u16()
    }

    /// What a client sees of it.
    pub(crate) async fn detail(&self, id: &SandboxId) -> Value {
        self.client.get(&format!("/sandboxes/{id}")).await.ok(200)
    }

    /// Waits until a client sees it in this state.
    pub(crate) async fn shows(&self, id: &SandboxId, state: &str) {
        wait_for(async || self.detail(id).await["state"] == state).await;
    }
}

#[tokio::test]
async fn a_paused_sandbox_is_shown_and_cannot_be_reached_until_it_goes_on() {
    let service = Service::start().await;
    let id = service.create(json!({"metadata": {"a": "b"}, "timeout": 100})).await;
    let before = service.detail(&id).await;
    assert_eq!(before["pauseMode"], Value::Null);
    assert_eq!(service.pause(&id, json!({"memory": true})).await, 204);
    assert_eq!(service.routes.addr(&id), None);
    let paused = service.detail(&id).await;
    assert_eq!((&paused["state"], &paused["pauseMode"]), (&json!("paused"), &json!("full")));
    assert_eq!(paused["startedAt"], before["startedAt"]);
    assert!(paused["endAt"].as_str() < before["endAt"].as_str(), "the time of the pause");
    let again = service.client.post(&path(&id, "pause"), &json!({})).await;
    assert!(again.error(409).contains("paused already"));
    let connect = service.client.post(&path(&id, "connect"), &json!({"timeout": 77})).await;
    let sandbox = connect.ok(201);
    assert_eq!(sandbox["sandboxID"], id.as_str());
    assert_eq!(service.routes.addr(&id), Some(ADDR));
    let after = service.detail(&id).await;
    assert_eq!((&after["state"], &after["metadata"]), (&json!("running"), &json!({"a": "b"})));
    assert_eq!(after["pauseMode"], Value::Null);
    assert_eq!(service.connect(&id).await, 200, "it runs");
    assert_eq!(service.node.asked_for(), (1, 1, 0));
    service.stop().await;
}

#[tokio::test]
async fn a_pause_without_a_body_keeps_everything_and_one_of_files_says_so() {
    let service = Service::start().await;
    let id = service.create(json!({"envVars": {"K": "v"}})).await;
    assert_eq!(service.client.send("POST", &path(&id, "pause"), "").await.status, 204);
    assert_eq!(service.node.last_keep(), Some(Keep::Memory));
    assert_eq!(service.connect(&id).await, 201);
    assert_eq!(service.pause(&id, json!({"memory": false})).await, 204);
    assert_eq!(service.node.last_keep(), Some(Keep::Files));
    assert_eq!(service.detail(&id).await["pauseMode"], "filesystem");
    assert_eq!(service.connect(&id).await, 201);
    let spec = service.node.last_spec();
    assert_eq!(spec.env.get("K").map(String::as_str), Some("v"), "a start from files needs it");
    service.stop().await;
}

#[tokio::test]
async fn only_ones_own_sandbox_that_runs_can_be_paused() {
    let service = Service::start().await;
    let id = service.create(json!({})).await;
    for what in ["pause", "resume", "fork", "snapshots", "connect"] {
        let body = json!({"timeout": 15});
        service.client.post(&path(&"inever".parse().unwrap(), what), &body).await.error(404);
        service.client.without("x-api-key").post(&path(&id, what), &body).await.error(401);
    }
    service.client.post("/sandboxes/not_an_id/pause", &json!({})).await.error(400);
    service.client.delete(&format!("/sandboxes/{id}")).await;
    service.client.post(&path(&id, "pause"), &json!({})).await.error(404);
    service.stop().await;
}

#[tokio::test]
async fn the_time_of_a_paused_sandbox_does_not_run_and_cannot_be_moved() {
    let service = Service::start().await;
    let id = service.create(json!({"timeout": 100})).await;
    service.pause(&id, json!({})).await;
    service.client.post(&path(&id, "timeout"), &json!({"timeout": 5})).await.error(404);
    service.client.post(&path(&id, "refreshes"), &json!({"duration": 50})).await.error(404);
    let network = service.client.put(&path(&id, "network"), &json!({"denyOut": []})).await;
    assert!(network.error(409).contains("connect to it first"));
    service.stop().await;
}

#[tokio::test]
async fn a_second_pause_joins_the_first_and_a_connect_waits_for_it() {
    let service = Service::start().await;
    let id = service.create(json!({})).await;
    service.node.hold_pauses(true);
    let let_go = async {
        wait_for(async || *service.node.held_pauses.borrow() == 1).await;
        assert_eq!(service.detail(&id).await["state"], "paused", "it cannot be reached any more");
        assert_eq!(service.routes.addr(&id), None);
        let timeout = json!({"timeout": 5});
        service.client.post(&path(&id, "timeout"), &timeout).await.error(409);
        service.client.put(&path(&id, "network"), &json!({})).await.error(409);
        service.client.post(&path(&id, "snapshots"), &json!({})).await.error(409);
        service.node.hold_pauses(false);
    };
    let pause = async || service.pause(&id, json!({})).await;
    let (first, second, ()) = tokio::join!(pause(), pause(), let_go);
    assert_eq!((first, second), (204, 204));
    assert_eq!(service.node.asked_for(), (1, 0, 0));
    service.connect(&id).await;

    service.node.hold_pauses(true);
    let let_go = async {
        wait_for(async || *service.node.held_pauses.borrow() == 2).await;
        service.node.hold_pauses(false);
    };
    let (paused, connected, ()) = tokio::join!(
        pause(),
        async {
            wait_for(async || *service.node.held_pauses.borrow() == 2).await;
            service.connect(&id).await
        },
        let_go
    );
    assert_eq!((paused, connected), (204, 201));
    assert_eq!(service.detail(&id).await["state"], "running");
    service.stop().await;
}

#[tokio::test]
async fn a_pause_that_fails_leaves_it_running_and_reachable_or_says_that_it_is_gone() {
    let service = Service::start().await;
    let rows = [
        (PauseError::Failed("/secret/path".into()), 500),
        (PauseError::DiskFull { free_mib: 1, reserve_mib: 2 }, 503),
        (PauseError::Limit("too deep".into()), 400),
        (PauseError::Busy("i".into()), 503),
        (PauseError::AgentSilent("i".into()), 503),
    ];
    let id = service.create(json!({})).await;
    for (error, status) in rows {
        service.node.fail_next_pause(error);
        let message = service.client.post(&path(&id, "pause"), &json!({})).await.error(status);
        assert!(!message.contains("/secret"), "{message}");
        assert_eq!(service.detail(&id).await["state"], "running");
        assert_eq!(service.routes.addr(&id), Some(ADDR));
    }
    service.node.fail_next_pause(PauseError::Lost("freeze: broken".into()));
    service.client.post(&path(&id, "pause"), &json!({})).await.error(500);
    service.gone(&id).await;
    service.stop().await;
}

#[tokio::test]
async fn a_start_from_a_pause_that_fails_leaves_it_paused() {
    let service = Service::start().await;
    let id = service.create(json!({})).await;
    service.pause(&id, json!({})).await;
    let rows = [
        (CreateError::Full { limit: 1 }, 503),
        (CreateError::Failed { step: "boot", message: String::new() }, 500),
        (CreateError::Expired { step: "boot", limit_ms: 1 }, 504),
        (CreateError::Cancelled, 409),
    ];
    for (error, status) in rows {
        service.node.fail_next_resume(error);
        let answer = service.client.post(&path(&id, "connect"), &json!({"timeout": 30})).await;
        answer.error(status);
        assert_eq!(service.detail(&id).await["state"], "paused");
        assert_eq!(service.routes.addr(&id), None);
    }
    service.node.set_phase(NodePhase::Draining);
    let answer = service.client.post(&path(&id, "connect"), &json!({"timeout": 30})).await;
    assert!(answer.error(503).contains("draining"));
    service.node.set_phase(NodePhase::Healthy);
    assert_eq!(service.connect(&id).await, 201);
    service.stop().await;
}

#[tokio::test]
async fn what_a_create_says_of_its_end_is_told_to_the_node_and_shown() {
    let service = Service::start().await;
    for (body, on_timeout, shown) in [
        (json!({}), OnTimeout::Kill, json!({"autoResume": false, "onTimeout": "kill"})),
        (
            json!({"autoPause": true, "autoResume": {"enabled": true}}),
            OnTimeout::Pause(Keep::Memory),
            json!({"autoResume": true, "onTimeout": "pause"}),
        ),
        (
            json!({"autoPause": true, "autoPauseMemory": false}),
            OnTimeout::Pause(Keep::Files),
            json!({"autoResume": false, "onTimeout": "pause"}),
        ),
    ] {
        let id = service.create(body).await;
        assert_eq!(service.node.last_spec().on_timeout, on_timeout);
        assert_eq!(service.detail(&id).await["lifecycle"], shown);
        service.pause(&id, json!({})).await;
        service.connect(&id).await;
        assert_eq!(service.node.last_spec().on_timeout, on_timeout, "each run is under it");
        assert_eq!(service.detail(&id).await["lifecycle"], shown);
    }
    service.stop().await;
}

#[tokio::test]
async fn a_sandbox_that_its_node_pauses_by_itself_is_paused() {
    let service = Service::start().await;
    for (keep, mode) in [(Keep::Memory, "full"), (Keep::Files, "filesystem")] {
        let id = service.create(json!({"autoPause": true})).await;
        service.node.pause_by_itself(&id, keep).await;
        service.shows(&id, "paused").await;
        wait_for(async || service.detail(&id).await["pauseMode"] == mode).await;
        assert_eq!(service.routes.addr(&id), None);
        assert_eq!(service.connect(&id).await, 201);
        // Its processes went on with the same run: what is told of the first pause may come late.
        service.node.pause_by_itself(&id, keep).await;
        service.shows(&id, "paused").await;
        assert_eq!(service.connect(&id).await, 201);
        assert_eq!(service.routes.addr(&id), Some(ADDR));
    }
    service.stop().await;
}

#[tokio::test]
async fn one_that_its_node_pauses_while_it_tells_what_it_has_is_not_lost() {
    let service = Service::start().await;
    let id = service.create(json!({"autoPause": true})).await;
    // Of the second pause the events say nothing for sure.
    for _ in 0..2 {
        service.node.pause_behind_the_list(&id);
        service.compare();
        service.is(&id, "pausing").await;
        assert_eq!(service.routes.addr(&id), None);
        service.compare();
        service.is(&id, "paused").await;
        assert_eq!(service.connect(&id).await, 201);
    }
    service.stop().await;
}

#[tokio::test]
async fn a_connect_finds_what_its_node_paused_a_moment_ago() {
    let service = Service::start().await;
    let id = service.create(json!({"timeout": 10})).await;
    // Nobody has heard of it.
    service.node.pause_unheard(&id, true);
    assert_eq!(service.connect(&id).await, 201);
    service.node.pause_unheard(&id, true);
    service.client.post(&path(&id, "timeout"), &json!({"timeout": 60})).await.error(404);
    assert_eq!(service.detail(&id).await["state"], "paused");
    assert_eq!(service.connect(&id).await, 201);
    service.node.pause_unheard(&id, false);
    assert_eq!(service.pause(&id, json!({})).await, 204, "it is as it is asked to be");
    assert_eq!(service.detail(&id).await["pauseMode"], "filesystem");
    service.stop().await;
}

#[tokio::test]
async fn a_paused_sandbox_that_loses_its_memory_is_still_paused_and_starts_anew() {
    let service = Service::start().await;
    let (told, unheard) = (service.create(json!({})).await, service.create(json!({})).await);
    for id in [&told, &unheard] {
        service.pause(id, json!({})).await;
        let run = service.node.lifecycle(id);
        service.node.lose_memory(id, *id == told);
        if *id == unheard {
            service.compare();
        }
        wait_for(async || service.detail(id).await["pauseMode"] == "filesystem").await;
        assert_eq!(service.connect(id).await, 201);
        assert_ne!(service.node.lifecycle(id), run);
        assert_eq!(service.routes.addr(id), Some(ADDR));
    }
    service.stop().await;
}

#[tokio::test]
async fn lists_have_paused_ones_by_state_and_count_the_running() {
    let service = Service::start().await;
    let (paused, running) = (service.create(json!({})).await, service.create(json!({})).await);
    service.pause(&paused, json!({})).await;
    let (paused, running) = (paused.as_str(), running.as_str());
    assert_eq!(service.list("").await.len(), 2);
    assert_eq!(service.list("?state=paused").await, [paused]);
    assert_eq!(service.list("?state=running").await, [running]);
    assert_eq!(service.list("?state=running%2Cpaused").await.len(), 2);
    let all = service.client.get("/v2/sandboxes").await;
    assert_eq!(all.header("x-total-running"), Some("1"));
    let only = service.client.get("/v2/sandboxes?state=paused").await;
    assert_eq!(only.header("x-total-running"), None);
    assert_eq!(only.json()[0]["state"], "paused");
    let v1 = service.client.get("/sandboxes").await.ok(200);
    assert_eq!(v1.as_array().unwrap().len(), 1, "version 1 lists what runs");
    service.stop().await;
}

#[tokio::test]
async fn a_paused_sandbox_leaves_room_for_another_and_needs_room_to_go_on() {
    let service = Service::start_with(|config| config.limits.team_sandboxes = 2).await;
    let paused = service.create(json!({})).await;
    service.pause(&paused, json!({})).await;
    let (first, _second) = (service.create(json!({})).await, service.create(json!({})).await);
    let full = service.client.post(&path(&paused, "connect"), &json!({"timeout": 30})).await;
    assert!(full.error(429).contains("2 sandboxes"));
    assert_eq!(full.header("retry-after"), Some("1"));
    assert_eq!(service.detail(&paused).await["state"], "paused");
    service.client.delete(&format!("/sandboxes/{first}")).await;
    assert_eq!(service.connect(&paused).await, 201);
    service.stop().await;
}

#[tokio::test]
async fn explain_tells_of_pauses() {
    let service = Service::start().await;
    let id = service.create(json!({})).await;
    service.pause(&id, json!({"memory": false})).await;
    let explained = service.explain(&id).await;
    assert_eq!(explained["state"], "paused");
    assert!(explained["timeline"].to_string().contains("its files only; 1 times"), "{explained}");
    service.connect(&id).await;
    let words = service.explain(&id).await["timeline"].to_string();
    assert!(words.contains("\"paused\"") && words.contains("\"resumed\""), "{words}");
    service.stop().await;
}

#[tokio::test]
async fn a_node_that_is_away_does_not_lose_what_is_asked_of_it() {
    let service = Service::start().await;
    let id = service.create(json!({})).await;
    service.node.set_fault(Some(Fault::Unreachable));
    assert_eq!(service.pause(&id, json!({})).await, 503);
    service.node.set_fault(None);
    service.compare();
    service.shows(&id, "running").await;
    wait_for(async || service.routes.addr(&id) == Some(ADDR)).await;
    assert_eq!(service.pause(&id, json!({})).await, 204);
    service.node.set_fault(Some(Fault::Unreachable));
    assert_eq!(service.connect(&id).await, 503);
    service.node.set_fault(None);
    assert_eq!(service.connect(&id).await, 201);
    service.stop().await;
}
