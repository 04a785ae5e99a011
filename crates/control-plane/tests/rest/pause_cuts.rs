//! Pauses, and starts from them, that are cut off at every instant: by the end of the control plane,
//! of a node's answer, or of the node. Whatever was cut, the sandbox is one of the two, or gone with
//! a reason; it can be connected to and deleted.

use control_plane::UnknownSandboxes;
use lifecycle::TaskGroup;
use model::{EndReason, NodePhase, SandboxId, SandboxPhase};
use serde_json::json;

use crate::fake_node::{ADDR, FakeNode, Fault};
use crate::service::{Service, wait_for};

/// Ends the control plane while its node pauses a sandbox; the next one finds what `between` has
/// made of that.
async fn cut_pause(between: impl FnOnce(&FakeNode, &SandboxId)) -> (Service, SandboxId) {
    let (service, runtime) = Service::start_doomed().await;
    let id = service.create(json!({})).await;
    let node = service.node.clone();
    node.hold_pauses(true);
    ask(&service, format!("/sandboxes/{id}/pause"));
    wait_for(async || *node.held_pauses.borrow() == 1).await;
    let service = service.crash(runtime, |node| between(node, &id)).await;
    node.hold_pauses(false);
    (service, id)
}

/// The same while its node lets a paused one go on.
async fn cut_resume(between: impl FnOnce(&FakeNode, &SandboxId)) -> (Service, SandboxId) {
    let (service, runtime) = Service::start_doomed().await;
    let id = service.create(json!({})).await;
    assert_eq!(service.pause(&id, json!({})).await, 204);
    let node = service.node.clone();
    node.hold_resumes(true);
    ask(&service, format!("/sandboxes/{id}/resume"));
    wait_for(async || *node.held_resumes.borrow() == 1).await;
    let service = service.crash(runtime, |node| between(node, &id)).await;
    node.hold_resumes(false);
    (service, id)
}

/// Asks a service that dies before it answers.
fn ask(service: &Service, path: String) {
    let client = service.client.clone();
    let asking = TaskGroup::default();
    asking.spawn(tracing::Span::none(), async move {
        client.try_post(&path, &json!({}), "key").await;
    });
}

async fn runs_and_goes(service: Service, id: SandboxId) {
    assert_eq!(service.detail(&id).await["state"], "running");
    assert_eq!(service.routes.addr(&id), Some(ADDR));
    assert_eq!(service.connect(&id).await, 200);
    goes(service, id).await;
}

async fn sleeps_and_goes(service: Service, id: SandboxId, mode: &str) {
    let detail = service.detail(&id).await;
    assert_eq!((&detail["state"], &detail["pauseMode"]), (&json!("paused"), &json!(mode)));
    assert_eq!(service.routes.addr(&id), None);
    assert_eq!(service.connect(&id).await, 201);
    assert_eq!(service.routes.addr(&id), Some(ADDR));
    goes(service, id).await;
}

async fn goes(service: Service, id: SandboxId) {
    assert_eq!(service.client.delete(&format!("/sandboxes/{id}")).await.status, 204);
    assert!(!service.node.has(&id));
    assert_eq!(service.routes.addr(&id), None);
    service.stop().await;
}

#[tokio::test]
async fn a_pause_that_never_reached_the_node_leaves_it_running() {
    let (service, id) = cut_pause(|node, id| node.set_status_phase(id, SandboxPhase::Live)).await;
    runs_and_goes(service, id).await;
}

#[tokio::test]
async fn a_pause_that_the_node_finished_is_found() {
    for (memory, mode) in [(true, "full"), (false, "filesystem")] {
        let (service, id) = cut_pause(|node, id| drop(node.pause_unheard(id, memory))).await;
        sleeps_and_goes(service, id, mode).await;
    }
}

#[tokio::test]
async fn a_pause_that_the_node_is_still_at_is_waited_for() {
    let (service, id) = cut_pause(|_, _| {}).await;
    assert_eq!(service.detail(&id).await["state"], "paused");
    let listed = *service.node.listed.borrow();
    let finish = async {
        // The first question finds it under way.
        wait_for(async || *service.node.listed.borrow() > listed).await;
        service.node.pause_unheard(&id, true);
    };
    let (connected, ()) = tokio::join!(service.connect(&id), finish);
    assert_eq!(connected, 201);
    runs_and_goes(service, id).await;
}

#[tokio::test]
async fn a_pause_that_the_node_is_still_at_can_be_ended() {
    let (service, id) = cut_pause(|_, _| {}).await;
    goes(service, id).await;
}

