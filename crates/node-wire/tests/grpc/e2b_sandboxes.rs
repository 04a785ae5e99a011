//! `SandboxService`, as another gRPC library sees it.

use std::time::{Duration, SystemTime};

use model::{Egress, EndReason, HeaderRule, NodePhase, SandboxId, Secret, SocksProxy};
use node_wire::{CreateError, NodeError};
use prost::Message as _;
use prost_reflect::DynamicMessage;
use serde_json::{Value, json};
use tonic::{Code, Status};

use crate::dynamic::{Peer, message, method};
use crate::fake_node::FakeNode;
use crate::harness::Service;

const CREATE: &str = "/SandboxService/Create";
const LIST: &str = "/SandboxService/List";
/// Far in the future: the end of a sandbox.
const END: &str = "2999-01-02T03:04:05.250Z";

/// What E2B's control plane sends for a plain sandbox.
fn order(change: Value) -> Value {
    let mut order = json!({
        "sandbox": {
            "templateId": "base",
            "buildId": "b-1",
            "kernelVersion": "vmlinux-6.1.102",
            "firecrackerVersion": "v1.12.1",
            "hugePages": true,
            "sandboxId": "i1",
            "envVars": { "A": "b" },
            "metadata": { "who": "me" },
            "alias": "base",
            "envdVersion": "0.6.4",
            "vcpu": "1",
            "ramMb": "128",
            "teamId": "team-1",
            "maxSandboxLength": "24",
            "totalDiskSizeMb": "512",
            "baseTemplateId": "base",
            "envdAccessToken": "agent-token",
            "executionId": "7c1f0a52-0000-4000-8000-000000000001",
            "allowInternetAccess": false,
            "network": { "egress": { "deniedCidrs": ["8.8.8.8"] }, "ingress": {} },
            "autoResume": { "policy": "off" },
            "eventsTtlDays": "7",
        },
        "startTime": "2026-01-02T03:04:05Z",
        "endTime": END,
    });
    merge(&mut order, change);
    order
}

