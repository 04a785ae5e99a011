//! What became of a sandbox, told to its team.

use std::time::{Duration, SystemTime};

use e2b_wire::ApiKey;
use model::EndReason;
use node_wire::{CreateError, ExplainedStep, Explanation};
use serde_json::{Value, json};

use crate::service::Service;

fn whats(explained: &Value) -> Vec<&str> {
    let timeline = explained["timeline"].as_array().unwrap();
    timeline.iter().map(|moment| moment["what"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_killed_sandbox_is_explained_from_its_request_to_its_release() {
    let service = Service::start().await;
    let id = service.create(json!({"timeout": 100})).await;
    let path = format!("/sandboxes/{id}");
    let running = service.explain(&id).await;
    assert_eq!(running["state"], "running");
    assert_eq!(running["nodeID"], "node-1");
    assert_eq!((&running["ended"], &running["onNode"]), (&Value::Null, &Value::Null));
    assert_eq!(whats(&running), ["asked", "started"]);
    for timeout in [200, 300] {
        let body = json!({"timeout": timeout});
        let moved = service.client.post(&format!("{path}/timeout"), &body).await;
        assert_eq!(moved.status, 204);
    }
    assert_eq!(service.client.delete(&path).await.status, 204);
    let ended = service.explain(&id).await;
    assert_eq!(ended["state"], "ended");
    assert_eq!(ended["ended"]["reason"], "request");
    assert_eq!(ended["ended"]["message"], "somebody asked for its end");
    let all = ["asked", "started", "end-moved", "kill-asked", "ended", "released"];
    assert_eq!(whats(&ended), all);
    assert!(ended["timeline"][2]["detail"].as_str().unwrap().contains("moved 2 times"), "{ended}");
    // The same after a restart: it is the record that says it.
    let service = service.restart(|_| {}).await;
    assert_eq!(service.explain(&id).await, ended);
    service.stop().await;
}

#[tokio::test]
async fn what_the_node_remembers_of_this_run_is_told_too() {
    let service = Service::start().await;
    let id = service.create(json!({})).await;
    let lifecycle = service.node.lifecycle(&id);
    let step = |name: &str, took, error: Option<&str>| ExplainedStep {
        at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        name: name.to_owned(),
        took,
        error: error.map(str::to_owned),
    };
    service.node.explain_with(Explanation {
        lifecycle: lifecycle.clone(),
        steps: vec![
            step("slot", Some(Duration::from_micros(1500)), None),
            step("mounts", None, Some("busy")),
        ],
        failed_step: Some("mounts".to_owned()),
        output: vec!["Killed".to_owned()],
        memory_peak_bytes: Some(512 << 20),
        cpu_time: Some(Duration::from_millis(77)),
        reclaimed: vec!["a cgroup".to_owned()],
    });
    service.node.end(&id, EndReason::Crashed);
    service.gone(&id).await;
    let explained = service.explain(&id).await;
    assert_eq!(explained["ended"]["reason"], "crashed");
    assert_eq!(
        explained["onNode"],
        json!({
            "lifecycleID": lifecycle.as_str(),
            "steps": [
                {"at": "2023-11-14T22:13:20Z", "name": "slot", "tookMs": 1.5},
                {"at": "2023-11-14T22:13:20Z", "name": "mounts", "error": "busy"},
            ],
            "failedStep": "mounts",
            "output": ["Killed"],
            "memoryPeakBytes": 512 << 20,
            "cpuMs": 77,
            "reclaimed": ["a cgroup"],
        })
    );
    service.stop().await;
}

#[tokio::test]
async fn a_start_that_failed_is_explained_without_what_is_the_hosts() {
    let service = Service::start().await;
    let message = "/var/lib/secret is full".to_owned();
    service.node.fail_next(CreateError::Failed { step: "slot", message });
    let body = json!({"templateID": "base"});
    let client = service.client.with("idempotency-key", "key");
    client.post("/v2/sandboxes", &body).await.error(500);
    let id = service.node.last_asked();
    let explained = service.explain(&id).await;
    assert_eq!(explained["ended"]["reason"], "start-failed");
    assert_eq!(explained["ended"]["detail"], "its start failed in step slot");
    assert_eq!(whats(&explained)[..2], ["asked", "ended"]);
    assert!(!explained.to_string().contains("secret"), "{explained}");
    service.stop().await;
}

#[tokio::test]
async fn only_its_team_gets_an_explanation_and_only_while_its_record_is_kept() {
    let service = Service::start().await;
    let id = service.create(json!({})).await;
    let path = format!("/sandboxes/{id}/explain");
    service.client.without("x-api-key").get(&path).await.error(401);
    let stranger = service.client.without("x-api-key");
    let stranger = stranger.with("x-api-key", &ApiKey::generate().expose());
    stranger.get(&path).await.error(401);
    let never = service.client.get("/sandboxes/inever/explain").await;
    assert!(never.error(404).contains("no record"));
    service.client.get("/sandboxes/UPPER/explain").await.error(400);
    service.stop().await;
}
