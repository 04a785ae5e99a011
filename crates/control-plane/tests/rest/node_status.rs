use axum::body::Body;
use futures::future::join_all;
use http::Request;
use model::{NodePhase, NodeRequest};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::fake_node::Fault;
use crate::service::{ADMIN_TOKEN, Service};

const NIL: &str = "00000000-0000-0000-0000-000000000000";
const OTHER: &str = "11111111-2222-4333-8444-555555555555";

/// What a status request from each phase is answered, and where it leads: rows are phases, columns
/// ready, standby, unhealthy, draining, draining with force.
#[tokio::test]
async fn every_pair_of_phase_and_status_is_answered_as_the_contract_says() {
    use NodePhase::{Draining, ForceFailed, Forcing, Healthy, Standby, Stopped, Unhealthy};
    let service = Service::start_nodes(["a"]).await;
    let admin = service.admin();
    let bodies = [
        json!({"status": "ready"}),
        json!({"status": "standby"}),
        json!({"status": "unhealthy"}),
        json!({"status": "draining"}),
        json!({"status": "draining", "forceStop": true}),
    ];
    let to = |phase| (204, phase);
    let final_in = |phase| [(409, phase), (409, phase), (409, phase)];
    let free = [to(Healthy), to(Standby), to(Unhealthy), to(Draining), to(Forcing)];
    let drain = |phase, force| {
        let [ready, standby, unhealthy] = final_in(phase);
        [ready, standby, unhealthy, to(phase), to(force)]
    };
    let rows = [
        (Healthy, free),
        (Standby, free),
        (Unhealthy, free),
        (Draining, drain(Draining, Forcing)),
        (Forcing, drain(Forcing, Forcing)),
        (ForceFailed, drain(ForceFailed, Forcing)),
        (Stopped, drain(Stopped, Stopped)),
    ];
    for (from, cells) in rows {
        for (body, (status, phase)) in bodies.iter().zip(cells) {
            service.node.set_phase(from);
            let answer = admin.post("/nodes/a", body).await;
            let shown = format!("{from:?} {body}");
            assert_eq!(answer.status.as_u16(), status, "{shown}: {}", answer.text);
            assert_eq!(service.node.phase(), phase, "{shown}");
            if status == 204 {
                assert_eq!(answer.text, "", "{shown}");
                let drain = admin.get("/nodes/a").await.ok(200)["drain"]["phase"].clone();
                assert_eq!(drain, phase.as_str(), "{shown}: read after the answer");
            } else {
                assert!(answer.error(409).contains("cannot be reversed"), "{shown}");
            }
        }
    }
    service.stop().await;
}

#[tokio::test]
async fn a_request_that_is_wrong_is_refused_before_the_node_is_looked_for() {
    let service = Service::start_nodes(["a"]).await;
    let admin = service.admin().with("content-type", "application/json");
    for node in ["a", "unknown"] {
        let path = format!("/nodes/{node}");
        for body in [
            String::new(),
            "{".to_owned(),
            "[]".to_owned(),
            "{}".to_owned(),
            json!({"status": "gone"}).to_string(),
            json!({"status": null}).to_string(),
            json!({"status": "draining", "forceStop": "yes"}).to_string(),
            json!({"status": "draining", "clusterID": "x"}).to_string(),
            json!({"status": "draining", "clusterID": ""}).to_string(),
            json!({"status": "ready", "forceStop": true}).to_string(),
            json!({"status": "connecting", "forceStop": true}).to_string(),
        ] {
            admin.send("POST", &path, body).await.error(400);
        }
        admin.with("content-type", "text/plain").send("POST", &path, "{}").await.error(400);
    }
    let unknown = [
        ("/nodes/unknown", json!({"status": "draining", "forceStop": true})),
        ("/nodes/unknown", json!({"status": "connecting"})),
        ("/nodes/a", json!({"status": "draining", "clusterID": OTHER})),
    ];
    for (path, body) in unknown {
        let answer = admin.post(path, &body).await;
        assert_eq!((answer.status.as_u16(), answer.text.as_str()), (404, ""), "{path} {body}");
    }
    admin.post("/nodes/a", &json!({"status": "connecting"})).await.error(500);
    assert_eq!(service.node.requests(), [], "none of them reached the node");
    service.stop().await;
}

#[tokio::test]
async fn only_operators_change_a_status() {
    let service = Service::start_nodes(["a"]).await;
    let body = json!({"status": "draining"});
    service.client.post("/nodes/a", &body).await.error(401);
    let wrong = service.admin().with("x-admin-token", "wrong");
    wrong.post("/nodes/a", &body).await.error(401);
    wrong.post("/nodes/a", &json!("not even looked at")).await.error(401);
    assert_eq!(service.node.requests(), []);
    service.stop().await;
}

#[tokio::test]
async fn the_local_cluster_can_be_named_and_no_force_is_said() {
    let service = Service::start_nodes(["a"]).await;
    let body = json!({"status": "standby", "clusterID": NIL, "forceStop": false});
    assert_eq!(service.admin().post("/nodes/a", &body).await.status, 204);
    let body = json!({"status": "ready", "forceStop": null, "clusterID": null});
    assert_eq!(service.admin().post("/nodes/a", &body).await.status, 204);
    assert_eq!(service.node.requests(), [NodeRequest::Standby, NodeRequest::Healthy]);
    service.stop().await;
}

