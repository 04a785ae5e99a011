//! Our client and our server: what goes in at one end comes out at the other.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use model::{
    Egress, EndReason, HeaderRule, NodePhase, NodeRequest, OnTimeout, ProxyTls, Resources,
    SandboxId, SandboxSpec, Secret, SocksProxy,
};
use node_wire::grpc::{BadAddress, Client};
use node_wire::{
    AdoptEnd, AdoptReport, BuildError, BuildRequest, BuildState, CreateError, Expected,
    JournalMark, NodeApi, NodeError, NodeEvent, StatusError,
};

use crate::fake_node::{FakeNode, moment};
use crate::harness::{LIMIT, Service, token, within};

fn secret(text: &str) -> Secret {
    Secret::new(text.into())
}

pub(crate) fn spec(id: &str) -> SandboxSpec {
    let proxy = SocksProxy::new("p:1080", Some("u".into()), Some(secret("pw"))).unwrap();
    let tls = ProxyTls::new(Some("p.example"), Some("-----BEGIN".into())).unwrap();
    let map = |name: &str| BTreeMap::from([(name.to_owned(), "value \u{e9}".to_owned())]);
    SandboxSpec {
        id: id.parse().unwrap(),
        team: "team-1".parse().unwrap(),
        template: "base".parse().unwrap(),
        resources: Some(Resources { vcpus: 4, memory_mib: 256, disk_mib: 99 }),
        env: map("env"),
        metadata: map("metadata"),
        access_token: Some(secret("agent-token")),
        ttl: Duration::from_millis(61_001),
        on_timeout: OnTimeout::Kill,
        internet: true,
        egress: Egress {
            allow: vec!["1.1.1.1".parse().unwrap()],
            deny: vec!["1.1.1.0/24".parse().unwrap()],
            domains: vec!["example.com".parse().unwrap(), "*.example.com".parse().unwrap()],
            name_servers: Some(vec![[9, 9, 9, 9].into()]),
            proxy: Some(proxy.in_tls(Some(tls))),
            headers: ["http://example.com", "*.example.com"]
                .map(|requests| HeaderRule {
                    requests: requests.parse().unwrap(),
                    headers: vec![("authorization".into(), secret("Bearer x"))],
                })
                .to_vec(),
        },
    }
}

fn build(id: &str) -> BuildRequest {
    BuildRequest {
        build: id.parse().unwrap(),
        template: "base".parse().unwrap(),
        alias: "base".into(),
    }
}

/// Equal in everything that is shown; not every type of the contract can be compared.
#[track_caller]
pub(crate) fn same(left: &impl std::fmt::Debug, right: &impl std::fmt::Debug) {
    assert_eq!(format!("{left:?}"), format!("{right:?}"));
}

#[tokio::test]
async fn a_sandbox_is_ordered_listed_moved_sampled_and_killed_without_a_loss() {
    let service = Service::start().await;
    let client = service.client();
    let limit = Duration::from_secs(7);
    let started = client.create(spec("i1"), limit).await.unwrap();
    same(&*service.node.orders.lock(), &vec![(spec("i1"), limit)]);
    assert_eq!(started.route.addr.to_string(), "10.213.0.7");
    assert_eq!(started.route.lifecycle, started.status.lifecycle);

    let id: SandboxId = "i1".parse().unwrap();
    client.set_end(&id, moment(777)).await.unwrap();
    client.set_egress(&id, spec("i1").egress).await.unwrap();
    assert_eq!(*service.node.rules.lock(), [(id.clone(), spec("i1").egress)]);
    let listed = client.list().await.unwrap();
    assert_eq!(listed[0].ends_at, moment(777));
    same(&listed, &service.node.list().await.unwrap());
    assert_eq!(client.samples(&id).await.unwrap(), [FakeNode::sample()]);

    client.kill(&id, EndReason::Timeout).await.unwrap();
    assert_eq!(*service.node.kills.lock(), [(id.clone(), EndReason::Timeout)]);
    let gone = NodeError::NotFound("i1".into());
    assert_eq!(client.kill(&id, EndReason::Request).await.unwrap_err(), gone);
    assert_eq!(client.set_end(&id, moment(1)).await.unwrap_err(), gone);
    assert_eq!(client.set_egress(&id, Egress::default()).await.unwrap_err(), gone);
    assert_eq!(client.samples(&id).await.unwrap_err(), gone);
    service.stop().await;
}

