use e2b_wire::TokenSeed;
use model::{NodePhase, SandboxId};
use node_wire::CreateError;
use serde_json::json;

use crate::fake_node::{ADDR, Fault, template};
use crate::service::{SEED, Service, wait_for};

#[tokio::test]
async fn a_created_sandbox_is_answered_recorded_and_routed() {
    let service = Service::start_with(|config| config.domain = Some("box.test:1".into())).await;
    let body = json!({
        "templateID": "base", "timeout": 60, "secure": true, "allow_internet_access": false,
        "metadata": {"k": "v"}, "envVars": {"A": "1"}, "autoPause": false,
    });
    let sandbox = service.client.post("/sandboxes", &body).await.ok(201);
    let id = SandboxId::parse(sandbox["sandboxID"].as_str().unwrap()).unwrap();
    let token = TokenSeed::new(SEED).envd_token(id.as_str());
    assert_eq!(
        sandbox,
        json!({
            "templateID": "basetemplateid00000a", "sandboxID": id.as_str(),
            "clientID": "6532622b", "envdVersion": "0.6.4", "alias": "base",
            "envdAccessToken": token, "domain": "box.test:1",
        })
    );
    assert_eq!(service.routes.addr(&id), Some(ADDR));

    let spec = service.node.last_spec();
    assert_eq!(spec.template.as_str(), "basetemplateid00000a");
    assert_eq!(spec.env.get("A").map(String::as_str), Some("1"));
    assert_eq!(spec.ttl.as_secs(), 60);
    assert!(!spec.internet);
    assert_eq!(spec.access_token.unwrap().expose(), token);

    let detail = service.client.get(&format!("/sandboxes/{id}")).await.ok(200);
    assert_eq!(detail["metadata"], json!({"k": "v"}));
    assert_eq!(detail["state"], "running");
    assert_eq!(detail["allowInternetAccess"], false);
    assert_eq!(detail["envdAccessToken"], token);
    assert_eq!(detail["lifecycle"], json!({"autoResume": false, "onTimeout": "kill"}));
    assert_eq!((&detail["cpuCount"], &detail["memoryMB"]), (&json!(2), &json!(512)));
    assert_eq!(detail["diskSizeMB"], 1024);
    assert!(detail.get("network").is_none(), "null would break the Python SDK");
    service.stop().await;
}

#[tokio::test]
async fn the_bare_bodies_of_both_versions_get_their_defaults() {
    let service = Service::start().await;
    let first = service.client.post("/sandboxes", &json!({"templateID": "base"})).await.ok(201);
    assert!(first.get("envdAccessToken").is_none() && first.get("domain").is_none());
    assert_eq!(service.node.last_spec().ttl.as_secs(), 15);
    assert!(service.node.last_spec().internet);
    let second = service.client.post("/v2/sandboxes", &json!({"templateID": "base"})).await.ok(201);
    assert_eq!(second["envdAccessToken"].as_str().unwrap().len(), 64);
    assert_eq!(service.node.last_spec().ttl.as_secs(), 300);
    service.stop().await;
}

#[tokio::test]
async fn templates_are_found_by_alias_id_and_build_and_learnt_on_a_miss() {
    let service = Service::start().await;
    for name in ["BASE", "base:default", "basetemplateid00000a", " base "] {
        service.client.post("/sandboxes", &json!({"templateID": name})).await.ok(201);
    }
    let build = "base:11111111-2222-4333-8444-555555555555";
    service.client.post("/sandboxes", &json!({"templateID": build})).await.ok(201);
    for name in ["nope", "base:v2", "default/base", "other/base"] {
        let answer = service.client.post("/sandboxes", &json!({"templateID": name})).await;
        assert!(answer.error(404).contains("does not exist"), "{name}");
    }
    service.node.set_templates(vec![template("newtemplateid000000b", "nope")]);
    service.client.post("/sandboxes", &json!({"templateID": "nope"})).await.ok(201);
    let answer = service.client.post("/sandboxes", &json!({"templateID": "base"})).await;
    answer.error(404);
    service.stop().await;
}

