//! Our server and the client of another gRPC library: what E2B's services have no words for.

use model::SandboxId;
use node_wire::NodeApi as _;
use serde_json::{Value, json};
use tonic::Code;

use crate::dynamic::{self, Peer};
use crate::harness::{Service, within};
use crate::own_client::spec;

const LIST: &str = "/cofferdam.node.v1.NodeService/ListSandboxes";
const ENDINGS: &str = "/cofferdam.node.v1.NodeService/ListEndings";
const EXPLAIN: &str = "/cofferdam.node.v1.NodeService/ExplainSandbox";

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
    let limit = std::time::Duration::from_secs(1);
    service.node.create(spec("i1"), limit).await.unwrap();
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
