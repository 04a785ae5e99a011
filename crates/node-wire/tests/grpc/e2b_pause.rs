//! Pause, resume and checkpoint of `SandboxService`, as another gRPC library sees them.

use model::{Keep, NodePhase, OnTimeout, SandboxPhase};
use node_wire::{CreateError, NewSnapshot, NodeApi as _, PauseError, RemoveError};
use serde_json::{Value, json};
use tonic::{Code, Status};

use crate::dynamic::Peer;
use crate::harness::Service;

const CREATE: &str = "/SandboxService/Create";
const LIST: &str = "/SandboxService/List";
const PAUSE: &str = "/SandboxService/Pause";
const CHECKPOINT: &str = "/SandboxService/Checkpoint";
const REMOVE: &str = "/TemplateService/TemplateBuildDelete";
/// What E2B's control plane calls states of sandboxes.
const STATE: &str = "0b8a1c1e-0000-4000-8000-000000000001";
const OTHER_STATE: &str = "0b8a1c1e-0000-4000-8000-000000000002";
const END: &str = "2999-01-02T03:04:05.250Z";

fn order(sandbox: &str, build: &str, snapshot: bool) -> Value {
    json!({
        "sandbox": {
            "templateId": if snapshot { "a-template-of-a-sandbox" } else { "base" },
            "buildId": build,
            "sandboxId": sandbox,
            "teamId": "team-1",
            "executionId": format!("run-of-{build}"),
            "envdAccessToken": "agent-token",
            "snapshot": snapshot,
            "autoResume": { "policy": "any" },
        },
        "endTime": END,
    })
}

fn pause(sandbox: &str) -> Value {
    json!({ "sandboxId": sandbox, "templateId": "a-template-of-a-sandbox", "buildId": STATE })
}

fn checkpoint(sandbox: &str, build: &str) -> Value {
    json!({ "sandboxId": sandbox, "buildId": build, "metadata": { "template_id": "t" } })
}

fn told(status: &Status) -> (Code, &str) {
    (status.code(), status.message())
}

fn has_reason(status: &Status, reason: &str) -> bool {
    status.details().windows(reason.len()).any(|window| window == reason.as_bytes())
}

/// A node with a sandbox `i1`, and who asks it.
async fn with_sandbox() -> (Service, Peer) {
    let service = Service::start().await;
    let peer = Peer::connect(service.address).await;
    peer.call(CREATE, order("i1", "b-1", false)).await.unwrap();
    (service, peer)
}

#[tokio::test]
async fn a_paused_sandbox_is_not_listed_and_goes_on_under_the_new_end_and_name() {
    let (service, peer) = with_sandbox().await;
    assert_eq!(peer.call(PAUSE, pause("i1")).await.unwrap(), json!({}));
    assert_eq!(peer.call(LIST, json!({})).await.unwrap(), json!({}));
    let resumed = peer.call(CREATE, order("i1", STATE, true)).await.unwrap();
    assert_eq!(resumed, json!({ "clientId": "node-1" }), "its processes have gone on");
    let asked = service.node.pauses.asked.lock().clone();
    assert_eq!(asked.iter().map(|(_, keep)| *keep).collect::<Vec<_>>(), [Keep::Memory; 2]);
    let (spec, _) = service.node.pauses.resumes.lock()[0].clone();
    assert_eq!((spec.id.as_str(), spec.template.as_str()), ("i1", "base"), "what it is made of");
    assert_eq!(spec.access_token.unwrap().expose(), "agent-token");
    let list = peer.call(LIST, json!({})).await.unwrap();
    let sandbox = &list["sandboxes"][0];
    assert_eq!((&sandbox["sandboxId"], &sandbox["endTime"]), (&json!("i1"), &json!(END)));
    assert_eq!(sandbox["executionId"], format!("run-of-{STATE}"));
    assert_eq!(service.node.orders.lock().len(), 1, "nothing was started anew");
}

#[tokio::test]
async fn a_start_from_files_says_so_whoever_wanted_it() {
    let (service, peer) = with_sandbox().await;
    let anew = json!({ "clientId": "node-1", "filesystemBootApplied": true });
    // Who pauses it.
    let mut files = pause("i1");
    files["filesystemOnly"] = json!(true);
    peer.call(PAUSE, files).await.unwrap();
    assert_eq!(peer.call(CREATE, order("i1", STATE, true)).await.unwrap(), anew);
    // Who resumes it.
    peer.call(PAUSE, pause("i1")).await.unwrap();
    let mut files = order("i1", STATE, true);
    files["filesystemBoot"] = json!(true);
    assert_eq!(peer.call(CREATE, files).await.unwrap(), anew);
    // The node itself.
    *service.node.pauses.files_only.lock() = true;
    peer.call(PAUSE, pause("i1")).await.unwrap();
    assert_eq!(peer.call(CREATE, order("i1", STATE, true)).await.unwrap(), anew);
    use Keep::{Files, Memory};
    let asked = service.node.pauses.asked.lock().clone();
    let keeps: Vec<Keep> = asked.into_iter().map(|(_, keep)| keep).collect();
    assert_eq!(keeps, [Files, Memory, Memory, Files, Memory, Memory]);
}