#[tokio::test]
async fn what_a_node_remembers_of_ended_runs_arrives_whole_however_many_are_asked_after() {
    let service = Service::start().await;
    let client = service.client();
    let all = FakeNode::endings();
    let both: Vec<SandboxId> = ["i0", "i1"].map(|id| id.parse().unwrap()).to_vec();
    assert_eq!(client.ended(&both).await.unwrap(), all);
    let some = client.ended(&both[..1]).await.unwrap();
    assert!(some.len() == 3 && some.iter().all(|ending| ending.id == both[0]));
    assert_eq!(client.ended(&[]).await.unwrap(), []);
    // More than one message holds, each of which is answered.
    let mut many: Vec<SandboxId> = (2..5000).map(|n| format!("i{n}").parse().unwrap()).collect();
    many.insert(0, both[0].clone());
    many.push(both[1].clone());
    let mut told = client.ended(&many).await.unwrap();
    told.sort_by_key(|ending| ending.at);
    assert_eq!(told, all);
}

#[tokio::test]
async fn what_a_node_took_over_arrives_whole() {
    let service = Service::start().await;
    let client = service.client();
    assert_eq!(client.adopt_report().await.unwrap(), None, "it has not looked yet");
    let end = |id: &str, reason| AdoptEnd { id: id.parse().unwrap(), reason };
    let report = AdoptReport {
        finished: true,
        adopted: 3,
        ended: vec![end("i1", EndReason::Crashed), end("i2", EndReason::HostRestart)],
        rolled_back: 4,
        stuck: 1,
        took: Duration::from_millis(1250),
    };
    *service.node.adopted.lock() = Some(report.clone());
    assert_eq!(client.adopt_report().await.unwrap(), Some(report));
    service.stop().await;
}

#[tokio::test]
async fn what_a_node_explains_of_a_run_arrives_whole_and_nothing_stays_nothing() {
    let service = Service::start().await;
    let client = service.client();
    let [id, other] = ["i1", "i2"].map(|id| id.parse::<SandboxId>().unwrap());
    let known = FakeNode::explanation();
    assert_eq!(client.explain(&id, None).await.unwrap(), Some(known.clone()));
    assert_eq!(client.explain(&id, Some(&known.lifecycle)).await.unwrap(), Some(known));
    let unknown = "l99".parse().unwrap();
    assert_eq!(client.explain(&id, Some(&unknown)).await.unwrap(), None);
    assert_eq!(client.explain(&other, None).await.unwrap(), None);
}

#[tokio::test]
async fn what_a_guest_agent_has_noted_arrives_whole_and_nothing_stays_nothing() {
    let service = Service::start().await;
    let client = service.client();
    let [id, other] = ["i1", "i2"].map(|id| id.parse::<SandboxId>().unwrap());
    let mark = JournalMark { run: "run1".into(), number: 7 };
    let told = client.journal(&id, &mark).await.unwrap();
    assert_eq!(told, Some(FakeNode::journal_after(&mark)));
    assert_eq!(client.journal(&other, &mark).await.unwrap(), None);
}

#[tokio::test]
async fn every_reason_to_end_a_sandbox_reaches_the_node() {
    use EndReason as R;
    let service = Service::start().await;
    let client = service.client();
    let reasons = [R::Request, R::Timeout, R::Crashed, R::StartFailed, R::NodeStop, R::Reclaimed];
    for reason in reasons {
        let started = client.create(spec("i1"), LIMIT).await.unwrap();
        client.kill(&started.status.id, reason).await.unwrap();
    }
    assert_eq!(service.node.kills.lock().iter().map(|(_, why)| *why).collect::<Vec<_>>(), reasons);
}

#[tokio::test]
async fn every_refusal_to_create_arrives_as_it_was_given() {
    let service = Service::start().await;
    let client = service.client();
    let refusals = [
        CreateError::Draining,
        CreateError::Starting,
        CreateError::Full { limit: 200 },
        CreateError::TooManyStarting { limit: 3 },
        CreateError::DiskFull { free_mib: 5, reserve_mib: 2048 },
        CreateError::AlreadyExists("i1".into()),
        CreateError::UnknownTemplate("nope".into()),
        CreateError::Invalid("metadata is too large".into()),
        CreateError::Failed { step: "slot", message: "no link: \u{2026} 100%\nsecond".into() },
        CreateError::Expired { step: "init", limit_ms: 30_000 },
        CreateError::Cancelled,
        CreateError::Unreachable("connection refused".into()),
    ];
    for refusal in refusals {
        *service.node.fail_create.lock() = Some(refusal.clone());
        let arrived = client.create(spec("i1"), LIMIT).await.unwrap_err();
        assert_eq!(arrived, refusal);
    }
}

#[tokio::test]
async fn a_refusal_longer_than_a_header_may_be_is_cut_and_still_arrives() {
    let service = Service::start().await;
    let client = service.client();
    let message = "\u{e9}x%".repeat(50_000);
    *service.node.fail_create.lock() = Some(CreateError::Failed { step: "boot", message });
    let arrived = client.create(spec("i1"), LIMIT).await.unwrap_err();
    let CreateError::Failed { step: "boot", message } = arrived else { panic!("{arrived}") };
    assert!(message.starts_with("\u{e9}x%\u{e9}x%") && message.ends_with('\u{2026}'));
    assert!(message.len() < 3000);
}

