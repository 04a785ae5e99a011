//! Our server and the client of another gRPC library: what E2B's services have no words for.

use model::SandboxId;
use node_wire::NodeApi as _;
use serde_json::{Value, json};
use tonic::Code;

use crate::dynamic::{self, Peer};
use crate::harness::{LIMIT, Service, within};
use crate::own_client::spec;

const LIST: &str = "/cofferdam.node.v1.NodeService/ListSandboxes";
const ENDINGS: &str = "/cofferdam.node.v1.NodeService/ListEndings";
const EXPLAIN: &str = "/cofferdam.node.v1.NodeService/ExplainSandbox";
const PAUSE: &str = "/cofferdam.node.v1.NodeService/PauseSandbox";
const RESUME: &str = "/cofferdam.node.v1.NodeService/ResumeSandbox";
const PAUSED: &str = "/cofferdam.node.v1.NodeService/ListPausedSandboxes";
const SNAPSHOT: &str = "/cofferdam.node.v1.NodeService/SnapshotSandbox";
const REMOVE: &str = "/cofferdam.node.v1.NodeService/RemoveTemplate";

async fn all(peer: &Peer, path: &str, asked: Value) -> Vec<Value> {
    let mut stream = peer.stream(path, asked).await.unwrap();
    let mut all = Vec::new();
    while let Some(message) = within(stream.message()).await.unwrap() {
        all.push(dynamic::json(&message));
    }
    all
}

#[tokio::test]
async fn it_is_told_where_a_sandbox_is_once_that_is_known() {
    let service = Service::start().await;
    let peer = Peer::connect(service.address).await;
    service.node.create(spec("i1"), LIMIT).await.unwrap();
    assert_eq!(all(&peer, LIST, json!({})).await[0]["address"], "10.213.0.7");
    let id: SandboxId = "i1".parse().unwrap();
    service.node.sandboxes.lock().get_mut(&id).unwrap().addr = None;
    assert_eq!(all(&peer, LIST, json!({})).await[0].get("address"), None);
    service.stop().await;
}

#[tokio::test]
async fn it_is_told_how_runs_have_ended() {
    let service = Service::start().await;
    let peer = Peer::connect(service.address).await;
    let told = all(&peer, ENDINGS, json!({ "sandboxes": ["i1", "i9"] })).await;
    let reasons: Vec<&str> = told.iter().map(|ending| ending["reason"].as_str().unwrap()).collect();
    let expected = ["END_REASON_TIMEOUT", "END_REASON_START_FAILED", "END_REASON_RECLAIMED"];
    assert_eq!(reasons, expected);
    let first = json!({
        "sandbox": "i1",
        "lifecycle": "l1",
        "reason": "END_REASON_TIMEOUT",
        "at": "1970-01-01T00:00:01.250Z",
        "detail": "\u{e9} 1",
    });
    assert_eq!(told[0], first);
    assert!(all(&peer, ENDINGS, json!({})).await.is_empty());
    let mut stream = peer.stream(ENDINGS, json!({ "sandboxes": ["NO"] })).await.unwrap();
    let refused = within(stream.message()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("sandboxes is not legal"), "{}", refused.message());
    service.stop().await;
}

#[tokio::test]
async fn it_is_told_what_is_remembered_of_a_run() {
    let service = Service::start().await;
    let peer = Peer::connect(service.address).await;
    let told = peer.call(EXPLAIN, json!({ "sandbox": "i1" })).await.unwrap();
    let told = &told["explanation"];
    assert_eq!(told["lifecycle"], "l5");
    let slot = json!({ "at": "1970-01-01T00:00:50.250Z", "name": "slot", "tookUs": "1234" });
    assert_eq!(told["steps"][0], slot);
    assert_eq!(told["steps"][1].get("tookUs"), None, "a moment");
    assert_eq!(
        (&told["steps"][2]["tookUs"], &told["steps"][2]["error"]),
        (&json!("0"), &json!("busy"))
    );
    assert_eq!(
        (&told["memoryPeakBytes"], &told["cpuTimeUs"]),
        (&json!("3221225472"), &json!("77"))
    );
    let other = json!({ "sandbox": "i1", "lifecycle": "l1" });
    assert_eq!(peer.call(EXPLAIN, other).await.unwrap(), json!({}));
    for wrong in [json!({}), json!({ "sandbox": "i1", "lifecycle": "NO" })] {
        assert_eq!(peer.refused(EXPLAIN, wrong).await.code(), Code::InvalidArgument);
    }
    service.stop().await;
}