#[tokio::test]
async fn a_pause_in_which_it_died_is_its_end() {
    let (service, id) = cut_pause(|node, id| {
        node.end_unheard(id, EndReason::Crashed, "");
    })
    .await;
    service.client.get(&format!("/sandboxes/{id}")).await.error(404);
    assert_eq!(service.explain(&id).await["ended"]["reason"], "crashed");
    service.stop().await;
}

#[tokio::test]
async fn a_start_that_never_reached_the_node_leaves_it_paused() {
    let (service, id) = cut_resume(|_, _| {}).await;
    sleeps_and_goes(service, id, "full").await;
}

#[tokio::test]
async fn a_start_that_the_node_finished_is_found() {
    let (service, id) = cut_resume(FakeNode::resume_unheard).await;
    runs_and_goes(service, id).await;
}

#[tokio::test]
async fn a_start_in_which_it_was_lost_is_its_end() {
    let (service, id) = cut_resume(|node, id| drop(node.lose(id))).await;
    service.client.get(&format!("/sandboxes/{id}")).await.error(404);
    assert_eq!(service.explain(&id).await["ended"]["reason"], "lost");
    service.stop().await;
}

#[tokio::test]
async fn an_answer_that_is_lost_is_found_out() {
    let service = Service::start().await;
    let id = service.create(json!({})).await;
    service.node.set_fault(Some(Fault::AnswersLost));
    assert_eq!(service.pause(&id, json!({})).await, 503);
    service.node.set_fault(None);
    service.compare();
    service.shows(&id, "paused").await;
    service.is(&id, "paused").await;
    service.node.set_fault(Some(Fault::AnswersLost));
    assert_eq!(service.connect(&id).await, 503);
    service.node.set_fault(None);
    service.compare();
    service.shows(&id, "running").await;
    runs_and_goes(service, id).await;
}

#[tokio::test]
async fn a_pause_while_nobody_listened_is_found_by_the_next_control_plane() {
    for memory in [true, false] {
        let service = Service::start().await;
        let (id, kept) = (service.create(json!({})).await, service.create(json!({})).await);
        let service = service.restart(|node| drop(node.pause_unheard(&id, memory))).await;
        assert_eq!(service.detail(&kept).await["state"], "running");
        sleeps_and_goes(service, id, if memory { "full" } else { "filesystem" }).await;
    }
}

#[tokio::test]
async fn a_paused_sandbox_outlives_the_control_plane_and_one_that_no_node_has_is_closed() {
    let service = Service::start().await;
    let (kept, lost) = (service.create(json!({})).await, service.create(json!({})).await);
    service.pause(&kept, json!({})).await;
    service.pause(&lost, json!({"memory": false})).await;
    let service = service.restart(|node| drop(node.lose(&lost))).await;
    assert_eq!(service.list("?state=paused").await, [kept.as_str()]);
    assert_eq!(service.explain(&lost).await["ended"]["reason"], "lost");
    sleeps_and_goes(service, kept, "full").await;
}

/// What is kept of a sandbox is removed for its owner and for nobody else.
#[tokio::test]
async fn a_paused_sandbox_that_was_not_to_be_found_and_is_there_again_is_paused() {
    let service = Service::start().await;
    let (id, ended) = (service.create(json!({})).await, service.create(json!({})).await);
    for paused in [&id, &ended] {
        service.pause(paused, json!({})).await;
    }
    let hidden = [&id, &ended].map(|paused| service.node.hide_paused(paused));
    service.compare();
    for paused in [&id, &ended] {
        service.gone(paused).await;
    }
    assert_eq!(service.explain(&id).await["ended"]["reason"], "lost");
    hidden.into_iter().for_each(|hidden| service.node.show_paused(hidden));
    service.compare();
    wait_for(async || service.list("?state=paused").await.len() == 2).await;
    // One whose owner wanted it gone stays so, wherever it turns up.
    let hidden = service.node.hide_paused(&ended);
    let gone = service.client.delete(&format!("/sandboxes/{ended}")).await.status;
    assert!(gone == 204 || gone == 404, "{gone}");
    service.node.show_paused(hidden);
    service.compare();
    service.gone(&ended).await;
    sleeps_and_goes(service, id, "full").await;
}

#[tokio::test]
async fn a_node_that_still_starts_may_have_what_is_paused_in_a_moment() {
    let service = Service::start().await;
    let (id, dead) = (service.create(json!({})).await, service.create(json!({})).await);
    service.pause(&id, json!({})).await;
    service.node.set_phase(NodePhase::Starting);
    let run = service.node.lifecycle(&id);
    let hidden = service.node.hide_paused(&id);
    service.node.end_unheard(&dead, EndReason::HostRestart, "");
    service.node.set_instance("node-1-instance-2");
    service.ready().await;
    service.compare();
    // Of what the node remembers the end of, nothing is waited for.
    service.gone(&dead).await;
    assert_eq!(service.detail(&id).await["state"], "paused");
    assert_eq!(service.connect(&id).await, 409, "its node has to find it first");
    service.node.show_paused(hidden);
    service.node.set_phase(NodePhase::Healthy);
    service.ready().await;
    assert_eq!(service.connect(&id).await, 201);
    assert_eq!(service.node.lifecycle(&id), run);
    goes(service, id).await;
}

