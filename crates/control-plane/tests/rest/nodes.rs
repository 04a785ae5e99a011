use e2b_wire::{Node, NodeDetail, NodeDrain, NodeLeaks, NodeStatus};
use model::NodePhase;
use serde_json::{Value, json};

use crate::fake_node::Fault;
use crate::service::Service;

#[tokio::test]
async fn nodes_are_shown_to_operators_only_and_sorted() {
    let service = Service::start_nodes(["b", "a"]).await;
    let admin = service.admin();
    for path in ["/nodes", "/nodes/a", "/nodes/a/drain", "/nodes/a/leaks"] {
        service.client.get(path).await.error(401);
        admin.with("x-admin-token", "wrong").get(path).await.error(401);
    }
    let nodes = admin.get("/nodes").await.ok(200);
    let typed: Vec<Node> = serde_json::from_value(nodes).unwrap();
    let ids: Vec<&str> = typed.iter().map(|node| node.detail.id.as_str()).collect();
    assert_eq!(ids, ["a", "b"]);
    service.stop().await;
}

#[tokio::test]
async fn a_node_is_shown_with_every_field_of_the_contract() {
    let service = Service::start_nodes(["a"]).await;
    let id = service.create(json!({})).await;
    let admin = service.admin();
    let node = service.shown("a", "ready").await;
    assert_eq!(
        node["machineInfo"],
        json!({"cpuFamily": "", "cpuModel": "", "cpuModelName": "Fake", "cpuArchitecture": ""})
    );
    assert_eq!(node["serviceInstanceID"], "a-instance-1");
    assert_eq!(node["clusterID"], "00000000-0000-0000-0000-000000000000");
    assert_eq!(node["statusChangedAt"], "1970-01-01T00:00:00Z");
    assert_eq!((&node["createSuccesses"], &node["createFails"]), (&json!(1), &json!(0)));
    assert_eq!(node["version"], "1.2.3");
    assert_eq!(node["metrics"]["cpuPercent"], 12);
    let limits =
        json!([{"what": "swap", "enforced": false, "detail": "the kernel has no swap accounting"}]);
    assert_eq!(node["enforcement"], limits);
    assert!(node.get("unreachableSince").is_none(), "{node}");
    service.ready().await;
    let listed = admin.get("/nodes").await.ok(200);
    assert_eq!(listed[0]["sandboxStartingCount"], 0);
    assert_eq!(listed[0]["sandboxCount"], 1);
    let node = admin.get("/nodes/a").await.ok(200);
    assert!(node.get("sandboxStartingCount").is_none(), "{node}");
    assert_eq!(node["drain"]["blockers"][0]["id"], id.as_str());
    let typed: NodeDetail = serde_json::from_value(node).unwrap();
    assert_eq!((typed.status, typed.drain.counts.live), (NodeStatus::Ready, 1));
    service.stop().await;
}

#[tokio::test]
async fn without_a_node_the_list_is_null_and_a_create_says_so() {
    let service = Service::start_nodes([]).await;
    let admin = service.admin();
    assert_eq!(admin.get("/nodes").await.ok(200), Value::Null);
    service.client.without("x-api-key").get("/health").await;
    let answer = service.client.post("/sandboxes", &json!({"templateID": "base"})).await;
    answer.error(404);
    service.stop().await;
}

#[tokio::test]
async fn unknown_nodes_and_other_clusters_are_404_without_a_body() {
    let service = Service::start_nodes(["a"]).await;
    let admin = service.admin();
    let (nil, other) =
        ("00000000-0000-0000-0000-000000000000", "11111111-2222-4333-8444-555555555555");
    let unknown = [
        "/nodes/other".to_owned(),
        "/nodes/UPPER".to_owned(),
        "/nodes/other/drain".to_owned(),
        "/nodes/other/drain?watch=true".to_owned(),
        "/nodes/other/leaks".to_owned(),
        format!("/nodes/a?clusterID={other}"),
    ];
    for path in unknown {
        let answer = admin.get(&path).await;
        assert_eq!((answer.status.as_u16(), answer.text.as_str()), (404, ""), "{path}");
    }
    admin.get(&format!("/nodes/a?clusterID={nil}")).await.ok(200);
    assert_eq!(admin.get(&format!("/nodes?clusterID={other}")).await.ok(200), Value::Null);
    for path in ["/nodes?clusterID=x", "/nodes/a?clusterID=", "/nodes/a/drain?watch=maybe"] {
        admin.get(path).await.error(400);
    }
    service.stop().await;
}