#[tokio::test]
async fn it_pauses_and_resumes_and_makes_templates_of_sandboxes() {
    let service = Service::start().await;
    let peer = Peer::connect(service.address).await;
    service.node.create(spec("i1"), LIMIT).await.unwrap();
    let paused = peer.call(PAUSE, json!({ "sandbox": "i1", "keep": "KEEP_MEMORY" })).await.unwrap();
    let expected = json!({
        "id": "i1",
        "lifecycle": "l1",
        "team": "team-1",
        "template": "base",
        "build": "b-1",
        "resources": { "vcpus": 4, "memoryMib": "256", "diskMib": "99" },
        "metadata": { "metadata": "value \u{e9}" },
        "startedAt": "1970-01-01T00:00:40.250Z",
        "pausedAt": "1970-01-01T00:01:30.250Z",
        "memory": true,
    });
    assert_eq!(paused, expected);
    assert_eq!(all(&peer, PAUSED, json!({})).await, [expected]);
    assert_eq!(all(&peer, LIST, json!({})).await[0]["phase"], "SANDBOX_PHASE_PAUSED");

    let order = json!({ "id": "i1", "team": "team-1", "template": "base", "onTimeout": 3 });
    let asked = json!({ "spec": order, "keep": "KEEP_FILES", "limitMs": "1000" });
    let resumed = peer.call(RESUME, asked.clone()).await.unwrap();
    assert_eq!(resumed["route"]["lifecycle"], "l1again");
    assert_eq!(resumed.get("memory"), None, "it was started anew");
    let refused = peer.refused(RESUME, asked).await;
    assert_eq!(refused.code(), Code::AlreadyExists);

    let snapshot = json!({ "sandbox": "i1", "template": "s-1", "build": "b-9" });
    let made = peer.call(SNAPSHOT, snapshot).await.unwrap();
    assert_eq!(made, json!({ "template": "s-1", "build": "b-9", "haltedUs": "12345" }));
    peer.call(REMOVE, json!({ "template": "s-1" })).await.unwrap();
    assert_eq!(peer.refused(REMOVE, json!({ "template": "s-1" })).await.code(), Code::NotFound);
    service.stop().await;
}

#[tokio::test]
async fn a_pause_that_makes_no_sense_is_refused_with_the_field_that_is_wrong() {
    let service = Service::start().await;
    let peer = Peer::connect(service.address).await;
    service.node.create(spec("i1"), LIMIT).await.unwrap();
    let order = |on_timeout: i32| json!({ "id": "i1", "team": "team-1", "template": "base", "onTimeout": on_timeout });
    let rows = [
        (PAUSE, json!({ "sandbox": "i1" }), "keep has a value (0) that is not known"),
        (PAUSE, json!({ "sandbox": "i1", "keep": 9 }), "keep has a value (9) that is not known"),
        (PAUSE, json!({ "keep": 1 }), "sandbox is not legal"),
        (RESUME, json!({ "keep": 1 }), "spec is missing"),
        (RESUME, json!({ "spec": order(1) }), "keep has a value (0) that is not known"),
        (
            RESUME,
            json!({ "spec": order(9), "keep": 1 }),
            "spec.on_timeout has a value (9) that is not known",
        ),
        (SNAPSHOT, json!({ "sandbox": "i1", "build": "b" }), "template is not legal"),
        (SNAPSHOT, json!({ "sandbox": "i1", "template": "t" }), "build is not legal"),
        (SNAPSHOT, json!({ "template": "t", "build": "b" }), "sandbox is not legal"),
        (REMOVE, json!({}), "template is not legal"),
    ];
    for (path, asked, text) in rows {
        let refused = peer.refused(path, asked).await;
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().starts_with(text), "{refused}");
    }
    assert!(service.node.pauses.asked.lock().is_empty());
    service.stop().await;
}
