//! Copies of a running sandbox.

use model::{EndReason, Keep, OnTimeout, SandboxId};
use node_wire::{CreateError, PauseError};
use serde_json::json;

use crate::fake_node::ADDR;
use crate::service::{Service, wait_for};

fn path(id: &SandboxId) -> String {
    format!("/sandboxes/{id}/fork")
}

#[tokio::test]
async fn forks_are_sandboxes_of_their_own_with_the_settings_of_the_source() {
    let service = Service::start().await;
    let body = json!({
        "metadata": {"a": "b"}, "envVars": {"K": "v"}, "secure": true, "autoPause": true,
        "allow_internet_access": false, "network": {"allowOut": ["8.8.8.8"]}, "timeout": 500,
    });
    let id = service.create(body).await;
    let source = service.detail(&id).await;
    let forks = service.client.post(&path(&id), &json!({"timeout": 60, "count": 3})).await.ok(201);
    let forks = forks.as_array().unwrap();
    assert_eq!(forks.len(), 3);
    for fork in forks {
        assert_eq!(fork.as_object().unwrap().len(), 1, "one of the two: {fork}");
        let sandbox = &fork["sandbox"];
        assert_eq!(sandbox["templateID"], source["templateID"], "not the template of the copy");
        assert_ne!(sandbox["envdAccessToken"], source["envdAccessToken"]);
        let copy: SandboxId = sandbox["sandboxID"].as_str().unwrap().parse().unwrap();
        assert_ne!(copy, id);
        let detail = service.detail(&copy).await;
        for field in ["metadata", "network", "lifecycle", "allowInternetAccess", "alias"] {
            assert_eq!(detail[field], source[field], "{field}");
        }
        assert_eq!(service.routes.addr(&copy), Some(ADDR));
    }
    let spec = service.node.last_spec();
    assert_eq!((spec.ttl.as_secs(), spec.on_timeout), (60, OnTimeout::Pause(Keep::Memory)));
    assert_eq!(spec.env.get("K").map(String::as_str), Some("v"));
    assert_eq!(service.detail(&id).await, source, "its source runs as before");
    assert_eq!(service.node.asked_for(), (0, 0, 1), "one copy for all of them");
    let of_template = service.list("?template=base").await;
    assert_eq!(of_template.len(), 4);
    assert_eq!(service.client.get("/snapshots").await.ok(200), json!([]));
    // The copy goes with the last of them.
    service.compare();
    for id in of_template {
        assert_eq!(service.node.snapshots(), 1);
        service.node.end(&id.parse().unwrap(), EndReason::Timeout);
    }
    service.compare();
    wait_for(async || service.node.snapshots() == 0).await;
    service.stop().await;
}

#[tokio::test]
async fn each_fork_fails_by_itself() {
    let service = Service::start_with(|config| config.limits.team_sandboxes = 3).await;
    let id = service.create(json!({})).await;
    service.client.post(&path(&id), &json!({"count": 3})).await.error(400);
    let other = service.create(json!({})).await;
    let forks = service.client.post(&path(&id), &json!({"count": 2})).await.ok(201);
    let codes: Vec<_> =
        forks.as_array().unwrap().iter().map(|fork| &fork["error"]["code"]).collect();
    assert_eq!(codes.iter().filter(|code| **code == 429).count(), 1, "{forks}");
    assert_eq!(codes.iter().filter(|code| code.is_null()).count(), 1, "{forks}");
    service.client.delete(&format!("/sandboxes/{other}")).await;
    service.node.fail_next(CreateError::Invalid("no".into()));
    let forks = service.client.post(&path(&id), &json!({})).await.ok(201);
    assert_eq!(forks[0]["error"]["code"], 400);
    assert!(forks[0].get("sandbox").is_none());
    assert_eq!(service.node.snapshots(), 1, "the other was of no use");
    service.stop().await;
}

#[tokio::test]
async fn what_cannot_be_copied_is_refused_before_anything_is_started() {
    let service = Service::start().await;
    let id = service.create(json!({})).await;
    for body in [json!({"count": 0}), json!({"count": 101}), json!({"timeout": 0})] {
        service.client.post(&path(&id), &body).await.error(400);
    }
    for (error, status) in [
        (PauseError::Busy("i".into()), 503),
        (PauseError::DiskFull { free_mib: 1, reserve_mib: 2 }, 503),
        (PauseError::Failed("no".into()), 500),
    ] {
        service.node.fail_next_pause(error);
        service.client.post(&path(&id), &json!({})).await.error(status);
    }
    // What to do about it is in what the node says.
    service.node.fail_next_pause(PauseError::Limit("too deep; begin anew".into()));
    let refused = service.client.post(&path(&id), &json!({})).await.error(400);
    assert!(refused.ends_with("too deep; begin anew"), "{refused}");
    service.pause(&id, json!({})).await;
    assert!(service.client.post(&path(&id), &json!({})).await.error(409).contains("resume it"));
    assert_eq!((service.node.count(), service.node.snapshots()), (1, 0));
    service.stop().await;
}

#[tokio::test]
async fn the_copy_of_forks_that_were_cut_off_goes_too() {
    let (service, runtime) = Service::start_doomed().await;
    let id = service.create(json!({})).await;
    let node = service.node.clone();
    node.hold_creates(true);
    let (client, path) = (service.client.clone(), path(&id));
    let asking = lifecycle::TaskGroup::default();
    asking.spawn(tracing::Span::none(), async move {
        client.try_post(&path, &json!({"count": 2}), "key").await;
    });
    wait_for(async || node.snapshots() == 1 && *node.begun.borrow() == 3).await;
    let listed = *node.listed.borrow();
    service.compare();
    wait_for(async || *node.listed.borrow() > listed).await;
    assert_eq!(node.snapshots(), 1, "forks are being started");
    let service = service.crash(runtime, |_| {}).await;
    node.hold_creates(false);
    service.compare();
    wait_for(async || node.snapshots() == 0).await;
    assert_eq!(service.list("").await, [id.as_str()]);
    service.stop().await;
}

#[tokio::test]
async fn a_source_that_is_killed_while_it_is_copied_is_not_there() {
    let service = Service::start().await;
    for what in ["fork", "snapshots"] {
        let id = service.create(json!({})).await;
        service.node.hold_snapshots(true);
        let path = format!("/sandboxes/{id}");
        let before = service.node.asked_for().2;
        let kill = async {
            wait_for(async || service.node.asked_for().2 > before).await;
            let killed = service.client.delete(&path).await.status;
            service.node.hold_snapshots(false);
            killed
        };
        let copy = async { service.client.post(&format!("{path}/{what}"), &json!({})).await };
        let (killed, copy) = tokio::join!(kill, copy);
        assert_eq!(killed, 204);
        copy.error(404);
    }
    assert_eq!(service.client.get("/snapshots").await.ok(200), json!([]));
    assert_eq!(service.node.snapshots(), 0);
    service.stop().await;
}
