//! `InfoService` and the health service, as another gRPC library sees them.

use model::NodePhase;
use serde_json::{Value, json};
use tonic::{Code, Streaming};

use crate::dynamic::{self, Peer};
use crate::harness::{Service, within};

const INFO: &str = "/InfoService/ServiceInfo";
const OVERRIDE: &str = "/InfoService/ServiceStatusOverride";

#[tokio::test]
async fn service_info_has_every_field_that_a_node_can_fill() {
    let service = Service::start().await;
    let peer = Peer::connect(service.address).await;
    let order = json!({
        "sandbox": { "templateId": "base", "sandboxId": "i1", "teamId": "t" },
        "endTime": "2999-01-01T00:00:00Z",
    });
    peer.call("/SandboxService/Create", order).await.unwrap();
    let mut info = peer.call(INFO, json!({})).await.unwrap();
    assert!(info.as_object_mut().unwrap().remove("serviceStartup").is_some());
    let expected = json!({
        "nodeId": "node-1",
        "serviceId": "instance-1",
        "serviceVersion": "1.2.3",
        "serviceRoles": ["Orchestrator", "TemplateBuilder"],
        "machineInfo": {
            "cpuArchitecture": "x86_64",
            "cpuFamily": "6",
            "cpuModel": "143",
            "cpuModelName": "A processor",
        },
        "serviceStatusChangedAt": "1970-01-01T00:00:20.250Z",
        "metricVcpuUsed": "4",
        "metricMemoryUsedMb": "2048",
        "metricDiskMb": "1024",
        "metricSandboxesRunning": 1,
        "metricCpuPercent": 42,
        "metricMemoryUsedBytes": "3221225472",
        "metricCpuCount": 8,
        "metricMemoryTotalBytes": "34359738368",
        "metricCpuAllocated": 4,
        "metricMemoryAllocatedBytes": "2147483648",
        "metricDiskAllocatedBytes": "1073741824",
        "metricDisks": [{ "usedBytes": "42949672960", "totalBytes": "107374182400" }],
    });
    assert_eq!(info, expected);
}

#[tokio::test]
async fn every_phase_has_one_of_e2bs_four_words() {
    let service = Service::start().await;
    let peer = Peer::connect(service.address).await;
    for phase in NodePhase::ALL {
        service.node.set_phase(phase);
        let word = match phase {
            // The zero value is left out.
            NodePhase::Healthy => Value::Null,
            NodePhase::Unhealthy => json!("Unhealthy"),
            NodePhase::Starting | NodePhase::Standby => json!("Standby"),
            _ => json!("Draining"),
        };
        assert_eq!(peer.call(INFO, json!({})).await.unwrap()["serviceStatus"], word, "{phase:?}");
    }
}

#[tokio::test]
async fn a_status_is_overridden_until_the_node_drains_and_force_stop_needs_draining() {
    let service = Service::start().await;
    let peer = Peer::connect(service.address).await;
    let steps = [
        ("Standby", NodePhase::Standby),
        ("Unhealthy", NodePhase::Unhealthy),
        ("Healthy", NodePhase::Healthy),
    ];
    for (word, phase) in steps {
        let forced = json!({ "serviceStatus": word, "forceStop": true });
        let refused = peer.refused(OVERRIDE, forced).await;
        assert_eq!(refused.code(), Code::InvalidArgument);
        let text = "force_stop is only supported when setting status to draining";
        assert_eq!(refused.message(), text);
        peer.call(OVERRIDE, json!({ "serviceStatus": word, "forceStop": false })).await.unwrap();
        assert_eq!(service.node.phase(), phase);
    }
    peer.call(OVERRIDE, json!({ "serviceStatus": "Draining" })).await.unwrap();
    peer.call(OVERRIDE, json!({ "serviceStatus": "Draining" })).await.unwrap();
    assert_eq!(service.node.phase(), NodePhase::Draining);
    for (word, _) in steps {
        let refused = peer.refused(OVERRIDE, json!({ "serviceStatus": word })).await;
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert_eq!(refused.message(), "service drain cannot be reversed");
    }
    let forced = json!({ "serviceStatus": "Draining", "forceStop": true });
    peer.call(OVERRIDE, forced).await.unwrap();
    assert_eq!(service.node.phase(), NodePhase::Forcing);
}

#[tokio::test]
async fn a_status_that_is_none_is_refused_and_changes_nothing() {
    let service = Service::start().await;
    let peer = Peer::connect(service.address).await;
    let refused = peer.refused(OVERRIDE, json!({ "serviceStatus": 9 })).await;
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().starts_with("service_status 9 is not known"), "{refused}");
    assert_eq!(service.node.phase(), NodePhase::Healthy);
}

async fn next(stream: &mut Streaming<prost_reflect::DynamicMessage>) -> Value {
    dynamic::json(&within(stream.message()).await.unwrap().unwrap())["status"].clone()
}

#[tokio::test]
async fn the_health_service_knows_every_service_and_a_draining_node_serves() {
    let service = Service::start().await;
    let peer = Peer::connect(service.address).await;
    let check = "/grpc.health.v1.Health/Check";
    let names =
        ["", "SandboxService", "InfoService", "TemplateService", "cofferdam.node.v1.NodeService"];
    for name in names {
        let answer = peer.call(check, json!({ "service": name })).await.unwrap();
        assert_eq!(answer["status"], "SERVING", "{name}");
    }
    let unknown = json!({ "service": "nope" });
    assert_eq!(peer.refused(check, unknown.clone()).await.code(), Code::NotFound);

    let watch = "/grpc.health.v1.Health/Watch";
    let mut changes = peer.stream(watch, json!({})).await.unwrap();
    assert_eq!(next(&mut changes).await, "SERVING");
    service.node.set_phase(NodePhase::Unhealthy);
    assert_eq!(next(&mut changes).await, "NOT_SERVING");
    assert_eq!(peer.call(check, json!({})).await.unwrap()["status"], "NOT_SERVING");
    service.node.set_phase(NodePhase::Draining);
    assert_eq!(next(&mut changes).await, "SERVING");
    let mut unknown = peer.stream(watch, unknown).await.unwrap();
    assert_eq!(next(&mut unknown).await, "SERVICE_UNKNOWN");
}

#[tokio::test]
async fn a_method_that_does_not_exist_is_unimplemented() {
    let service = Service::start().await;
    let peer = Peer::connect(service.address).await;
    let message = dynamic::message(dynamic::method(INFO).input(), &json!({}));
    let refused = peer.send_to("/InfoService/Nope", INFO, message).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
}
