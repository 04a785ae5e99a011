//! Several who want the same paused sandbox, and what they ask for.

use model::{EndReason, Keep, OnTimeout, SandboxId};
use serde_json::json;
use tokio::sync::oneshot;

use crate::fake_node::ADDR;
use crate::service::{Service, wait_for};

async fn paused(service: &Service) -> SandboxId {
    let id = service.create(json!({"autoPause": true})).await;
    assert_eq!(service.pause(&id, json!({})).await, 204);
    id
}

#[tokio::test]
async fn of_many_who_connect_one_starts_it_and_all_get_it() {
    let service = Service::start().await;
    let id = paused(&service).await;
    service.node.hold_resumes(true);
    let let_go = async {
        wait_for(async || *service.node.held_resumes.borrow() == 1).await;
        assert_eq!(service.detail(&id).await["state"], "paused");
        let path = format!("/sandboxes/{id}");
        let timeout = json!({"timeout": 9});
        service.client.post(&format!("{path}/timeout"), &timeout).await.error(409);
        let files = json!({"timeout": 9, "memory": false});
        let answer = service.client.post(&format!("{path}/connect"), &files).await;
        answer.error(409);
        assert_eq!(answer.json()["error_code"], "sandbox_start_in_flight");
        service.node.hold_resumes(false);
    };
    let connect = async || service.connect(&id).await;
    let resume = async || {
        let path = format!("/sandboxes/{id}/resume");
        service.client.post(&path, &json!({"timeout": 20})).await.status.as_u16()
    };
    let all = tokio::join!(connect(), connect(), connect(), resume(), let_go);
    assert_eq!((all.0, all.1, all.2), (201, 201, 201));
    assert!(all.3 == 201, "{}", all.3);
    assert_eq!(service.node.asked_for(), (1, 1, 0));
    let lives = service.node.ends_at(&id).duration_since(std::time::SystemTime::now()).unwrap();
    assert!(lives.as_secs() > 250, "whoever asked for the most time has it");
    service.stop().await;
}

#[tokio::test]
async fn resume_refuses_what_runs_and_may_change_what_comes_of_its_end() {
    let service = Service::start().await;
    let id = paused(&service).await;
    let path = format!("/sandboxes/{id}/resume");
    service.client.post(&path, &json!({"timeout": 0})).await.error(400);
    let answer = service.client.post(&path, &json!({"autoPause": false})).await;
    answer.ok(201);
    assert_eq!(service.node.last_spec().ttl.as_secs(), 15);
    assert_eq!(service.node.last_spec().on_timeout, OnTimeout::Kill);
    assert_eq!(service.detail(&id).await["lifecycle"]["onTimeout"], "kill");
    assert!(service.client.post(&path, &json!({})).await.error(409).contains("connect to it"));
    service.client.delete(&format!("/sandboxes/{id}")).await;
    service.client.post(&path, &json!({})).await.error(404);
    service.stop().await;
}

#[tokio::test]
async fn a_connect_may_ask_for_a_start_from_files() {
    let service = Service::start().await;
    let id = paused(&service).await;
    let run = service.node.lifecycle(&id);
    let body = json!({"timeout": 60, "memory": false});
    service.client.post(&format!("/v2/sandboxes/{id}/connect"), &body).await.ok(201);
    assert_eq!(service.node.last_keep(), Some(Keep::Files));
    assert_ne!(service.node.lifecycle(&id), run);
    assert_eq!(service.routes.addr(&id), Some(ADDR));
    service.stop().await;
}