#[tokio::test]
async fn a_pause_of_what_is_paused_is_done_and_one_of_nothing_is_not() {
    let (service, peer) = with_sandbox().await;
    service.node.pause(&"i1".parse().unwrap(), Keep::Files).await.unwrap();
    peer.call(PAUSE, pause("i1")).await.unwrap();
    peer.call("/SandboxService/Delete", json!({ "sandboxId": "i1" })).await.unwrap();
    assert!(service.node.paused().await.unwrap().is_empty());
    let refused = peer.refused(PAUSE, pause("i1")).await;
    assert_eq!(told(&refused), (Code::NotFound, "sandbox not found"));
    assert_eq!(peer.refused(PAUSE, pause("NO")).await.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn only_what_is_paused_is_resumed() {
    let (service, peer) = with_sandbox().await;
    peer.call(PAUSE, pause("i1")).await.unwrap();
    // Another sandbox has another state; the build of a plain template is no state of any.
    let mut plain = order("i2", "b-1", true);
    plain["sandbox"]["templateId"] = json!("base");
    for other in [order("i2", STATE, true), plain] {
        let refused = peer.refused(CREATE, other).await;
        let text = "sandbox files for 'i2' not found";
        assert_eq!(told(&refused), (Code::FailedPrecondition, text));
        assert!(has_reason(&refused, "NOT_PAUSED"));
    }
    let plain = peer.call(CREATE, order("i3", "b-1", false)).await.unwrap();
    assert_eq!(plain["filesystemBootApplied"], true, "a new sandbox is not a resumed one");
    let mut stranger = order("i1", STATE, true);
    stranger["sandbox"]["teamId"] = json!("team-2");
    let refused = peer.refused(CREATE, stranger).await;
    let text = "sandbox files for 'i1' not found";
    assert_eq!(told(&refused), (Code::FailedPrecondition, text));
    *service.node.fail_create.lock() = Some(CreateError::TooManyStarting { limit: 3 });
    let refused = peer.refused(CREATE, order("i1", STATE, true)).await;
    let text = "too many sandboxes resuming on this node, please retry";
    assert_eq!(told(&refused), (Code::ResourceExhausted, text));
    assert!(has_reason(&refused, "TOO_MANY_STARTING"));
    service.node.set_phase(NodePhase::Draining);
    let refused = peer.refused(CREATE, order("i1", STATE, true)).await;
    assert_eq!(told(&refused), (Code::Unavailable, "orchestrator is draining"));
    assert_eq!(service.node.paused().await.unwrap().len(), 1, "it is as paused as before");
}

#[tokio::test]
async fn a_sandbox_whose_time_is_over_is_paused_by_the_node_if_that_is_ordered() {
    let (service, peer) = with_sandbox().await;
    for (sandbox, files) in [("i2", false), ("i3", true)] {
        let mut order = order(sandbox, "b-1", false);
        order["sandbox"]["autoPause"] = json!(true);
        order["sandbox"]["autoPauseFilesystemOnly"] = json!(files);
        peer.call(CREATE, order).await.unwrap();
    }
    let orders = service.node.orders.lock();
    let ordered: Vec<OnTimeout> = orders.iter().map(|(spec, _)| spec.on_timeout).collect();
    let pauses = [Keep::Memory, Keep::Files].map(OnTimeout::Pause);
    assert_eq!(ordered, [OnTimeout::Kill, pauses[0], pauses[1]]);
}

#[tokio::test]
async fn only_what_can_be_reached_is_listed_and_changed() {
    let (service, peer) = with_sandbox().await;
    for phase in SandboxPhase::ALL {
        service.node.sandboxes.lock().values_mut().next().unwrap().phase = phase;
        let list = peer.call(LIST, json!({})).await.unwrap();
        let changed = peer.call("/SandboxService/Update", json!({ "sandboxId": "i1" })).await;
        // While a checkpoint is taken it stands still for a moment, of which nobody is told.
        let expected = matches!(phase, SandboxPhase::Live | SandboxPhase::Checkpointing);
        assert_eq!(
            (list["sandboxes"].is_array(), changed.is_ok()),
            (expected, expected),
            "{phase:?}"
        );
        let info = peer.call("/InfoService/ServiceInfo", json!({})).await.unwrap();
        let stands_still = matches!(phase, SandboxPhase::Pausing | SandboxPhase::Paused);
        let has_disk = info["metricDiskAllocatedBytes"] == "1073741824";
        assert_eq!(has_disk, expected || stands_still, "{phase:?}");
    }
}

#[tokio::test]
async fn a_checkpoint_is_a_template_by_its_build_until_that_is_deleted() {
    let (service, peer) = with_sandbox().await;
    assert_eq!(peer.call(CHECKPOINT, checkpoint("i1", STATE)).await.unwrap(), json!({}));
    let new = NewSnapshot {
        template: STATE.parse().unwrap(),
        build: STATE.parse().unwrap(),
        passing: false,
    };
    assert_eq!(*service.node.pauses.snapshots.lock(), [("i1".parse().unwrap(), new)]);
    assert_eq!(peer.call(LIST, json!({})).await.unwrap()["sandboxes"][0]["sandboxId"], "i1");
    // As a template, and as the state that a copy of the sandbox goes on from.
    for (sandbox, snapshot) in [("i2", false), ("i3", true)] {
        let made = peer.call(CREATE, order(sandbox, STATE, snapshot)).await.unwrap();
        assert_eq!(made["filesystemBootApplied"], true);
        let (spec, _) = service.node.orders.lock().last().cloned().unwrap();
        assert_eq!((spec.id.as_str(), spec.template.as_str()), (sandbox, STATE));
    }
    // A snapshot that was not made by a checkpoint is not this service's to remove.
    let theirs = NewSnapshot {
        template: "s".parse().unwrap(),
        build: OTHER_STATE.parse().unwrap(),
        passing: false,
    };
    service.node.snapshot(&"i1".parse().unwrap(), theirs).await.unwrap();
    let ids = |build: &str| json!({ "templateID": "t", "buildID": build });
    let refused = peer.refused(REMOVE, ids(OTHER_STATE)).await;
    assert_eq!(told(&refused), (Code::NotFound, format!("build {OTHER_STATE} not found").as_str()));
    *service.node.pauses.fail_remove.lock() = Some(RemoveError::InUse(STATE.into()));
    let refused = peer.refused(REMOVE, ids(STATE)).await;
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(has_reason(&refused, "TEMPLATE_IN_USE"));
    peer.call(REMOVE, ids(STATE)).await.unwrap();
    let refused = peer.refused(CREATE, order("i4", STATE, false)).await;
    let text = format!("sandbox files for '{STATE}' not found");
    assert_eq!(told(&refused), (Code::FailedPrecondition, text.as_str()));
}

#[tokio::test]
async fn a_failure_that_leaves_the_sandbox_running_has_a_code_that_leaves_it_running() {
    let (service, peer) = with_sandbox().await;
    let rows = [
        (
            PauseError::NotFound("i1".into()),
            Code::NotFound,
            "sandbox 'i1' not found",
            "SANDBOX_NOT_FOUND",
        ),
        (
            PauseError::Paused("i1".into()),
            Code::FailedPrecondition,
            "sandbox i1 is paused",
            "SANDBOX_PAUSED",
        ),
        (
            PauseError::Busy("i1".into()),
            Code::FailedPrecondition,
            "sandbox i1 is being paused or has a snapshot taken; try again in a moment",
            "SANDBOX_BUSY",
        ),
        (
            PauseError::DiskFull { free_mib: 1, reserve_mib: 2 },
            Code::ResourceExhausted,
            "the node's disk has 1 MiB free and keeps 2 MiB in reserve",
            "DISK_FULL",
        ),
        (PauseError::Limit("enough".into()), Code::ResourceExhausted, "enough", "LIMIT_REACHED"),
        (
            PauseError::Failed("no space".into()),
            Code::FailedPrecondition,
            "error snapshotting sandbox: it runs on: no space",
            "PAUSE_FAILED",
        ),
        (
            PauseError::Lost("it crashed".into()),
            Code::Internal,
            "error snapshotting sandbox: the sandbox has ended: it crashed",
            "SANDBOX_LOST",
        ),
        (
            PauseError::Unreachable("no route".into()),
            Code::Unavailable,
            "the node cannot be reached: no route",
            "NODE_UNREACHABLE",
        ),
    ];
    for (failure, code, text, reason) in rows {
        *service.node.pauses.fail.lock() = Some(failure);
        let refused = peer.refused(CHECKPOINT, checkpoint("i1", STATE)).await;
        assert_eq!(told(&refused), (code, text));
        assert!(has_reason(&refused, reason), "{reason}: {refused:?}");
    }
    // E2B's control plane would kill the sandbox after any other code.
    for build in ["", "NO", "../x"] {
        let refused = peer.refused(CHECKPOINT, checkpoint("i1", build)).await;
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert!(refused.message().starts_with("build_id is not legal"), "{refused}");
    }
    *service.node.pauses.fail.lock() = Some(PauseError::Failed("no space".into()));
    let refused = peer.refused(PAUSE, pause("i1")).await;
    let text = "error snapshotting sandbox: it runs on: no space";
    assert_eq!(told(&refused), (Code::FailedPrecondition, text));
    assert_eq!(peer.call(LIST, json!({})).await.unwrap()["sandboxes"][0]["sandboxId"], "i1");
}