fn merge(into: &mut Value, change: Value) {
    match (into, change) {
        (Value::Object(into), Value::Object(change)) => {
            for (key, value) in change {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, change) => *into = change,
    }
}

fn told(status: &Status) -> (Code, &str) {
    (status.code(), status.message())
}

/// Whether the status has the reason in its details, for programs.
fn has_reason(status: &Status, reason: &str) -> bool {
    let windows =
        |part: &str| status.details().windows(part.len()).any(|window| window == part.as_bytes());
    windows("type.googleapis.com/google.rpc.ErrorInfo") && windows("cofferdam") && windows(reason)
}

#[tokio::test]
async fn a_sandbox_is_created_as_ordered_and_listed_with_the_callers_names() {
    let service = Service::start().await;
    let peer = Peer::connect(service.address).await;
    let made = peer.call(CREATE, order(json!({}))).await.unwrap();
    assert_eq!(made, json!({ "clientId": "node-1", "filesystemBootApplied": true }));

    let (spec, limit) = service.node.orders.lock()[0].clone();
    let resources = spec.resources.unwrap();
    assert_eq!((spec.id.as_str(), spec.team.as_str()), ("i1", "team-1"));
    assert_eq!((resources.vcpus, resources.memory_mib, resources.disk_mib), (1, 128, 512));
    assert_eq!((spec.env["A"].as_str(), spec.metadata["who"].as_str()), ("b", "me"));
    assert_eq!(spec.access_token.unwrap().expose(), "agent-token");
    assert!(!spec.internet);
    let deny = vec!["8.8.8.8".parse().unwrap()];
    assert_eq!(spec.egress, Egress { deny, ..Egress::default() });
    assert_eq!(limit, Duration::from_secs(60));

    let list = peer.call(LIST, json!({})).await.unwrap();
    let sandbox = &list["sandboxes"][0];
    assert_eq!(sandbox["sandboxId"], "i1");
    assert_eq!(sandbox["clientId"], "node-1");
    assert_eq!(sandbox["teamId"], "team-1");
    assert_eq!(sandbox["executionId"], "7c1f0a52-0000-4000-8000-000000000001");
    assert_eq!(sandbox["endTime"], END, "the end is the moment ordered");
    assert_eq!((&sandbox["vcpu"], &sandbox["ramMb"]), (&json!("1"), &json!("128")));
    assert_eq!(sandbox["config"]["metadata"], json!({ "who": "me" }));
    assert_eq!(sandbox["config"]["templateId"], "base");
}

#[tokio::test]
async fn what_an_order_leaves_out_is_as_in_the_template() {
    let service = Service::start().await;
    let peer = Peer::connect(service.address).await;
    let plain = json!({
        "sandbox": { "templateId": "base", "sandboxId": "i1", "teamId": "team-1" },
        "endTime": END,
    });
    peer.call(CREATE, plain).await.unwrap();
    let spec = service.node.orders.lock()[0].0.clone();
    assert_eq!(spec.resources, Some(FakeNode::template().resources));
    assert!(spec.internet && spec.access_token.is_none());
    let list = peer.call(LIST, json!({})).await.unwrap();
    assert_eq!(list["sandboxes"][0]["executionId"], "l1", "the node's own name of the run");
}

#[tokio::test]
async fn a_run_keeps_the_name_its_caller_gave_it_and_the_next_run_has_its_own() {
    let service = Service::start().await;
    let peer = Peer::connect(service.address).await;
    peer.call(CREATE, order(json!({}))).await.unwrap();
    peer.call("/SandboxService/Delete", json!({ "sandboxId": "i1" })).await.unwrap();
    peer.call(CREATE, order(json!({ "sandbox": { "executionId": "" } }))).await.unwrap();
    let list = peer.call(LIST, json!({})).await.unwrap();
    assert_eq!(list["sandboxes"][0]["executionId"], "l2");
}

#[tokio::test]
async fn a_callers_deadline_limits_the_start() {
    let service = Service::start().await;
    let peer = Peer::connect(service.address).await;
    let mut request = tonic::Request::new(());
    request.set_timeout(Duration::from_secs(9));
    let header = request.metadata().get("grpc-timeout").unwrap().to_str().unwrap().to_owned();
    peer.with_timeout(header).call(CREATE, order(json!({}))).await.unwrap();
    let limit = service.node.orders.lock()[0].1;
    assert!(limit <= Duration::from_secs(9) && limit > Duration::from_secs(5), "{limit:?}");
}

#[tokio::test]
async fn every_wish_that_cannot_be_fulfilled_is_refused_by_name_before_anything_is_made() {
    let service = Service::start().await;
    let peer = Peer::connect(service.address).await;
    let wishes = [
        (json!({ "volumeMounts": [{ "id": "v", "path": "/v" }] }), "volumeMounts"),
        (json!({ "iam": { "tokens": { "t": {} } } }), "iam"),
        (
            json!({ "network": { "egress": { "rules": { "example.org": { "rules": [
                { "transform": { "headers": { "a": "Bearer ${e2b.secrets.KEY}" } } }
            ] } } } } }),
            "a placeholder in network.egress.rules",
        ),
        (
            json!({ "network": { "ingress": { "trafficAccessToken": "t" } } }),
            "network.ingress.traffic_access_token",
        ),
        (
            json!({ "network": { "ingress": { "maskRequestHost": "h" } } }),
            "network.ingress.mask_request_host",
        ),
    ];
    for (wish, field) in wishes {
        let refused = peer.refused(CREATE, order(json!({ "sandbox": wish }))).await;
        let text = format!("{field} is not supported by this node");
        assert_eq!(told(&refused), (Code::Unimplemented, text.as_str()));
    }
    assert!(service.node.orders.lock().is_empty());
}

#[tokio::test]
async fn an_order_that_makes_no_sense_is_refused_with_the_field_that_is_wrong() {
    let service = Service::start().await;
    let peer = Peer::connect(service.address).await;
    let rows = [
        (json!({ "sandbox": { "sandboxId": "../x" } }), "sandbox_id is not legal"),
        (json!({ "sandbox": { "teamId": "" } }), "team_id is not legal"),
        (json!({ "sandbox": { "vcpu": "-1" } }), "vcpu must be 0 or more, not -1"),
        (json!({ "sandbox": { "ramMb": "-5" } }), "ram_mb must be 0 or more, not -5"),
        (json!({ "sandbox": { "executionId": "x".repeat(65) } }), "execution_id is longer"),
    ];
    for (change, text) in rows {
        let refused = peer.refused(CREATE, order(change)).await;
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().starts_with(text), "{refused}");
    }
    for missing in ["sandbox", "endTime"] {
        let mut order = order(json!({}));
        order.as_object_mut().unwrap().remove(missing);
        let refused = peer.refused(CREATE, order).await;
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().ends_with("is missing"), "{refused}");
    }
    let past = peer.refused(CREATE, order(json!({ "endTime": "2020-01-01T00:00:00Z" }))).await;
    assert_eq!(told(&past), (Code::Internal, "failed to create sandbox: end_time is in the past"));
    let rows = [
        (json!({ "templateId": "nope" }), "sandbox files for 'b-1' not found"),
        (json!({ "buildId": "b-2" }), "sandbox files for 'b-2' not found"),
        (json!({ "templateId": "nope", "buildId": "" }), "sandbox files for 'nope' not found"),
    ];
    for (change, text) in rows {
        let refused = peer.refused(CREATE, order(json!({ "sandbox": change }))).await;
        assert_eq!(told(&refused), (Code::FailedPrecondition, text));
    }
    assert!(service.node.orders.lock().is_empty());
}

