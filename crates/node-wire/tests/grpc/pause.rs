//! Sandboxes that stand still, and templates made of sandboxes: our client and our server.

use std::time::Duration;

use model::{EndReason, Keep, OnTimeout, SandboxId, SandboxPhase};
use node_wire::{
    CreateError, NewSnapshot, NodeApi, NodeError, NodeEvent, PauseError, PauseOrder, RemoveError,
};

use crate::fake_node::pause::HALTED;
use crate::fake_node::{FakeNode, moment};
use crate::harness::{Service, within};
use crate::own_client::{same, spec};

const LIMIT: Duration = Duration::from_secs(7);

fn id(text: &str) -> SandboxId {
    text.parse().unwrap()
}

fn new(template: &str, build: &str) -> NewSnapshot {
    NewSnapshot {
        template: template.parse().unwrap(),
        build: build.parse().unwrap(),
        passing: false,
    }
}

const STRICT: PauseOrder = PauseOrder { keep: Keep::Memory, healthy_only: true };

#[tokio::test]
async fn a_sandbox_is_paused_told_of_and_goes_on_without_a_loss() {
    let service = Service::start().await;
    let client = service.client();
    let started = client.create(spec("i1"), LIMIT).await.unwrap();
    let paused = client.pause(&id("i1"), Keep::Memory).await.unwrap();
    assert!(paused.memory && paused.paused_at == moment(90), "{paused:?}");
    assert_eq!(paused.lifecycle, started.status.lifecycle);
    assert_eq!(paused.metadata, spec("i1").metadata);
    assert_eq!(service.node.paused().await.unwrap(), std::slice::from_ref(&paused));
    assert_eq!(client.paused().await.unwrap(), std::slice::from_ref(&paused));
    assert_eq!(client.list().await.unwrap()[0].phase, SandboxPhase::Paused);
    let again = client.pause(&id("i1"), Keep::Memory).await.unwrap_err();
    assert_eq!(again, PauseError::Paused("i1".into()));

    let resumed = client.resume(spec("i1"), Keep::Memory, LIMIT).await.unwrap();
    same(&*service.node.pauses.resumes.lock(), &vec![(spec("i1"), LIMIT)]);
    assert!(resumed.memory && resumed.started.route.lifecycle == paused.lifecycle, "{resumed:?}");
    assert_eq!(resumed.started.route.addr.to_string(), "10.213.0.8");
    same(&vec![resumed.started.status], &service.node.list().await.unwrap());
    assert_eq!(client.paused().await.unwrap(), []);

    let files = client.pause(&id("i1"), Keep::Files).await.unwrap();
    assert!(!files.memory);
    assert!(client.list().await.unwrap().is_empty());
    let resumed = client.resume(spec("i1"), Keep::Files, LIMIT).await.unwrap();
    assert!(!resumed.memory && resumed.started.route.lifecycle != paused.lifecycle);
    let keeps = [Keep::Memory, Keep::Memory, Keep::Memory, Keep::Files, Keep::Files];
    assert_eq!(service.node.pauses.asked.lock().iter().map(|(_, k)| *k).collect::<Vec<_>>(), keeps);

    client.pause(&id("i1"), Keep::Files).await.unwrap();
    client.kill(&id("i1"), EndReason::Request).await.unwrap();
    assert_eq!(client.paused().await.unwrap(), [], "it goes with what was kept of it");
    service.stop().await;
}

#[tokio::test]
async fn however_many_are_paused_each_is_told() {
    let service = Service::start().await;
    let client = service.client();
    for at in 0..2000 {
        let id = format!("i{at}");
        service.node.create(spec(&id), LIMIT).await.unwrap();
        service.node.pause(&id.parse().unwrap(), Keep::Files).await.unwrap();
    }
    let told = client.paused().await.unwrap();
    assert_eq!(told.len(), 2000);
    assert_eq!(told, service.node.paused().await.unwrap());
}

#[tokio::test]
async fn every_refusal_to_pause_or_to_take_a_snapshot_arrives_as_it_was_given() {
    let service = Service::start().await;
    let client = service.client();
    let refusals = [
        PauseError::NotFound("i1".into()),
        PauseError::Paused("i1".into()),
        PauseError::Busy("i1".into()),
        PauseError::AgentSilent("i1".into()),
        PauseError::DiskFull { free_mib: 5, reserve_mib: 2048 },
        PauseError::Limit("a node keeps at most 3 paused sandboxes".into()),
        PauseError::Failed("no space: 100%\nsecond".into()),
        PauseError::Lost("killed \u{2026}".into()),
        PauseError::Unreachable("connection refused".into()),
    ];
    for refusal in refusals {
        *service.node.pauses.fail.lock() = Some(refusal.clone());
        assert_eq!(client.pause(&id("i1"), Keep::Memory).await.unwrap_err(), refusal);
        *service.node.pauses.fail.lock() = Some(refusal.clone());
        assert_eq!(client.snapshot(&id("i1"), new("s", "b")).await.unwrap_err(), refusal);
    }
}

#[tokio::test]
async fn what_is_asked_of_the_guest_agent_and_what_it_was_arrive() {
    let service = Service::start().await;
    let client = service.client();
    client.create(spec("i1"), LIMIT).await.unwrap();
    *service.node.pauses.silent.lock() = true;
    let silent = PauseError::AgentSilent("i1".into());
    for order in [STRICT, PauseOrder::from(Keep::Files)] {
        assert_eq!(client.pause_by(&id("i1"), order).await.unwrap_err(), silent);
    }
    let paused = client.pause(&id("i1"), Keep::Memory).await.unwrap();
    assert!(paused.agent_silent);
    assert_eq!(client.paused().await.unwrap(), [paused]);
    client.resume(spec("i1"), Keep::Memory, LIMIT).await.unwrap();
    *service.node.pauses.silent.lock() = false;
    assert!(!client.pause_by(&id("i1"), STRICT).await.unwrap().agent_silent);
}