#[tokio::test]
async fn after_the_records_were_lost_paused_ones_are_taken_in_or_ended() {
    for policy in [UnknownSandboxes::Adopt, UnknownSandboxes::End] {
        let service = Service::start().await;
        let (id, files) = (service.create(json!({})).await, service.create(json!({})).await);
        service.pause(&id, json!({})).await;
        service.pause(&files, json!({"memory": false})).await;
        let change = |config: &mut control_plane::Config| config.unknown_sandboxes = policy;
        let service = service.restart_without_records(change).await;
        if policy == UnknownSandboxes::End {
            wait_for(async || !service.node.has(&id) && !service.node.has(&files)).await;
            assert_eq!(service.list("").await, [""; 0]);
            service.stop().await;
            continue;
        }
        assert_eq!(service.list("?state=paused").await.len(), 2);
        assert_eq!(service.detail(&files).await["pauseMode"], "filesystem");
        let detail = service.detail(&id).await;
        assert_eq!(detail["network"]["allowPublicTraffic"], false, "it may have been private");
        assert_eq!(detail["lifecycle"]["onTimeout"], "pause", "somebody wants to keep it");
        assert_eq!(service.connect(&id).await, 201);
        let rules = service.node.last_spec().rules();
        assert_eq!(rules.deny, [model::Ipv4Range::ALL], "nobody knows what was allowed");
        goes_beside(service, id, &files).await;
    }
}

async fn goes_beside(service: Service, id: SandboxId, other: &SandboxId) {
    assert_eq!(service.client.delete(&format!("/sandboxes/{other}")).await.status, 204);
    goes(service, id).await;
}

#[tokio::test]
async fn a_kill_of_a_paused_one_is_carried_out_by_the_control_plane_after_the_one_that_was_asked() {
    let (service, runtime) = Service::start_doomed().await;
    let (id, files) = (service.create(json!({})).await, service.create(json!({})).await);
    service.pause(&id, json!({})).await;
    service.pause(&files, json!({"memory": false})).await;
    let node = service.node.clone();
    node.hold_kills(true);
    for id in [&id, &files] {
        let (client, path) = (service.client.clone(), format!("/sandboxes/{id}"));
        let asking = TaskGroup::default();
        asking.spawn(tracing::Span::none(), async move { client.try_delete(&path).await });
    }
    wait_for(async || *node.kills.borrow() == 2).await;
    let service = service.crash(runtime, |_| {}).await;
    node.forget_kills();
    node.hold_kills(false);
    wait_for(async || !node.has(&id) && !node.has(&files)).await;
    for id in [&id, &files] {
        service.is(id, "ended").await;
        assert_eq!(service.explain(id).await["ended"]["reason"], "request");
    }
    service.stop().await;
}

#[tokio::test]
async fn what_is_left_of_a_run_does_not_count_beside_what_will_be_kept_of_it() {
    let service = Service::start().await;
    let (paused, running) = (service.create(json!({})).await, service.create(json!({})).await);
    service.pause(&paused, json!({})).await;
    // Its memory is being given up: what is kept is safe when what ran is released.
    let (status, was) = service.node.hide_paused(&paused);
    service.node.plant(|planted| {
        *planted = torn_down(status.clone());
    });
    // The other has been paused by its node, of its files only.
    let ending = service.node.end_unheard(&running, EndReason::Paused, "");
    service.node.plant(|planted| {
        let lifecycle = ending.lifecycle.clone();
        let id = running.clone();
        *planted = torn_down(node_wire::SandboxStatus { id, lifecycle, ..status });
    });
    service.compare();
    service.is(&running, "pausing").await;
    assert_eq!(service.routes.addr(&running), None);
    service.is(&paused, "paused").await;
    service.node.lose(&paused);
    service.node.lose(&running);
    for id in [&paused, &running] {
        let mut was = was.clone();
        was.memory = false;
        was.id = id.clone();
        service.node.keep(was);
    }
    service.compare();
    for id in [&paused, &running] {
        wait_for(async || service.detail(id).await["pauseMode"] == "filesystem").await;
        assert_eq!(service.connect(id).await, 201);
    }
    service.stop().await;
}

fn torn_down(status: node_wire::SandboxStatus) -> node_wire::SandboxStatus {
    node_wire::SandboxStatus { phase: SandboxPhase::TearingDown, ..status }
}