#[tokio::test]
async fn every_failure_to_create_has_e2bs_code_and_text_and_a_reason_for_programs() {
    let service = Service::start().await;
    let peer = Peer::connect(service.address).await;
    let rows = [
        (CreateError::Draining, Code::Unavailable, "orchestrator is draining", "NODE_DRAINING"),
        (CreateError::Starting, Code::Unavailable, "orchestrator is starting", "NODE_STARTING"),
        (
            CreateError::Full { limit: 200 },
            Code::ResourceExhausted,
            "max number of running sandboxes on node reached (200), please retry",
            "NODE_FULL",
        ),
        (
            CreateError::TooManyStarting { limit: 3 },
            Code::ResourceExhausted,
            "too many sandboxes starting on this node, please retry",
            "TOO_MANY_STARTING",
        ),
        (
            CreateError::DiskFull { free_mib: 1, reserve_mib: 2 },
            Code::ResourceExhausted,
            "the node's disk has 1 MiB free and keeps 2 MiB in reserve",
            "DISK_FULL",
        ),
        (
            CreateError::AlreadyExists("i1".into()),
            Code::AlreadyExists,
            "sandbox 'i1' already exists",
            "ALREADY_EXISTS",
        ),
        (
            CreateError::UnknownTemplate("b-1".into()),
            Code::FailedPrecondition,
            "sandbox files for 'b-1' not found",
            "UNKNOWN_TEMPLATE",
        ),
        (CreateError::Invalid("no".into()), Code::InvalidArgument, "no", "INVALID_REQUEST"),
        (
            CreateError::Failed { step: "slot", message: "busy".into() },
            Code::Internal,
            "failed to create sandbox: slot: busy",
            "START_FAILED",
        ),
        (
            CreateError::Expired { step: "init", limit_ms: 5 },
            Code::Internal,
            "failed to create sandbox: init ran past 5 ms",
            "START_EXPIRED",
        ),
        (
            CreateError::Cancelled,
            Code::Aborted,
            "failed to create sandbox: it was ended while it started",
            "START_CANCELLED",
        ),
        (
            CreateError::Unreachable("no route".into()),
            Code::Unavailable,
            "the node cannot be reached: no route",
            "NODE_UNREACHABLE",
        ),
    ];
    for (failure, code, text, reason) in rows {
        *service.node.fail_create.lock() = Some(failure);
        let refused = peer.refused(CREATE, order(json!({}))).await;
        assert_eq!(told(&refused), (code, text));
        assert!(has_reason(&refused, reason), "{reason}: {refused:?}");
    }
}

#[tokio::test]
async fn a_draining_node_refuses_to_create_and_still_deletes() {
    let service = Service::start().await;
    let peer = Peer::connect(service.address).await;
    peer.call(CREATE, order(json!({}))).await.unwrap();
    service.node.set_phase(NodePhase::Draining);
    for other in [json!({ "sandboxId": "i2" }), json!({ "templateId": "nope" })] {
        let refused = peer.refused(CREATE, order(json!({ "sandbox": other }))).await;
        assert_eq!(told(&refused), (Code::Unavailable, "orchestrator is draining"));
        assert!(has_reason(&refused, "NODE_DRAINING"));
    }
    peer.call("/SandboxService/Delete", json!({ "sandboxId": "i1", "killReason": "orphaned" }))
        .await
        .unwrap();
    let id: SandboxId = "i1".parse().unwrap();
    assert_eq!(*service.node.kills.lock(), [(id, EndReason::Request)]);
}