#[tokio::test]
async fn every_refusal_to_resume_arrives_as_it_was_given() {
    let service = Service::start().await;
    let client = service.client();
    client.create(spec("i1"), LIMIT).await.unwrap();
    let refused = client.resume(spec("i1"), Keep::Memory, LIMIT).await.unwrap_err();
    assert_eq!(refused, CreateError::AlreadyExists("i1".into()));
    let refused = client.resume(spec("i2"), Keep::Memory, LIMIT).await.unwrap_err();
    assert_eq!(refused, CreateError::NotPaused("i2".into()));
    for refusal in [
        CreateError::Draining,
        CreateError::Full { limit: 200 },
        CreateError::TooManyStarting { limit: 3 },
        CreateError::Failed { step: "thaw", message: "no".into() },
        CreateError::Expired { step: "init", limit_ms: 30_000 },
        CreateError::Cancelled,
        CreateError::Unreachable("no route".into()),
    ] {
        *service.node.fail_create.lock() = Some(refusal.clone());
        assert_eq!(client.resume(spec("i1"), Keep::Files, LIMIT).await.unwrap_err(), refusal);
    }
    let failure = NodeError::Internal("a lock is poisoned".into());
    *service.node.fail.lock() = Some(failure.clone());
    assert_eq!(client.paused().await.unwrap_err(), failure);
}

#[tokio::test]
async fn a_snapshot_becomes_a_template_that_is_told_as_one_and_can_be_removed() {
    let service = Service::start().await;
    let client = service.client();
    client.create(spec("i1"), LIMIT).await.unwrap();
    let passing = NewSnapshot { passing: true, ..new("s-1", "b-7") };
    let made = client.snapshot(&id("i1"), passing.clone()).await.unwrap();
    assert_eq!((&made.template, &made.build), (&passing.template, &passing.build));
    assert_eq!(made.halted, HALTED);
    assert_eq!(*service.node.pauses.snapshots.lock(), [(id("i1"), passing.clone())]);
    let templates = client.info().await.unwrap().templates;
    assert_eq!(templates, service.node.info().await.unwrap().templates);
    let snapshots: Vec<bool> = templates.iter().map(|template| template.snapshot).collect();
    assert_eq!(snapshots, [false, true]);

    for refusal in [
        RemoveError::NotFound("s-1".into()),
        RemoveError::InUse("s-1".into()),
        RemoveError::Unreachable("no route".into()),
        RemoveError::Internal("no".into()),
    ] {
        *service.node.pauses.fail_remove.lock() = Some(refusal.clone());
        assert_eq!(client.remove_template(&made.template).await.unwrap_err(), refusal);
    }
    client.remove_template(&made.template).await.unwrap();
    let gone = RemoveError::NotFound("s-1".into());
    assert_eq!(client.remove_template(&made.template).await.unwrap_err(), gone);
    assert_eq!(client.info().await.unwrap().templates, [FakeNode::template()]);
}

#[tokio::test]
async fn what_becomes_of_a_sandbox_when_its_time_is_over_reaches_the_node() {
    let service = Service::start().await;
    let client = service.client();
    let all = [OnTimeout::Kill, OnTimeout::Pause(Keep::Memory), OnTimeout::Pause(Keep::Files)];
    for (at, on_timeout) in all.into_iter().enumerate() {
        let spec = model::SandboxSpec { on_timeout, ..spec(&format!("i{at}")) };
        client.create(spec, LIMIT).await.unwrap();
    }
    let orders = service.node.orders.lock();
    assert_eq!(orders.iter().map(|(spec, _)| spec.on_timeout).collect::<Vec<_>>(), all);
}

#[tokio::test]
async fn events_of_a_pause_reach_a_listener_before_its_answer() {
    let service = Service::start().await;
    let client = service.client();
    client.create(spec("i1"), LIMIT).await.unwrap();
    let mut events = client.events();
    // As with a list of those that run: what happens later is told.
    client.paused().await.unwrap();
    let lifecycle = || "l1".parse().unwrap();
    let told = [
        NodeEvent::Pausing { id: id("i1"), lifecycle: lifecycle(), at: moment(1) },
        NodeEvent::Resumed { id: id("i1"), lifecycle: lifecycle(), at: moment(2) },
        NodeEvent::Paused {
            id: id("i1"),
            lifecycle: lifecycle(),
            memory: true,
            agent_silent: true,
            at: moment(3),
        },
        NodeEvent::Ended {
            id: id("i1"),
            lifecycle: lifecycle(),
            reason: EndReason::Paused,
            at: moment(4),
        },
    ];
    for event in told {
        service.node.announce(event.clone());
        same(&within(events.recv()).await.unwrap(), &event);
    }
    let paused = client.pause(&id("i1"), Keep::Memory).await.unwrap();
    let NodeEvent::Paused { id: told, lifecycle, memory: true, agent_silent: false, at } =
        within(events.recv()).await.unwrap()
    else {
        panic!("it is paused")
    };
    assert_eq!((told, lifecycle, at), (paused.id, paused.lifecycle, paused.paused_at));
}
