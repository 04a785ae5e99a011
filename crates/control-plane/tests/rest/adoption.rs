//! Sandboxes that a node has and the records do not.

use control_plane::UnknownSandboxes;
use e2b_wire::TokenSeed;
use model::{NodePhase, SandboxPhase, TeamId, TemplateId};
use serde_json::json;

use crate::fake_node::ADDR;
use crate::service::{SEED, Service, wait_for};

#[tokio::test]
async fn after_the_records_were_lost_what_runs_is_taken_in_and_served_to_its_end() {
    let service = Service::start().await;
    let body = json!({"metadata": {"n": "1"}, "timeout": 500, "secure": true});
    let id = service.create(body).await;
    let path = format!("/sandboxes/{id}");
    let before = service.client.get(&path).await.ok(200);
    let service = service.restart_without_records(|_| {}).await;
    let after = service.client.get(&path).await.ok(200);
    let private = json!({"allowPublicTraffic": false});
    let mut expected = before;
    expected["network"] = private;
    assert_eq!(after, expected, "nothing else of it has changed");
    assert_eq!(after["envdAccessToken"], TokenSeed::new(SEED).envd_token(id.as_str()));
    assert_eq!(service.routes.addr(&id), Some(ADDR));
    let terms = service.routes.ingress(&id).unwrap();
    let token = TokenSeed::new(SEED).traffic_token(id.as_str());
    assert_eq!(terms.traffic_token.unwrap().expose(), token, "it may have been private");
    // The next comparison has only what was recorded.
    service.routes.forget();
    service.compare();
    wait_for(async || service.routes.addr(&id).is_some()).await;
    let terms = service.routes.ingress(&id).unwrap();
    assert_eq!(terms.traffic_token.unwrap().expose(), token, "it stays private");
    assert_eq!(service.list("?metadata=n%3D1").await, [id.as_str()]);
    let explained = service.explain(&id).await["timeline"].to_string();
    assert!(explained.contains("adopted") && !explained.contains("asked"), "{explained}");
    let timeout = service.client.post(&format!("{path}/timeout"), &json!({"timeout": 50})).await;
    assert_eq!(timeout.status, 204);
    assert_eq!(service.client.delete(&path).await.status, 204);
    assert_eq!((service.node.count(), service.routes.count()), (0, 0));
    service.stop().await;
}

#[tokio::test]
async fn what_nobody_owns_is_ended_and_so_is_all_that_is_unknown_where_that_is_configured() {
    for policy in [UnknownSandboxes::Adopt, UnknownSandboxes::End] {
        let service = Service::start().await;
        let id = service.create(json!({})).await;
        let node = service.node.clone();
        let foreign = node.plant(|status| status.team = TeamId::parse("nobody").unwrap());
        let change = |config: &mut control_plane::Config| config.unknown_sandboxes = policy;
        let service = service.restart_without_records(change).await;
        wait_for(async || !node.has(&foreign.id)).await;
        let kept = policy == UnknownSandboxes::Adopt;
        wait_for(async || node.has(&id) == kept).await;
        assert_eq!(service.list("").await.len(), usize::from(kept));
        assert_eq!(service.routes.count(), usize::from(kept));
        service.stop().await;
    }
}

#[tokio::test]
async fn one_whose_template_nobody_has_any_more_is_taken_in_too() {
    let service = Service::start().await;
    let template = TemplateId::parse("forgotten").unwrap();
    let planted = service.node.plant(|status| status.template = template);
    service.compare();
    let path = format!("/sandboxes/{}", planted.id);
    wait_for(async || service.client.get(&path).await.status == 200).await;
    let detail = service.client.get(&path).await.ok(200);
    assert_eq!(detail["templateID"], "forgotten");
    assert_eq!(detail["envdVersion"], "0.6.4", "that of its node");
    assert_eq!(detail["metadata"], json!({"who": "planted"}));
    service.stop().await;
}

#[tokio::test]
async fn what_is_being_started_or_released_is_not_taken_in() {
    let service = Service::start().await;
    let phases = [SandboxPhase::Booting, SandboxPhase::TearingDown, SandboxPhase::Stuck];
    for phase in phases {
        let planted = service.node.plant(|status| status.phase = phase);
        let seen = service.create(json!({})).await;
        service.node.lose(&seen);
        service.compare();
        service.gone(&seen).await;
        service.client.get(&format!("/sandboxes/{}/explain", planted.id)).await.error(404);
        assert!(service.node.has(&planted.id), "{phase:?}");
    }
    service.stop().await;
}

#[tokio::test]
async fn a_sandbox_in_the_middle_of_its_own_create_is_left_to_it() {
    let service = Service::start().await;
    let seen = service.create(json!({})).await;
    service.node.hold_answers(true);
    let body = json!({"templateID": "base"});
    let create = service.client.post("/sandboxes", &body);
    let look = async {
        wait_for(async || service.node.count() == 2).await;
        service.node.lose(&seen);
        service.compare();
        service.gone(&seen).await;
        assert_eq!(service.node.count(), 1, "it is not ended");
        service.node.hold_answers(false);
    };
    let (answer, ()) = tokio::join!(create, look);
    let id: model::SandboxId = answer.ok(201)["sandboxID"].as_str().unwrap().parse().unwrap();
    let timeline = service.explain(&id).await["timeline"].to_string();
    assert!(timeline.contains("asked") && !timeline.contains("adopted"), "{timeline}");
    service.stop().await;
}

#[tokio::test]
async fn what_a_node_that_still_starts_has_taken_over_already_is_routed_at_once() {
    let service = Service::start().await;
    let (taken, still) = (service.create(json!({})).await, service.create(json!({})).await);
    let service = service
        .restart(|node| {
            node.lose(&still);
            node.set_phase(NodePhase::Starting);
            node.set_instance("node-1-instance-2");
        })
        .await;
    wait_for(async || service.routes.addr(&taken).is_some()).await;
    // The other one may come yet.
    assert_eq!(service.list("").await.len(), 2);
    service.node.set_phase(NodePhase::Healthy);
    service.gone(&still).await;
    assert_eq!(service.list("").await, [taken.as_str()]);
    service.stop().await;
}
