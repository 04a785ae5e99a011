use model::SandboxId;
use serde_json::json;

use crate::fake_node::{FakeNode, Fault};
use crate::service::Service;

#[tokio::test]
async fn operators_see_the_sandboxes_of_a_node_as_it_has_them_and_clients_do_not() {
    let service = Service::start_nodes(["a"]).await;
    let admin = service.admin();
    let id = service.create(json!({"metadata": {"who": "me"}})).await;
    let listed = admin.get("/nodes/a/sandboxes").await.ok(200);
    assert_eq!(listed.as_array().unwrap().len(), 1);
    let row = &listed[0];
    assert_eq!((&row["sandboxID"], &row["nodeID"]), (&json!(id.as_str()), &json!("a")));
    assert_eq!((&row["state"], &row["left"]), (&json!("live"), &json!([])));
    assert_eq!((&row["metadata"]["who"], &row["memoryMB"]), (&json!("me"), &json!(512)));
    for field in ["lifecycleID", "teamID", "templateID", "startedAt", "endAt"] {
        assert!(row[field].is_string(), "{field} in {row}");
    }

    let path = format!("/nodes/a/sandboxes/{id}");
    service.client.get("/nodes/a/sandboxes").await.error(401);
    service.client.delete(&path).await.error(401);
    assert!(service.node.has(&id));
    for unknown in ["/nodes/b/sandboxes", "/nodes/UPPER/sandboxes"] {
        assert_eq!(admin.get(unknown).await.status, 404);
    }
    assert_eq!(admin.delete(&format!("/nodes/b/sandboxes/{id}")).await.status, 404);
    admin.delete("/nodes/a/sandboxes/NO-SUCH-ID").await.error(400);
    service.node.set_fault(Some(Fault::Unreachable));
    admin.get("/nodes/a/sandboxes").await.error(502);
    service.node.set_fault(None);
    service.stop().await;
}

#[tokio::test]
async fn an_operator_is_told_what_is_left_of_a_sandbox_and_can_try_again() {
    let service = Service::start_nodes(["a"]).await;
    let admin = service.admin();
    let id = service.create(json!({})).await;
    let path = format!("/nodes/a/sandboxes/{id}");
    service.node.set_stuck(&id, true);
    let refused = admin.delete(&path).await.error(409);
    assert!(refused.contains("/var/lib/secret: busy"), "operators see the reason: {refused}");
    assert_eq!(admin.get("/nodes/a/sandboxes").await.ok(200)[0]["state"], "stuck");
    // Clients do not find it any more.
    assert_eq!(service.list("").await, [""; 0]);
    assert_eq!(service.routes.addr(&id), None);
    service.node.set_stuck(&id, false);
    assert_eq!(admin.delete(&path).await.status, 204);
    service.client.delete(&format!("/sandboxes/{id}")).await.error(404);
    assert!(admin.delete(&path).await.error(404).contains("node a has no sandbox"));
    service.stop().await;
}

#[tokio::test]
async fn what_is_in_no_record_of_a_client_an_operator_can_end() {
    let (service, other) = (Service::start_nodes(["a"]).await, Service::start_nodes(["b"]).await);
    let id: SandboxId = other.create(json!({})).await;
    let (node, from): (&FakeNode, &FakeNode) = (&service.node, &other.node);
    node.take_over(from, &id);
    service.client.delete(&format!("/sandboxes/{id}")).await.error(404);
    assert!(node.has(&id));
    let path = format!("/nodes/a/sandboxes/{id}");
    assert_eq!(service.admin().delete(&path).await.status, 204);
    assert!(!node.has(&id));
    other.stop().await;
    service.stop().await;
}

#[tokio::test]
async fn operators_see_what_is_paused_and_end_it() {
    let service = Service::start_nodes(["a"]).await;
    let admin = service.admin();
    for (memory, state) in [(true, "paused"), (false, "paused-files")] {
        let id = service.create(json!({})).await;
        assert_eq!(service.pause(&id, json!({"memory": memory})).await, 204);
        let listed = admin.get("/nodes/a/sandboxes").await.ok(200);
        assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
        assert_eq!(
            (&listed[0]["sandboxID"], &listed[0]["state"]),
            (&json!(id.as_str()), &json!(state))
        );
        assert_eq!(admin.delete(&format!("/nodes/a/sandboxes/{id}")).await.status, 204);
        assert!(!service.node.has(&id));
        service.is(&id, "ended").await;
    }
    service.stop().await;
}
