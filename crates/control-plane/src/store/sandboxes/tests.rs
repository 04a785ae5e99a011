use std::collections::BTreeMap;
use std::time::Duration;

use e2b_wire::{ApiKey, Timestamp};
use model::{
    BuildId, EndReason, Keep, LifecycleId, NodeId, OnTimeout, Resources, SandboxId, SandboxPhase,
    TemplateId,
};
use node_wire::SandboxStatus;
use tempfile::TempDir;

use super::{End, Inserted, Intent};
use crate::Team;
use crate::app::now;
use crate::store::{Paused, Resuming, RowState, SandboxRow, Store, Terms};

async fn store() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store.sqlite")).await.unwrap();
    store.configure_team(&Team::default(), &ApiKey::generate(), now()).await.unwrap();
    (dir, store)
}

fn starting(id: &str) -> SandboxRow {
    SandboxRow {
        id: SandboxId::parse(id).unwrap(),
        team: Team::default().id,
        template: TemplateId::parse("base").unwrap(),
        build: BuildId::parse("b").unwrap(),
        alias: Some("base".into()),
        envd_version: "0.6.4".into(),
        state: RowState::Starting,
        node: None,
        lifecycle: None,
        metadata: BTreeMap::from([("k".into(), "\u{e9}\"'".into())]),
        secure: true,
        internet: Some(false),
        network: None,
        resources: Resources { vcpus: 2, memory_mib: 512, disk_mib: 1024 },
        created_at: now(),
        started_at: now(),
        ends_at: now().after(Duration::from_secs(60)),
        origin: None,
        terms: Terms {
            on_timeout: OnTimeout::Pause(Keep::Files),
            auto_resume: true,
            ttl: Some(Duration::from_secs(60)),
            env: BTreeMap::from([("K".into(), "v=1".into())]),
        },
        paused: None,
        pauses: 0,
        adopted: false,
        revision: 0,
    }
}

fn running(id: &str) -> SandboxStatus {
    let row = starting(id);
    SandboxStatus {
        id: row.id,
        lifecycle: LifecycleId::parse("run1").unwrap(),
        team: row.team,
        template: row.template,
        phase: SandboxPhase::Live,
        resources: row.resources,
        metadata: row.metadata,
        started_at: row.started_at.to_system_time(),
        ends_at: row.ends_at.to_system_time(),
        addr: None,
        left: Vec::new(),
    }
}

pub(in crate::store) async fn insert(store: &Store, id: &str) -> SandboxId {
    let row = starting(id);
    let intent = Intent { row: &row, idempotency: None, team_limit: 1000 };
    assert_eq!(store.insert_sandbox(&intent).await.unwrap(), Inserted::Yes);
    row.id
}

async fn state(store: &Store, id: &SandboxId) -> Option<RowState> {
    let row = store.sandbox(&Team::default().id, id).await.unwrap();
    row.map(|row| row.state)
}

#[tokio::test]
async fn a_row_is_read_as_it_was_written_and_only_by_its_team() {
    let (_dir, store) = store().await;
    let id = insert(&store, "ia").await;
    assert!(store.sandbox_runs(&running("ia")).await.unwrap());
    let team = Team::default().id;
    let row = store.sandbox(&team, &id).await.unwrap().unwrap();
    assert_eq!(row.metadata, starting("ia").metadata);
    assert_eq!((row.secure, row.internet), (true, Some(false)));
    assert_eq!(row.lifecycle.unwrap().as_str(), "run1");
    assert_eq!(row.resources, starting("ia").resources);
    let other = model::TeamId::parse("other").unwrap();
    assert!(store.sandbox(&other, &id).await.unwrap().is_none());
    assert!(store.listed_sandboxes(&other).await.unwrap().is_empty());
    assert_eq!(store.listed_sandboxes(&team).await.unwrap().len(), 1);
}

#[tokio::test]
async fn the_limit_counts_what_starts_and_runs() {
    let (_dir, store) = store().await;
    let first = insert(&store, "ia").await;
    let row = starting("ib");
    let intent = Intent { row: &row, idempotency: None, team_limit: 1 };
    assert_eq!(store.insert_sandbox(&intent).await.unwrap(), Inserted::AtLimit);
    store.sandbox_killing(&first).await.unwrap();
    assert_eq!(store.insert_sandbox(&intent).await.unwrap(), Inserted::Yes);
}