#[tokio::test]
async fn a_node_that_is_away_is_told_apart_from_one_that_fails() {
    let service = Service::start_nodes(["a"]).await;
    let admin = service.admin();
    let body = json!({"status": "draining"});
    service.node.set_fault(Some(Fault::Unreachable));
    let away = admin.post("/nodes/a", &body).await;
    assert!(away.error(502).contains("a fault of this test"));
    assert_eq!(away.header("retry-after"), Some("5"));
    service.node.set_fault(Some(Fault::Internal));
    let failed = admin.post("/nodes/a", &body).await;
    failed.error(500);
    assert_eq!(failed.header("retry-after"), None);
    service.node.set_fault(None);
    assert_eq!(admin.post("/nodes/a", &body).await.status, 204);
    service.stop().await;
}

#[tokio::test]
async fn a_request_meant_for_an_earlier_instance_changes_nothing() {
    let service = Service::start_nodes(["a"]).await;
    let admin = service.admin();
    let read = admin.get("/nodes/a").await.ok(200)["serviceInstanceID"].clone();
    let body = json!({"status": "draining", "forceStop": true, "serviceInstanceID": read});
    service.node.set_instance("a-instance-2");
    assert!(admin.post("/nodes/a", &body).await.error(409).contains("a-instance-2"));
    assert_eq!((service.node.phase(), service.node.requests()), (NodePhase::Healthy, Vec::new()));
    service.node.set_fault(Some(Fault::Unreachable));
    admin.post("/nodes/a", &body).await.error(502);
    service.node.set_fault(None);
    let body = json!({"status": "draining", "serviceInstanceID": "a-instance-2"});
    assert_eq!(admin.post("/nodes/a", &body).await.status, 204);
    service.stop().await;
}

#[tokio::test]
async fn a_request_made_for_an_earlier_epoch_changes_nothing() {
    let service = Service::start_nodes(["a"]).await;
    let admin = service.admin();
    let read = admin.get("/nodes/a/drain").await.ok(200)["epoch"].clone();
    let standby = json!({"status": "standby", "epoch": read});
    assert_eq!(admin.post("/nodes/a", &standby).await.status, 204);
    // Somebody else has changed it since it was read.
    let force = json!({"status": "draining", "forceStop": true, "epoch": read});
    assert!(admin.post("/nodes/a", &force).await.error(409).contains("is standby in epoch 2"));
    assert_eq!(service.node.phase(), NodePhase::Standby);
    assert_eq!(service.node.requests(), [NodeRequest::Standby]);
    // What is no change does not make a new one.
    let again = json!({"status": "standby", "epoch": 2});
    for _ in 0..2 {
        assert_eq!(admin.post("/nodes/a", &again).await.status, 204);
    }
    // The epoch of another process says nothing.
    let elsewhere = json!({"status": "ready", "epoch": 2, "serviceInstanceID": "a-instance-0"});
    assert!(admin.post("/nodes/a", &elsewhere).await.error(409).contains("a-instance-1"));
    for wrong in [json!(-1), json!("2"), json!(2.5)] {
        admin.post("/nodes/a", &json!({"status": "ready", "epoch": wrong})).await.error(400);
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_requests_made_for_one_epoch_one_changes_the_node() {
    let service = Service::start_nodes(["a"]).await;
    let admin = service.admin();
    let statuses = ["standby", "unhealthy"];
    let bodies = (0..40).map(|n| json!({"status": statuses[n % 2], "epoch": 1}));
    let bodies: Vec<Value> = bodies.collect();
    let answers = join_all(bodies.iter().map(|body| admin.post("/nodes/a", body))).await;
    let changed = answers.iter().filter(|answer| answer.status == 204).count();
    assert_eq!((changed, service.node.requests().len()), (1, 1));
    assert!(answers.iter().all(|answer| matches!(answer.status.as_u16(), 204 | 409)));
    service.stop().await;
}

#[tokio::test]
async fn forcing_goes_on_after_the_answer() {
    let service = Service::start_nodes(["a"]).await;
    let id = service.create(json!({})).await;
    let body = json!({"status": "draining", "forceStop": true});
    let admin = service.admin();
    assert_eq!(admin.post("/nodes/a", &body).await.status, 204);
    let drain = admin.get("/nodes/a/drain").await.ok(200);
    assert_eq!((&drain["phase"], &drain["remaining"]), (&json!("forcing"), &json!(1)));
    assert_eq!(drain["attempt"]["running"], true);
    service.node.end(&id, model::EndReason::NodeStop);
    service.gone(&id).await;
    let drain = admin.get("/nodes/a/drain").await.ok(200);
    assert_eq!((&drain["remaining"], &drain["etaMs"]), (&json!(0), &json!(0)));
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_requests_at_once_end_in_a_drain_when_one_of_them_drains() {
    let service = Service::start_nodes(["a"]).await;
    let router = service.plane.router();
    let statuses = ["ready", "standby", "unhealthy", "draining"];
    let ask = |n: usize| {
        let body = json!({"status": statuses[n % statuses.len()]}).to_string();
        let request = Request::post("/nodes/a")
            .header("x-admin-token", ADMIN_TOKEN)
            .header("content-type", "application/json")
            .body(Body::from(body))
            .unwrap();
        let router = router.clone();
        async move {
            let answer = router.oneshot(request).await.unwrap().status().as_u16();
            (n, answer)
        }
    };
    let answers = join_all((0..1000).map(ask)).await;
    for (n, answer) in &answers {
        let drains = statuses[n % statuses.len()] == "draining";
        assert!(*answer == 204 || (*answer == 409 && !drains), "{n}: {answer}");
    }
    assert_eq!(service.node.phase(), NodePhase::Draining);
    // No older answer of the node overtakes: it is never shown as anything else again.
    for _ in 0..5 {
        let shown: Value = service.admin().get("/nodes/a").await.ok(200);
        assert_eq!(shown["status"], "draining");
        service.ready().await;
    }
    service.stop().await;
}