#[tokio::test]
async fn a_node_that_does_not_answer_is_unhealthy_and_keeps_what_it_said() {
    let service = Service::start_nodes(["a", "b"]).await;
    let [a, b] = &service.nodes[..] else { unreachable!("there are two") };
    b.set_phase(NodePhase::Draining);
    service.shown("b", "draining").await;
    for node in [a, b] {
        node.set_fault(Some(Fault::Unreachable));
    }
    let shown = service.shown("a", "unhealthy").await;
    assert_eq!(shown["drain"]["phase"], "healthy", "it said nothing else");
    assert_eq!(shown["statusChangedAt"], shown["unreachableSince"]);
    crate::service::wait_for(async || {
        let b = service.admin().get("/nodes/b").await.ok(200);
        assert_eq!(b["status"], "draining", "what was asked for stays visible");
        b["unreachableSince"].is_string()
    })
    .await;
    let away = service.admin().get("/nodes/a/drain").await;
    assert!(away.error(502).contains("node a cannot be reached"));
    assert_eq!(away.header("retry-after"), Some("5"));
    service.admin().get("/nodes/a/leaks").await.error(502);
    service.admin().get("/nodes/a/drain?watch=true").await.error(502);
    a.set_fault(Some(Fault::Internal));
    service.admin().get("/nodes/a/drain").await.error(500);
    a.set_fault(None);
    let back = service.shown("a", "ready").await;
    assert!(back.get("unreachableSince").is_none(), "{back}");
    service.stop().await;
}

#[tokio::test]
async fn the_drain_and_the_leaks_of_a_node_are_told_as_it_sees_them_now() {
    let service = Service::start_nodes(["a"]).await;
    let id = service.create(json!({})).await;
    service.node.set_phase(NodePhase::Draining);
    let drain = service.admin().get("/nodes/a/drain").await.ok(200);
    assert_eq!(
        drain,
        json!({
            "nodeID": "a", "serviceInstanceID": "a-instance-1", "phase": "draining",
            "changedAt": "1970-01-01T00:00:00Z", "epoch": 1, "accepting": false,
            "drainingSince": "1970-01-01T00:00:00Z", "remaining": 1,
            "counts":
                {"starting": 0, "live": 1, "stopping": 0, "stuck": 0, "build": 0, "upload": 0},
            "blockers": [{
                "class": "live", "id": id.as_str(), "state": "live", "ageMs": 1500,
                "endsAt": drain["blockers"][0]["endsAt"],
            }],
        })
    );
    let typed: NodeDrain = serde_json::from_value(drain).unwrap();
    assert_eq!((typed.remaining, typed.eta_ms), (1, None));
    let leaks = service.admin().get("/nodes/a/leaks").await.ok(200);
    assert_eq!(
        leaks,
        json!({
            "owned": [{"kind": "cgroup", "name": "cofferdam-0", "owner": "node"}],
            "leaked": [{"kind": "link", "name": "cd0-7", "owner": "slot 7"}],
        })
    );
    let typed: NodeLeaks = serde_json::from_value(leaks).unwrap();
    assert_eq!(typed.leaked.len(), 1);
    service.stop().await;
}

#[tokio::test]
async fn two_nodes_of_one_name_are_one_node() {
    let service = Service::start_nodes(["a", "a"]).await;
    let nodes = service.admin().get("/nodes").await.ok(200);
    assert_eq!(nodes.as_array().unwrap().len(), 1);
    for _ in 0..4 {
        service.create(json!({})).await;
    }
    let mut counts = service.counts();
    counts.sort_unstable();
    assert_eq!(counts, [0, 4]);
    service.stop().await;
}