#[tokio::test]
async fn the_end_told_by_the_node_closes_a_row_of_that_run_and_leaves_a_kill_alone() {
    let (_dir, store) = store().await;
    let id = insert(&store, "ia").await;
    store.sandbox_runs(&running("ia")).await.unwrap();
    let (this, other) = (LifecycleId::parse("run1").unwrap(), LifecycleId::parse("run2").unwrap());
    store.sandbox_ended(&id, &other, None, EndReason::Crashed, now()).await.unwrap();
    assert_eq!(state(&store, &id).await, Some(RowState::Running));
    store.sandbox_killing(&id).await.unwrap();
    store.sandbox_ended(&id, &this, None, EndReason::Request, now()).await.unwrap();
    assert_eq!(state(&store, &id).await, Some(RowState::Killing));
    assert!(!store.close_sandbox(&id, RowState::Running, &End::as_asked()).await.unwrap());
    assert!(store.close_sandbox(&id, RowState::Killing, &End::as_asked()).await.unwrap());
    assert_eq!(state(&store, &id).await, None);
    assert!(!store.sandbox_runs(&running("ia")).await.unwrap(), "an ended row stays ended");
}

#[tokio::test]
async fn the_end_told_by_a_node_that_was_left_for_another_closes_nothing() {
    let (_dir, store) = store().await;
    let id = insert(&store, "ia").await;
    let [first, second] = ["n1", "n2"].map(|id| NodeId::parse(id).unwrap());
    assert!(store.move_to_node(&id, &first).await.unwrap());
    assert!(store.move_to_node(&id, &second).await.unwrap());
    let run = LifecycleId::parse("run0").unwrap();
    store.sandbox_ended(&id, &run, Some(&first), EndReason::StartFailed, now()).await.unwrap();
    let row = store.sandbox(&Team::default().id, &id).await.unwrap().unwrap();
    assert_eq!((row.state, row.node), (RowState::Starting, Some(second.clone())));
    store.sandbox_ended(&id, &run, Some(&second), EndReason::Crashed, now()).await.unwrap();
    assert_eq!(store.record_state(&id).await.unwrap(), Some(RowState::Ended));
    assert!(!store.move_to_node(&id, &first).await.unwrap(), "an ended sandbox goes nowhere");
    let never = SandboxId::parse("inever").unwrap();
    assert_eq!(store.record_state(&never).await.unwrap(), None);
}

#[tokio::test]
async fn an_end_moves_only_from_where_it_was_read() {
    let (_dir, store) = store().await;
    let id = insert(&store, "ia").await;
    store.sandbox_runs(&running("ia")).await.unwrap();
    let team = Team::default().id;
    let from = store.sandbox(&team, &id).await.unwrap().unwrap().ends_at;
    let (first, second) = (from.after(Duration::from_secs(1)), from.after(Duration::from_secs(2)));
    store.move_end(&id, from, first).await.unwrap();
    store.move_end(&id, from, second).await.unwrap();
    assert_eq!(store.sandbox(&team, &id).await.unwrap().unwrap().ends_at, first);
}

#[tokio::test]
async fn old_rows_and_too_many_rows_are_removed_and_live_ones_never() {
    let (_dir, store) = store().await;
    let live = insert(&store, "ilive").await;
    store.sandbox_runs(&running("ilive")).await.unwrap();
    let lifecycle = LifecycleId::parse("none").unwrap();
    for n in 1..=4_i64 {
        let id = insert(&store, &format!("i{n}")).await;
        let at = Timestamp::from_micros(n * 1_000_000).unwrap();
        store.sandbox_ended(&id, &lifecycle, None, EndReason::Timeout, at).await.unwrap();
    }
    let at = |second: i64| Timestamp::from_micros(second * 1_000_000).unwrap();
    assert_eq!(store.purge_ended(at(0), 10).await.unwrap(), 0);
    assert_eq!(store.purge_ended(at(2), 10).await.unwrap(), 1, "older than second 2");
    assert_eq!(store.purge_ended(at(0), 2).await.unwrap(), 1, "more than two");
    assert_eq!(store.purge_ended(at(9), 10).await.unwrap(), 2);
    assert_eq!(state(&store, &live).await, Some(RowState::Running));
}

