//! `TemplateService`, as another gRPC library sees it.

use model::NodePhase;
use node_wire::{BuildError, BuildState, NodeApi};
use serde_json::{Value, json};
use tonic::{Code, Status};

use crate::dynamic::Peer;
use crate::harness::Service;

const CREATE: &str = "/TemplateService/TemplateCreate";
const STATUS: &str = "/TemplateService/TemplateBuildStatus";
const DELETE: &str = "/TemplateService/TemplateBuildDelete";

fn ids(build: &str) -> Value {
    json!({ "templateID": "base", "buildID": build })
}

fn template(build: &str) -> Value {
    json!({ "template": ids(build) })
}

fn told(status: &Status) -> (Code, &str) {
    (status.code(), status.message())
}

#[tokio::test]
async fn a_build_is_created_followed_to_its_end_and_deleted() {
    let service = Service::start().await;
    let peer = Peer::connect(service.address).await;
    peer.call(CREATE, template("b-1")).await.unwrap();
    assert_eq!(peer.call(STATUS, ids("b-1")).await.unwrap(), json!({}), "Building is zero");
    let id = "b-1".parse().unwrap();
    service.node.end_build(&id, BuildState::Completed);
    let done = peer.call(STATUS, ids("b-1")).await.unwrap();
    let metadata = json!({ "rootfsSizeKey": 1024, "envdVersionKey": "0.6.4" });
    assert_eq!(done, json!({ "status": "Completed", "metadata": metadata }));
    service.node.end_build(&id, BuildState::Failed("no space".into()));
    let failed = peer.call(STATUS, ids("b-1")).await.unwrap();
    let reason = json!({ "message": "no space", "step": "install" });
    assert_eq!(failed, json!({ "status": "Failed", "reason": reason }));
    peer.call(DELETE, ids("b-1")).await.unwrap();
    assert!(service.node.builds().await.unwrap().is_empty());
}

#[tokio::test]
async fn failures_of_builds_have_e2bs_codes_and_texts() {
    let service = Service::start().await;
    let peer = Peer::connect(service.address).await;
    peer.call(CREATE, template("b-1")).await.unwrap();
    let refused = peer.refused(CREATE, template("b-1")).await;
    let text = "error while creating build cache: build b-1 already exists in cache";
    assert_eq!(told(&refused), (Code::Unknown, text));
    let refused = peer.refused(STATUS, ids("b-2")).await;
    let text = "error while getting build info, maybe already expired: the node has no build b-2";
    assert_eq!(told(&refused), (Code::Unknown, text));
    for missing in ["templateID", "buildID"] {
        let mut ids = ids("b-1");
        ids.as_object_mut().unwrap().remove(missing);
        let refused = peer.refused(DELETE, ids).await;
        let text = "template id and build id are required fields";
        assert_eq!(told(&refused), (Code::Unknown, text));
    }
    let refused = peer.refused(DELETE, ids("b-2")).await;
    assert_eq!(told(&refused), (Code::NotFound, "build b-2 not found"));
    *service.node.fail_build.lock() = Some(BuildError::TooMany { limit: 2 });
    assert_eq!(peer.refused(CREATE, template("b-3")).await.code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn a_draining_node_refuses_new_builds_and_still_tells_of_and_deletes_running_ones() {
    let service = Service::start().await;
    let peer = Peer::connect(service.address).await;
    peer.call(CREATE, template("b-1")).await.unwrap();
    service.node.set_phase(NodePhase::Draining);
    let refused = peer.refused(CREATE, template("b-2")).await;
    assert_eq!(told(&refused), (Code::Unavailable, "orchestrator is draining"));
    peer.call(STATUS, ids("b-1")).await.unwrap();
    peer.call(DELETE, ids("b-1")).await.unwrap();
}

#[tokio::test]
async fn every_wish_that_cannot_be_fulfilled_is_refused_by_name() {
    let service = Service::start().await;
    let peer = Peer::connect(service.address).await;
    let wishes = [
        ("memoryMB", json!(512)),
        ("vCpuCount", json!(2)),
        ("diskSizeMB", json!(512)),
        ("startCommand", json!("run")),
        ("readyCommand", json!("true")),
        ("fromImage", json!("debian")),
        ("fromTemplate", json!({ "alias": "base" })),
        ("steps", json!([{ "type": "RUN" }])),
        ("fromImageRegistry", json!({ "general": {} })),
    ];
    for (field, wish) in wishes {
        let mut template = template("b-1");
        template["template"][field] = wish;
        let refused = peer.refused(CREATE, template).await;
        assert_eq!(refused.code(), Code::Unimplemented);
        assert!(refused.message().contains(field), "{refused}");
    }
    let other = json!({ "template": { "templateID": "python", "buildID": "b-1" } });
    let refused = peer.refused(CREATE, other).await;
    assert_eq!(refused.code(), Code::Unimplemented);
    assert!(refused.message().contains("python"), "{refused}");
    let upload = json!({ "templateID": "base", "hash": "abc" });
    let refused = peer.refused("/TemplateService/InitLayerFileUpload", upload).await;
    assert_eq!(refused.code(), Code::Unimplemented);
    assert!(service.node.builds().await.unwrap().is_empty());
}

#[tokio::test]
async fn what_a_node_chooses_itself_may_be_said() {
    let service = Service::start().await;
    let peer = Peer::connect(service.address).await;
    let mut template = template("b-1");
    for (field, value) in [
        ("kernelVersion", json!("6.1")),
        ("firecrackerVersion", json!("1.12")),
        ("hugePages", json!(true)),
        ("force", json!(true)),
        ("teamID", json!("t")),
    ] {
        template["template"][field] = value;
    }
    template["cacheScope"] = json!("s");
    template["version"] = json!("v2.1.0");
    peer.call(CREATE, template).await.unwrap();
}