#[tokio::test]
async fn a_sandbox_can_be_deleted_in_every_state() {
    let service = Service::start().await;
    let path = |id: &SandboxId| format!("/sandboxes/{id}");
    // Paused, with and without its memory.
    for memory in [true, false] {
        let id = service.create(json!({})).await;
        service.pause(&id, json!({"memory": memory})).await;
        assert_eq!(service.client.delete(&path(&id)).await.status, 204);
        assert!(!service.node.has(&id));
        service.client.get(&path(&id)).await.error(404);
        service.client.delete(&path(&id)).await.error(404);
        assert_eq!(service.explain(&id).await["ended"]["reason"], "request");
    }
    // On its way to a pause: the kill wins.
    let id = service.create(json!({})).await;
    service.node.hold_pauses(true);
    let kill = async {
        wait_for(async || *service.node.held_pauses.borrow() == 3).await;
        let killed = service.client.delete(&path(&id)).await.status;
        service.node.hold_pauses(false);
        killed
    };
    let (pause, killed) = tokio::join!(service.pause(&id, json!({})), kill);
    assert_eq!((pause, killed.as_u16()), (404, 204));
    assert!(!service.node.has(&id));
    service.client.get(&path(&id)).await.error(404);
    // On its way from one.
    let id = paused(&service).await;
    service.node.hold_resumes(true);
    let kill = async {
        wait_for(async || *service.node.held_resumes.borrow() == 1).await;
        let killed = service.client.delete(&path(&id)).await.status;
        service.node.hold_resumes(false);
        killed
    };
    let (connect, killed) = tokio::join!(service.connect(&id), kill);
    assert!(connect == 404 || connect == 409, "{connect}");
    assert_eq!(killed, 204);
    assert!(!service.node.has(&id));
    assert_eq!(service.routes.count(), 0);
    service.stop().await;
}

#[tokio::test]
async fn while_a_kill_is_not_confirmed_nobody_pauses_or_resumes_it() {
    let service = Service::start().await;
    let id = service.create(json!({})).await;
    service.node.hold_kills(true);
    let path = format!("/sandboxes/{id}");
    let others = async {
        wait_for(async || *service.node.kills.borrow() == 1).await;
        assert_eq!(service.pause(&id, json!({})).await, 404);
        assert_eq!(service.connect(&id).await, 409);
        service.client.post(&format!("{path}/resume"), &json!({})).await.error(404);
        service.node.hold_kills(false);
    };
    let (killed, ()) = tokio::join!(service.client.delete(&path), others);
    assert_eq!(killed.status, 204);
    assert_eq!(service.node.asked_for(), (0, 0, 0));
    service.stop().await;
}

#[tokio::test]
async fn a_sandbox_that_dies_while_it_is_paused_is_gone() {
    let service = Service::start().await;
    let id = paused(&service).await;
    service.node.end(&id, EndReason::Crashed);
    service.gone(&id).await;
    let id = paused(&service).await;
    service.node.lose(&id);
    assert_eq!(service.connect(&id).await, 404, "its node does not have it");
    service.gone(&id).await;
    assert_eq!(service.explain(&id).await["ended"]["reason"], "lost");
    service.stop().await;
}

#[tokio::test]
async fn one_that_goes_on_is_not_ended_because_somebody_else_has_seen_it_first() {
    let service = Service::start().await;
    let id = service.create(json!({"timeout": 100})).await;
    let node = service.node.clone();
    // Who moves its end hears that it does not run, and is slow to look why.
    node.pause_unheard(&id, true);
    node.hold_ends(true);
    let before = *node.held_ends.borrow();
    let post = async |what: &str, timeout: u32| {
        let path = format!("/sandboxes/{id}/{what}");
        service.client.post(&path, &json!({"timeout": timeout})).await.status
    };
    let (tell, moved) = oneshot::channel();
    let moving = async {
        let status = post("timeout", 50).await;
        tell.send(()).unwrap();
        status
    };
    let meanwhile = async {
        wait_for(async || *node.held_ends.borrow() > before).await;
        service.compare();
        service.is(&id, "paused").await;
        // Another lets it go on, and its node is slow to say that it does.
        node.hold_answers(true);
        let looked_at = async {
            wait_for(async || *node.resumed.borrow() == 1).await;
            node.hold_ends(false);
            moved.await.unwrap();
            node.hold_answers(false);
        };
        tokio::join!(post("connect", 300), looked_at).0
    };
    let (moved, connected) = tokio::join!(moving, meanwhile);
    assert_eq!((moved.as_u16(), connected.as_u16()), (404, 201));
    assert_eq!(service.detail(&id).await["state"], "running");
    assert_eq!(service.routes.addr(&id), Some(ADDR));
    assert!(node.has(&id));
    service.stop().await;
}