#[tokio::test]
async fn every_refusal_of_the_node_is_answered_and_leaves_nothing() {
    let service = Service::start().await;
    let errors = [
        (CreateError::Draining, 503),
        (CreateError::Starting, 503),
        (CreateError::Full { limit: 1 }, 503),
        (CreateError::TooManyStarting { limit: 1 }, 503),
        (CreateError::DiskFull { free_mib: 1, reserve_mib: 2 }, 503),
        (CreateError::AlreadyExists("i".into()), 500),
        (CreateError::UnknownTemplate("t".into()), 503),
        (CreateError::Invalid("x".into()), 400),
        (CreateError::Failed { step: "slot", message: "/secret".into() }, 500),
        (CreateError::Expired { step: "boot", limit_ms: 1 }, 504),
        (CreateError::Cancelled, 409),
        (CreateError::Unreachable("x".into()), 503),
    ];
    for (error, status) in errors {
        // Not until the node has said how it is since the last refusal.
        service.ready().await;
        let waits = error.retry_after().map(|wait| wait.as_secs().to_string());
        let shown = format!("{error:?}");
        service.node.fail_next(error);
        let answer = service.client.post("/sandboxes", &json!({"templateID": "base"})).await;
        assert!(!answer.error(status).contains("/secret"), "{shown}");
        assert_eq!(answer.header("retry-after"), waits.as_deref(), "{shown}");
        assert_eq!(service.list("").await, [""; 0], "{shown}");
        assert_eq!(service.routes.count(), 0, "{shown}");
    }
    service.ready().await;
    service.create(json!({})).await;
    service.stop().await;
}

#[tokio::test]
async fn a_team_at_its_limit_is_refused_until_one_ends() {
    let service = Service::start_with(|config| config.limits.team_sandboxes = 2).await;
    let first = service.create(json!({})).await;
    service.create(json!({})).await;
    let answer = service.client.post("/sandboxes", &json!({"templateID": "base"})).await;
    assert!(answer.error(429).contains("2 sandboxes"));
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(service.client.delete(&format!("/sandboxes/{first}")).await.status, 204);
    service.create(json!({})).await;
    service.stop().await;
}

#[tokio::test]
async fn a_client_that_hangs_up_loses_the_answer_and_not_the_sandbox() {
    let service = Service::start().await;
    service.node.hold_creates(true);
    let client = service.client.clone();
    let body = json!({"templateID": "base", "metadata": {"who": "left"}});
    {
        let asking = client.post("/sandboxes", &body);
        tokio::pin!(asking);
        let mut begun = service.node.begun.subscribe();
        tokio::select! {
            _ = &mut asking => panic!("answered while the node was held"),
            begun = begun.wait_for(|begun| *begun == 1) => drop(begun.unwrap()),
        }
    }
    assert_eq!(service.list("").await, [""; 0]);
    service.node.hold_creates(false);
    wait_for(async || service.list("?metadata=who%3Dleft").await.len() == 1).await;
    assert_eq!((service.node.count(), service.routes.count()), (1, 1));
    service.stop().await;
}

#[tokio::test]
async fn closing_waits_for_a_create_under_way_and_refuses_new_ones() {
    let service = Service::start().await;
    service.node.hold_creates(true);
    let body = json!({"templateID": "base"});
    let create = service.client.post("/sandboxes", &body);
    let close = async {
        let mut begun = service.node.begun.subscribe();
        begun.wait_for(|begun| *begun == 1).await.unwrap();
        let plane = std::sync::Arc::clone(&service.plane);
        let limit = std::time::Duration::from_millis(1);
        plane.close(lifecycle::Budget::within(limit)).await.unwrap_err();
        let refused = service.client.post("/sandboxes", &body).await;
        assert!(refused.error(503).contains("stopping"));
        service.node.hold_creates(false);
    };
    let (created, ()) = tokio::join!(create, close);
    created.ok(201);
    service.stop().await;
}

#[tokio::test]
async fn health_follows_the_nodes_and_is_good_while_they_drain() {
    let service = Service::start_nodes(["a", "b"]).await;
    let client = service.client.without("x-api-key");
    let health = async |status: u16, text: &str| {
        wait_for(async || {
            let answer = client.get("/health").await;
            (answer.status.as_u16(), answer.text.as_str()) == (status, text)
        })
        .await;
    };
    health(200, "healthy\n").await;
    let [a, b] = &service.nodes[..] else { unreachable!("there are two") };
    a.set_fault(Some(Fault::Unreachable));
    health(200, "healthy\n").await;
    for phase in [
        NodePhase::Draining,
        NodePhase::Forcing,
        NodePhase::ForceFailed,
        NodePhase::Stopped,
        NodePhase::Standby,
    ] {
        b.set_phase(phase);
        health(200, "draining\n").await;
    }
    b.set_phase(NodePhase::Unhealthy);
    health(503, "the nodes are unhealthy\n").await;
    b.set_phase(NodePhase::Starting);
    health(503, "the nodes are starting\n").await;
    b.set_fault(Some(Fault::Unreachable));
    health(503, "no node can be reached\n").await;
    service.stop().await;
}