#[tokio::test]
async fn every_other_failure_of_a_node_arrives_as_it_was_given() {
    let service = Service::start().await;
    let client = service.client();
    let id: SandboxId = "i1".parse().unwrap();
    let failures = [
        NodeError::NotFound("i1".into()),
        NodeError::Stuck { id: "i1".into(), left: "slot: busy; mounts: busy".into() },
        NodeError::Unreachable("no route".into()),
        NodeError::Internal("a lock is poisoned".into()),
    ];
    for failure in failures {
        *service.node.fail.lock() = Some(failure.clone());
        assert_eq!(client.kill(&id, EndReason::Request).await.unwrap_err(), failure);
        assert_eq!(client.set_end(&id, moment(1)).await.unwrap_err(), failure);
        assert_eq!(client.samples(&id).await.unwrap_err(), failure);
        assert_eq!(client.list().await.unwrap_err(), failure);
        assert_eq!(client.info().await.unwrap_err(), failure);
        assert_eq!(client.drain_status().await.unwrap_err(), failure);
        assert_eq!(client.drain_updates().await.err().unwrap(), failure);
        assert_eq!(client.leaks().await.unwrap_err(), failure);
        assert_eq!(client.builds().await.unwrap_err(), failure);
        assert_eq!(client.ended(std::slice::from_ref(&id)).await.unwrap_err(), failure);
        assert_eq!(client.explain(&id, None).await.unwrap_err(), failure);
        assert_eq!(client.adopt_report().await.unwrap_err(), failure);
        assert_eq!(client.journal(&id, &JournalMark::default()).await.unwrap_err(), failure);
    }
}

#[tokio::test]
async fn what_a_node_says_of_itself_arrives_whole() {
    let service = Service::start().await;
    let client = service.client();
    client.create(spec("i1"), LIMIT).await.unwrap();
    same(&client.info().await.unwrap(), &service.node.info().await.unwrap());
    assert_eq!(client.leaks().await.unwrap(), FakeNode::census());
    for phase in NodePhase::ALL {
        service.node.set_phase(phase);
        assert_eq!(client.info().await.unwrap().phase, phase);
        assert_eq!(client.drain_status().await.unwrap(), service.node.document());
    }
}

#[tokio::test]
async fn a_status_is_changed_and_a_drain_is_refused_to_be_reversed() {
    let service = Service::start().await;
    let client = service.client();
    let steps = [
        (NodeRequest::Standby, NodePhase::Standby),
        (NodeRequest::Unhealthy, NodePhase::Unhealthy),
        (NodeRequest::Healthy, NodePhase::Healthy),
        (NodeRequest::Drain, NodePhase::Draining),
        (NodeRequest::DrainForced, NodePhase::Forcing),
    ];
    for (request, phase) in steps {
        client.request(request).await.unwrap();
        assert_eq!(service.node.phase(), phase);
    }
    for phase in NodePhase::ALL.into_iter().filter(|phase| phase.is_draining()) {
        service.node.set_phase(phase);
        let refused = client.request(NodeRequest::Healthy).await.unwrap_err();
        assert!(matches!(&refused, StatusError::DrainIsFinal(why) if why.from == phase));
    }
    for failure in [StatusError::Unreachable("x".into()), StatusError::Internal("y".into())] {
        *service.node.fail_status.lock() = Some(failure.clone());
        assert_eq!(client.request(NodeRequest::Drain).await.unwrap_err(), failure);
    }
}

#[tokio::test]
async fn a_change_that_is_meant_for_another_node_or_another_epoch_changes_nothing() {
    let service = Service::start().await;
    let client = service.client();
    let now = service.node.document();
    let (instance, epoch) = (Some(now.service_instance.clone()), Some(now.epoch));
    let stale = [
        Expected { instance: Some("another".into()), epoch },
        Expected { instance: instance.clone(), epoch: Some(now.epoch + 1) },
        Expected { instance: None, epoch: Some(now.epoch + 1) },
    ];
    for expected in stale {
        let told = expected.check(&now.service_instance, now.phase, now.epoch).unwrap_err();
        let refused = client.request_if(NodeRequest::Drain, expected).await.unwrap_err();
        assert_eq!(refused, told, "it says how the node is");
        assert_eq!(service.node.document(), now);
    }
    for (request, phase) in [
        (NodeRequest::Standby, NodePhase::Standby),
        (NodeRequest::Unhealthy, NodePhase::Unhealthy),
        (NodeRequest::Healthy, NodePhase::Healthy),
        (NodeRequest::Drain, NodePhase::Draining),
        (NodeRequest::DrainForced, NodePhase::Forcing),
    ] {
        let epoch = Some(service.node.document().epoch);
        let expected = Expected { instance: instance.clone(), epoch };
        client.request_if(request, expected).await.unwrap();
        assert_eq!(service.node.phase(), phase);
    }
}