#[tokio::test]
async fn a_sandbox_without_a_record_gets_one_and_a_record_is_never_replaced() {
    let (_dir, store) = store().await;
    let at = now();
    let row = SandboxRow {
        state: RowState::Running,
        lifecycle: Some(LifecycleId::parse("run1").unwrap()),
        node: Some(NodeId::parse("n1").unwrap()),
        network: Some(e2b_wire::NetworkConfig::default()),
        terms: Terms::default(),
        paused: Some(Paused { at, memory: true, agent_silent: false }),
        pauses: 1,
        adopted: true,
        ..starting("ia")
    };
    assert!(store.adopt_sandbox(&row, at).await.unwrap());
    let team = Team::default().id;
    let adopted = store.history(&team, &row.id).await.unwrap().unwrap();
    assert_eq!(format!("{:?}", adopted.row), format!("{row:?}"));
    assert_eq!((adopted.adopted_at, adopted.end, adopted.released_at), (Some(at), None, None));
    let id = insert(&store, "ib").await;
    let row = SandboxRow { id: id.clone(), ..row };
    assert!(!store.adopt_sandbox(&row, at).await.unwrap());
    assert_eq!(state(&store, &id).await, Some(RowState::Starting));
}

#[tokio::test]
async fn released_is_what_has_ended_on_a_node_that_holds_nothing_of_it() {
    let (_dir, store) = store().await;
    let team = Team::default().id;
    let [mine, other] = ["n1", "n2"].map(|id| NodeId::parse(id).unwrap());
    let mut ids = Vec::new();
    for (name, node) in [("ilive", &mine), ("igone", &mine), ("iheld", &mine), ("ielse", &other)] {
        let id = insert(&store, name).await;
        assert!(store.move_to_node(&id, node).await.unwrap());
        ids.push(id);
    }
    for id in &ids[1..] {
        let end = End { released: false, ..End::as_asked() };
        assert!(store.close_sandbox(id, RowState::Starting, &end).await.unwrap());
    }
    let released = async || {
        let mut released = Vec::new();
        for id in &ids {
            let history = store.history(&team, id).await.unwrap().unwrap();
            if history.released_at.is_some() {
                released.push(id.as_str());
            }
        }
        released
    };
    let held = [ids[2].clone()].into();
    // Asked before they were made: it may have got them since.
    let early = now().before(Duration::from_secs(3600));
    store.released_but(&mine, &held, early).await.unwrap();
    assert_eq!(released().await, [""; 0]);
    let later = now().after(Duration::from_secs(1));
    store.released_but(&mine, &held, later).await.unwrap();
    assert_eq!(released().await, ["igone"]);
    store.released_but(&mine, &[].into(), later).await.unwrap();
    assert_eq!(released().await, ["igone", "iheld"]);
}

#[tokio::test]
async fn what_was_read_before_a_pause_and_its_end_changes_nothing_after_it() {
    let (_dir, store) = store().await;
    let id = insert(&store, "ia").await;
    assert!(store.sandbox_runs(&running("ia")).await.unwrap());
    let read = store.live_sandbox(&id).await.unwrap().unwrap();
    let end = End { reason: End::LOST.into(), ..End::as_asked() };
    assert!(store.begin_pause(&read).await.unwrap());
    assert!(!store.begin_pause(&read).await.unwrap());
    let pausing = store.live_sandbox(&id).await.unwrap().unwrap();
    let paused = Paused { at: now(), memory: true, agent_silent: false };
    assert!(store.heard_paused(&pausing, paused).await.unwrap());
    let asleep = store.live_sandbox(&id).await.unwrap().unwrap();
    assert_eq!((asleep.state, asleep.paused, asleep.pauses), (RowState::Paused, Some(paused), 1));
    assert_eq!(store.begin_resume(&asleep, 0).await.unwrap(), Resuming::AtLimit);
    assert_eq!(store.begin_resume(&asleep, 1).await.unwrap(), Resuming::Yes);
    assert_eq!(store.begin_resume(&asleep, 1).await.unwrap(), Resuming::Changed);
    let resuming = store.live_sandbox(&id).await.unwrap().unwrap();
    assert!(!store.close_read(&asleep, &end).await.unwrap());
    assert!(store.record_resume(&resuming, &running("ia"), now()).await.unwrap());
    // It runs, with the same lifecycle, as it was first read: only the revision tells.
    assert!(!store.close_read(&read, &end).await.unwrap());
    assert!(!store.heard_paused(&read, paused).await.unwrap());
    assert!(!store.begin_pause(&read).await.unwrap());
    assert_eq!(state(&store, &id).await, Some(RowState::Running));
    let read = store.live_sandbox(&id).await.unwrap().unwrap();
    assert!(store.close_read(&read, &end).await.unwrap());
}