#[tokio::test]
async fn update_moves_the_end_and_sets_rules_or_does_neither() {
    let service = Service::start().await;
    let peer = Peer::connect(service.address).await;
    let update = "/SandboxService/Update";
    peer.call(CREATE, order(json!({}))).await.unwrap();
    let ends_at = || service.node.sandboxes.lock().values().next().unwrap().ends_at;
    let before = ends_at();
    for (rules, code) in [
        (json!({ "allowedDomains": ["1.2.3.4"] }), Code::InvalidArgument),
        (json!({ "egressProxyAddress": "p" }), Code::InvalidArgument),
        (json!({ "deniedCidrs": ["10.0.0.0/33"] }), Code::InvalidArgument),
    ] {
        let both = json!({ "sandboxId": "i1", "endTime": "2998-01-01T00:00:00Z", "egress": rules });
        assert_eq!(peer.refused(update, both).await.code(), code);
    }
    let rules = json!({
        "allowedCidrs": ["10.1.0.0/16"],
        "deniedCidrs": ["10.0.0.0/8"],
        "allowedDomains": ["*.example.org"],
        "egressProxyAddress": "p:1",
        "egressProxyUsername": "u",
        "rules": { "a.org": { "rules": [{ "transform": { "headers": { "X-A": "b" } } }] } },
    });
    peer.call(update, json!({ "sandboxId": "i1", "egress": rules })).await.unwrap();
    peer.call(update, json!({ "sandboxId": "i1", "egress": {} })).await.unwrap();
    let set: Vec<Egress> =
        service.node.rules.lock().iter().map(|(_, rules)| rules.clone()).collect();
    let range = |text: &str| vec![text.parse().unwrap()];
    let headers = vec![("x-a".to_owned(), Secret::new("b".into()))];
    let first = Egress {
        allow: range("10.1.0.0/16"),
        deny: range("10.0.0.0/8"),
        domains: vec!["*.example.org".parse().unwrap()],
        name_servers: None,
        proxy: Some(SocksProxy::new("p:1", Some("u".into()), None).unwrap()),
        headers: vec![HeaderRule { requests: "a.org".parse().unwrap(), headers }],
    };
    assert_eq!(set, [first, Egress::default()], "none of those that were refused");
    assert_eq!(ends_at(), before);
    let moved = json!({ "sandboxId": "i1", "endTime": "1970-01-01T00:01:00Z" });
    peer.call(update, moved).await.unwrap();
    assert_eq!(ends_at(), SystemTime::UNIX_EPOCH + Duration::from_secs(60));
    for change in [json!({}), json!({ "endTime": END }), json!({ "egress": {} })] {
        let mut change = change;
        merge(&mut change, json!({ "sandboxId": "gone" }));
        assert_eq!(
            told(&peer.refused(update, change).await),
            (Code::NotFound, "sandbox not found")
        );
    }
}

#[tokio::test]
async fn delete_says_what_is_not_there_and_what_could_not_be_released() {
    let service = Service::start().await;
    let peer = Peer::connect(service.address).await;
    let delete = "/SandboxService/Delete";
    let refused = peer.refused(delete, json!({ "sandboxId": "gone" })).await;
    assert_eq!(told(&refused), (Code::NotFound, "sandbox 'gone' not found"));
    let stuck = NodeError::Stuck { id: "i1".into(), left: "slot: busy".into() };
    *service.node.fail.lock() = Some(stuck);
    let refused = peer.refused(delete, json!({ "sandboxId": "i1" })).await;
    assert_eq!(told(&refused), (Code::Internal, "failed to delete sandbox 'i1'"));
    assert!(has_reason(&refused, "SANDBOX_STUCK") && has_reason(&refused, "slot: busy"));
}

#[tokio::test]
async fn fields_of_a_later_version_are_tolerated() {
    let service = Service::start().await;
    let peer = Peer::connect(service.address).await;
    let kind = method(CREATE).input();
    let mut bytes = message(kind.clone(), &order(json!({}))).encode_to_vec();
    // Field 1000, a number; field 1001, a text.
    bytes.extend([0xc0, 0x3e, 0x05, 0xca, 0x3e, 0x01, b'x']);
    let later = DynamicMessage::decode(kind, bytes.as_slice()).unwrap();
    assert_eq!(later.encoded_len(), bytes.len(), "they are sent");
    peer.send(CREATE, later).await.unwrap();
    assert_eq!(service.node.sandboxes.lock().len(), 1);
}

#[tokio::test]
async fn a_request_beyond_the_limit_gets_a_status_and_the_next_one_an_answer() {
    let service = Service::start().await;
    let peer = Peer::connect(service.address).await;
    let huge = json!({ "sandbox": { "envVars": { "A": "x".repeat(5 * 1024 * 1024) } } });
    let refused = peer.refused(CREATE, order(huge)).await;
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    peer.call(LIST, json!({})).await.unwrap();
}