#[tokio::test]
async fn a_drain_is_watched_as_it_changes() {
    let service = Service::start().await;
    let client = service.client();
    let mut updates = client.drain_updates().await.unwrap();
    assert_eq!(updates.next().await.unwrap().phase, NodePhase::Healthy);
    client.request(NodeRequest::Drain).await.unwrap();
    assert_eq!(within(updates.next()).await.unwrap().phase, NodePhase::Draining);
    client.request(NodeRequest::DrainForced).await.unwrap();
    assert_eq!(within(updates.next()).await.unwrap().phase, NodePhase::Forcing);
    service.stop().await;
    assert!(within(updates.next()).await.is_none(), "the stream ends with its server");
}

#[tokio::test]
async fn builds_are_started_followed_and_deleted() {
    let service = Service::start().await;
    let client = service.client();
    client.build(build("b1")).await.unwrap();
    let id = build("b1").build;
    let taken = client.build(build("b1")).await.unwrap_err();
    assert_eq!(taken, BuildError::AlreadyExists(id.clone()));
    let states =
        [BuildState::Building, BuildState::Completed, BuildState::Failed("no space".into())];
    for state in states {
        if state != BuildState::Building {
            service.node.end_build(&id, state.clone());
        }
        let status = client.build_status(&id).await.unwrap();
        assert_eq!(status, service.node.build_status(&id).await.unwrap());
        assert_eq!(status.state, state);
    }
    assert_eq!(client.builds().await.unwrap(), service.node.builds().await.unwrap());
    client.build_delete(&id).await.unwrap();
    let gone = BuildError::NotFound(id.clone());
    assert_eq!(client.build_status(&id).await.unwrap_err(), gone);
    assert_eq!(client.build_delete(&id).await.unwrap_err(), gone);
    let failures = [
        BuildError::Draining,
        BuildError::Starting,
        BuildError::TooMany { limit: 2 },
        BuildError::Unsupported("python".into()),
        BuildError::Unreachable("no route".into()),
    ];
    for failure in failures {
        *service.node.fail_build.lock() = Some(failure.clone());
        assert_eq!(client.build(build("b1")).await.unwrap_err(), failure);
    }
}

#[tokio::test]
async fn events_reach_every_listener_and_none_is_lost_between_listening_and_listing() {
    let service = Service::start().await;
    let client = service.client();
    let (mut one, mut two) = (client.events(), client.events());
    // Listing waits until the subscription is in force.
    client.list().await.unwrap();
    assert_eq!(service.node.listeners(), 1, "listeners share a stream");
    let ended = NodeEvent::Ended {
        id: "i1".parse().unwrap(),
        lifecycle: "l1".parse().unwrap(),
        reason: EndReason::Crashed,
        at: moment(3),
    };
    let moved = NodeEvent::EndMoved {
        id: "i2".parse().unwrap(),
        lifecycle: "l2".parse().unwrap(),
        ends_at: moment(4),
    };
    let torn = NodeEvent::TornDown {
        id: "i3".parse().unwrap(),
        lifecycle: "l3".parse().unwrap(),
        reason: EndReason::NodeStop,
        forced: true,
        left: vec!["kill: it runs".into(), "slot: waits for Kill".into()],
        at: moment(5),
    };
    service.node.announce(ended.clone());
    service.node.announce(moved.clone());
    service.node.announce(torn.clone());
    for listener in [&mut one, &mut two] {
        same(&within(listener.recv()).await.unwrap(), &ended);
        same(&within(listener.recv()).await.unwrap(), &moved);
        same(&within(listener.recv()).await.unwrap(), &torn);
    }
    drop((one, two));
    crate::harness::eventually("the stream ends", || service.node.listeners() == 0).await;
}

#[test]
fn an_address_that_is_none_is_refused_at_once() {
    let rows = [
        "",
        "10.0.0.7:5008",
        "https://10.0.0.7:5008",
        "http://10.0.0.7",
        "http://10.0.0.7:5008/path",
        "http://",
    ];
    for address in rows {
        let error = Client::new(address, &token()).unwrap_err();
        assert_eq!(error, BadAddress::Address(address.into()));
    }
    let bad = Secret::new("a\nb".into());
    assert_eq!(Client::new("http://10.0.0.7:5008", &bad).unwrap_err(), BadAddress::Token);
}
