//! Pauses, resumes and snapshots: every step failed, every daemon killed in the middle, and what is
//! asked at the same time.

use std::time::SystemTime;

use host::Fault;
use model::{BuildId, EndReason, Keep, OnTimeout, Resources, SandboxPhase, TemplateId};
use node_wire::{CreateError, NewSnapshot, NodeApi, NodeError, PauseError, PausedStatus, Resumed};

use super::crashes::{Site, daemon};
use super::{Bench, Images, LIMIT, ends, secs};
use crate::backend::CREATE_POINTS;
use crate::fake::{Class, Manner};
use crate::pause::HALT_POINTS;
use crate::teardown::{SEAL_POINT, Step};

fn new_snapshot() -> NewSnapshot {
    NewSnapshot {
        template: TemplateId::parse("snapshot").unwrap(),
        build: BuildId::parse("b1").unwrap(),
        passing: false,
    }
}

impl Bench {
    async fn pause(&self, id: &str, keep: Keep) -> Result<PausedStatus, PauseError> {
        ends("pause", self.node.pause(&id.parse().unwrap(), keep)).await
    }

    async fn resume(&self, id: &str, keep: Keep) -> Result<Resumed, CreateError> {
        ends("resume", self.node.resume(self.spec(id), keep, LIMIT)).await
    }

    fn lifecycle(&self, id: &str) -> String {
        self.node.inner.registry.get(&id.parse().unwrap()).unwrap().lifecycle.to_string()
    }

    fn phase(&self, id: &str) -> Option<SandboxPhase> {
        Some(self.node.inner.registry.get(&id.parse().unwrap())?.phase())
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_keeps_what_it_says_and_a_resume_has_it() {
    let images = Images::new();
    let bench = images.node().await;
    let mut spec = bench.spec("i1");
    spec.resources = Some(Resources { vcpus: 3, memory_mib: 128, disk_mib: 1024 });
    bench.node.create(spec, LIMIT).await.unwrap();
    let paused = bench.pause("i1", Keep::Memory).await.unwrap();
    assert!(paused.memory && bench.fake.is_frozen(paused.lifecycle.as_str()));
    assert_eq!(bench.phase("i1"), Some(SandboxPhase::Paused));
    let resumed = bench.resume("i1", Keep::Memory).await.unwrap();
    assert!(resumed.memory && !bench.fake.is_frozen(paused.lifecycle.as_str()));
    assert_eq!(resumed.started.route.lifecycle, paused.lifecycle);
    let twice = bench.resume("i1", Keep::Memory).await.unwrap_err();
    assert!(matches!(twice, CreateError::AlreadyExists(_)), "{twice}");
    let paused = bench.pause("i1", Keep::Files).await.unwrap();
    assert!(!paused.memory);
    assert_eq!((bench.phase("i1"), bench.fake.held().len()), (None, 0));
    assert_eq!(bench.node.paused().await.unwrap(), std::slice::from_ref(&paused));
    let resumed = bench.resume("i1", Keep::Memory).await.unwrap();
    assert!(!resumed.memory);
    assert_eq!(resumed.started.status.resources, Resources { vcpus: 3, ..paused.resources });
    assert_ne!(resumed.started.route.lifecycle, paused.lifecycle);
    assert_eq!(bench.fake.sealed_ids(), [""; 0]);
    bench.kill("i1").await.unwrap();
    let unknown = bench.pause("i1", Keep::Memory).await.unwrap_err();
    assert_eq!(unknown, PauseError::NotFound("i1".into()));
    let unknown = bench.resume("i1", Keep::Memory).await.unwrap_err();
    assert_eq!(unknown, CreateError::NotPaused("i1".into()));
    bench.stop_clean("pause").await;
}

/// However a step fails, the sandbox is live or paused, as it says, and can be ended.
#[tokio::test(start_paused = true)]
async fn whatever_step_fails_the_sandbox_is_there_and_can_be_ended() {
    for point in HALT_POINTS {
        for (keep, fault) in [
            (Keep::Memory, Fault::Error),
            (Keep::Memory, Fault::Panic),
            (Keep::Memory, Fault::Delay),
            (Keep::Files, Fault::Error),
        ] {
            let images = Images::new();
            let bench = images.node().await;
            bench.create_all(["i1"]).await;
            bench.faults.arm(point, fault, 1);
            let paused = bench.pause("i1", keep).await;
            match &paused {
                Ok(_) => {}
                Err(PauseError::Failed(_)) => {
                    assert_eq!(bench.phase("i1"), Some(SandboxPhase::Live), "{point}");
                    assert!(!bench.fake.is_frozen(&bench.lifecycle("i1")), "{point}");
                    let record = bench.fake.record(&bench.lifecycle("i1")).unwrap();
                    assert_eq!(record.paused_at_us, None, "{point}");
                    bench.pause("i1", keep).await.unwrap();
                }
                Err(PauseError::AgentSilent(_)) => {
                    assert!(point.starts_with("pause.ask") && keep == Keep::Files, "{point}");
                    assert_eq!(bench.phase("i1"), Some(SandboxPhase::Live), "{point}");
                    bench.pause("i1", keep).await.unwrap();
                }
                Err(other) => panic!("{point}: {other}"),
            }
            if let Err(error) = bench.resume("i1", Keep::Memory).await {
                assert!(matches!(error, CreateError::Failed { .. }), "{point}: {error}");
                let paused = bench.node.paused().await.unwrap();
                assert_eq!(paused.len(), 1, "{point}: it is as paused as before");
                bench.resume("i1", Keep::Memory).await.unwrap();
            }
            let id = "i1".parse().unwrap();
            let taken = ends("snapshot", bench.node.snapshot(&id, new_snapshot())).await;
            assert_eq!(bench.phase("i1"), Some(SandboxPhase::Live), "{point}: {taken:?}");
            assert!(!bench.fake.is_frozen(&bench.lifecycle("i1")), "{point}");
            bench.kill("i1").await.unwrap();
            bench.stop_clean(point).await;
        }
    }
}

/// A machine whose daemon was killed at `point` of a pause that keeps `keep`, or of the resume after it;
/// one that was paused `before`, at the latest at a point of its start.
fn killed_at(point: &str, keep: Keep, before: bool) -> Site {
    let site = Site::new();
    daemon(&site.fake, async {
        let bench = site.node().await;
        bench.create_all(["i1"]).await;
        if before {
            bench.pause("i1", keep).await.unwrap();
        }
        site.faults.arm(point, Fault::Delay, 1);
        let work = async {
            let _cut_off = bench.pause("i1", keep).await;
            let _cut_off = bench.resume("i1", keep).await;
            std::future::pending::<()>().await;
        };
        tokio::select! { () = work => {}, () = site.hung() => {} }
    });
    site
}

/// The next daemon has the sandbox, live or paused, lets it go on with everything that `keep` says, and
/// leaves nothing of it when it is ended.
fn the_next_one_has_it(site: &Site, point: &str, keep: Keep) {
    daemon(&site.fake, async {
        let bench = site.open_node().await;
        let paused = bench.node.paused().await.unwrap();
        let is_live = bench.phase("i1") == Some(SandboxPhase::Live);
        assert!(is_live == paused.is_empty(), "{point}: live {is_live}, {paused:?}");
        if keep == Keep::Memory {
            // Whoever takes it over sees to that first.
            tokio::time::sleep(secs(1)).await;
            assert_eq!(bench.fake.is_frozen(&bench.lifecycle("i1")), !is_live, "{point}");
        }
        if !is_live {
            let resumed = bench.resume("i1", Keep::Memory).await.unwrap();
            // Before its files were moved, what ran was there all the same.
            assert!(resumed.memory || keep == Keep::Files, "{point}");
        }
        bench.kill("i1").await.unwrap();
        assert_eq!(bench.fake.sealed_ids(), [""; 0], "{point}");
        bench.stop_clean(point).await;
    });
}

/// A daemon that dies at any step of a pause or resume leaves a sandbox that runs or is paused.
#[test]
fn wherever_the_daemon_dies_the_next_one_has_the_sandbox() {
    // A snapshot has nothing to do with it.
    for point in HALT_POINTS.into_iter().filter(|point| !point.starts_with("snapshot")) {
        the_next_one_has_it(&killed_at(point, Keep::Memory, false), point, Keep::Memory);
    }
}

/// A pause of the files, and a start with them, cut off at any of their steps.
#[test]
fn wherever_the_daemon_dies_the_files_are_kept() {
    for point in Step::ALL.map(Step::point).into_iter().chain(["pause.write.after", SEAL_POINT]) {
        the_next_one_has_it(&killed_at(point, Keep::Files, false), point, Keep::Files);
    }
    for point in CREATE_POINTS {
        the_next_one_has_it(&killed_at(point, Keep::Files, true), point, Keep::Files);
    }
}

#[test]
fn a_restart_of_the_host_takes_the_memory_and_leaves_the_files() {
    let site = Site::new();
    daemon(&site.fake, async {
        let bench = site.node().await;
        bench.create_all(["i1", "i2"]).await;
        bench.pause("i1", Keep::Memory).await.unwrap();
    });
    site.fake.reboot();
    daemon(&site.fake, async {
        let bench = site.open_node().await;
        assert_eq!(bench.fake.sealed_ids(), ["i1"]);
        assert!(!bench.node.paused().await.unwrap()[0].memory);
        assert!(!bench.resume("i1", Keep::Memory).await.unwrap().memory);
        bench.kill("i1").await.unwrap();
        bench.stop_clean("reboot").await;
    });
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_dies_while_it_is_paused_leaves_its_files() {
    let images = Images::new();
    let bench = images.node().await;
    bench.create_all(["i1"]).await;
    let lifecycle = bench.lifecycle("i1");
    bench.pause("i1", Keep::Memory).await.unwrap();
    bench.fake.lose(&lifecycle, Class::Process);
    let mut beats = bench.node.inner.pulse.listen();
    ends("gone", beats.until(|| bench.phase("i1").is_none())).await;
    assert_eq!(bench.fake.sealed_ids(), ["i1"]);
    bench.resume("i1", Keep::Memory).await.unwrap();
    bench.kill("i1").await.unwrap();
    bench.stop_clean("death").await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_seals_what_is_paused_and_what_its_time_pauses() {
    let images = Images::new();
    let bench = images.node().await;
    let mut spec = bench.spec("i2");
    spec.on_timeout = OnTimeout::Pause(Keep::Memory);
    bench.create_all(["i1"]).await;
    bench.node.create(spec, LIMIT).await.unwrap();
    bench.pause("i1", Keep::Memory).await.unwrap();
    bench.node.request(model::NodeRequest::Drain).await.unwrap();
    let mut beats = bench.node.inner.pulse.listen();
    ends("sealed", beats.until(|| bench.phase("i1").is_none())).await;
    assert_eq!(bench.phase("i2"), Some(SandboxPhase::Live), "it is waited for");
    let refused = bench.resume("i1", Keep::Memory).await.unwrap_err();
    assert_eq!(refused, CreateError::Draining);
    bench.node.set_end(&"i2".parse().unwrap(), SystemTime::now()).await.unwrap();
    ends("empty", beats.until(|| bench.phase("i2").is_none())).await;
    assert_eq!(bench.fake.sealed_ids(), ["i1", "i2"]);
    bench.stop_clean("drain").await;
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_at_the_same_time_has_one_answer() {
    let images = Images::new();
    let bench = images.node().await;
    bench.create_all(["i1"]).await;
    let (first, second) =
        tokio::join!(bench.pause("i1", Keep::Memory), bench.pause("i1", Keep::Memory),);
    let told = [first.is_ok(), second.is_ok()];
    assert!(told.contains(&true), "{told:?}");
    let (first, second) =
        tokio::join!(bench.resume("i1", Keep::Memory), bench.resume("i1", Keep::Memory),);
    assert_eq!(usize::from(first.is_ok()) + usize::from(second.is_ok()), 1);
    let (paused, killed) = tokio::join!(bench.pause("i1", Keep::Files), bench.kill("i1"));
    killed.unwrap();
    assert!(matches!(paused, Err(PauseError::Lost(_) | PauseError::NotFound(_))), "{paused:?}");
    assert_eq!(bench.fake.sealed_ids(), [""; 0], "its owner wanted nothing of it");
    bench.stop_clean("races").await;
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_can_be_ended_while_it_is_copied_and_when_its_files_cannot_be_removed() {
    let images = Images::new();
    let bench = images.node().await;
    bench.create_all(["i1", "i2"]).await;
    bench.fake.behave("i1", Manner { copies_for: secs(100), ..Manner::default() });
    let id = "i1".parse().unwrap();
    let (taken, killed) = tokio::join!(bench.node.snapshot(&id, new_snapshot()), async {
        tokio::time::sleep(secs(1)).await;
        assert_eq!(bench.phase("i1"), Some(SandboxPhase::Checkpointing));
        bench.kill("i1").await
    });
    killed.unwrap();
    assert!(matches!(taken, Err(PauseError::Lost(_))), "{taken:?}");
    assert_eq!(bench.fake.snapshots(), 0);
    bench.fake.behave("i2", Manner { refuses: Some(Step::Files), ..Manner::default() });
    // Kept they are; what cannot be removed is where they were.
    bench.pause("i2", Keep::Files).await.unwrap();
    let stuck = bench.kill("i2").await.unwrap_err();
    assert!(matches!(stuck, NodeError::Stuck { .. }), "{stuck}");
    bench.fake.behave("i2", Manner::default());
    bench.kill("i2").await.unwrap();
    assert_eq!(bench.fake.sealed_ids(), [""; 0]);
    bench.stop_clean("ends").await;
}

/// An end that is asked for while it is about to be paused is in force, or who asked is told at once;
/// it is not that of the life after the pause.
#[tokio::test(start_paused = true)]
async fn an_end_that_comes_with_a_pause_is_for_the_life_before_it() {
    let images = Images::new();
    let bench = images.node().await;
    let id = "i1".parse().unwrap();
    let mut spec = bench.spec("i1");
    (spec.on_timeout, spec.ttl) = (OnTimeout::Pause(Keep::Memory), secs(60));
    bench.node.create(spec, LIMIT).await.unwrap();

    // Its time is over, and its agent is asked for a sign of life: it is live yet, and lives on.
    bench.faults.arm("pause.ask.before", Fault::Delay, 1);
    tokio::time::sleep(secs(61)).await;
    assert_eq!(bench.phase("i1"), Some(SandboxPhase::Live));
    let far = SystemTime::now() + secs(3600);
    ends("moved", bench.node.set_end(&id, far)).await.unwrap();
    assert_eq!(bench.entry("i1").state().ends_at, far);

    // Somebody pauses it: that goes on.
    bench.faults.arm("pause.ask.before", Fault::Delay, 1);
    let soon = SystemTime::now() + secs(5);
    let (paused, moved) = tokio::join!(bench.pause("i1", Keep::Memory), async {
        tokio::time::sleep(secs(1)).await;
        assert_eq!(bench.phase("i1"), Some(SandboxPhase::Live));
        ends("answered", bench.node.set_end(&id, soon)).await
    });
    paused.unwrap();
    assert!(matches!(moved, Err(NodeError::NotFound(_))), "{moved:?}");
    bench.resume("i1", Keep::Memory).await.unwrap();
    tokio::time::sleep(secs(60)).await;
    assert_eq!(bench.phase("i1"), Some(SandboxPhase::Live), "it has the time of its resume");
    bench.kill("i1").await.unwrap();
    bench.stop_clean("moved").await;
}

/// One whose pause fails at its end lives on and is tried again; it is not lost.
#[tokio::test(start_paused = true)]
async fn a_pause_at_the_end_of_its_time_is_tried_again() {
    let images = Images::new();
    let bench = images.node().await;
    let mut spec = bench.spec("i1");
    spec.on_timeout = OnTimeout::Pause(Keep::Memory);
    spec.ttl = secs(60);
    bench.node.create(spec, LIMIT).await.unwrap();
    bench.faults.arm("pause.write.before", Fault::Error, 3);
    let mut beats = bench.node.inner.pulse.listen();
    let paused = || bench.phase("i1") == Some(SandboxPhase::Paused);
    ends("paused in the end", beats.until(paused)).await;
    let id = "i1".parse().unwrap();
    bench.node.kill(&id, EndReason::Request).await.unwrap();
    bench.stop_clean("again").await;
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_short_of_memory_gives_up_that_of_the_first_that_was_paused() {
    let images = Images::new();
    let bench = images.node().await;
    bench.create_all(["i1", "i2", "i3"]).await;
    for id in ["i2", "i1"] {
        bench.pause(id, Keep::Memory).await.unwrap();
        tokio::time::sleep(secs(60)).await;
    }
    assert_eq!(bench.fake.sealed_ids(), [""; 0], "there is enough");
    bench.fake.set_memory(95);
    let mut beats = bench.node.inner.pulse.listen();
    ends("the first", beats.until(|| bench.phase("i2").is_none())).await;
    bench.fake.set_memory(50);
    tokio::time::sleep(secs(60)).await;
    assert_eq!(bench.fake.sealed_ids(), ["i2"]);
    assert_eq!(bench.phase("i1"), Some(SandboxPhase::Paused));
    assert_eq!(bench.phase("i3"), Some(SandboxPhase::Live));
    for id in ["i1", "i2", "i3"] {
        bench.kill(id).await.unwrap();
    }
    bench.stop_clean("memory").await;
}

#[tokio::test(start_paused = true)]
async fn a_pause_under_way_when_force_begins_loses_nothing() {
    let images = Images::new();
    let bench = images.node().await;
    bench.create_all(["i1", "i2"]).await;
    bench.fake.behave("i1", Manner { syncs_for: secs(20), ..Manner::default() });
    let (paused, ()) = tokio::join!(bench.pause("i1", Keep::Memory), async {
        tokio::time::sleep(secs(1)).await;
        assert_eq!(bench.phase("i1"), Some(SandboxPhase::Pausing));
        bench.node.request(model::NodeRequest::DrainForced).await.unwrap();
    });
    assert!(!paused.unwrap().memory, "its memory goes with the node");
    let attempt = bench.attempt_ended().await;
    assert_eq!((attempt.stopped, attempt.failed.len()), (2, 0), "it ran when force began");
    assert_eq!(bench.fake.sealed_ids(), ["i1"]);
    bench.stop_clean("force").await;
}

#[tokio::test(start_paused = true)]
async fn who_hangs_up_does_not_end_what_was_begun() {
    let images = Images::new();
    let bench = images.node().await;
    bench.create_all(["i1"]).await;
    bench.fake.behave("i1", Manner { syncs_for: secs(30), ..Manner::default() });
    let patience = lifecycle::Budget::within(secs(1));
    let hung_up = patience.run("patience", bench.pause("i1", Keep::Memory)).await;
    assert!(hung_up.is_err());
    let mut beats = bench.node.inner.pulse.listen();
    ends("paused", beats.until(|| bench.phase("i1") == Some(SandboxPhase::Paused))).await;
    let joined = tokio::join!(bench.resume("i1", Keep::Memory)).0.unwrap();
    assert!(joined.memory);
    bench.kill("i1").await.unwrap();
    bench.stop_clean("hung up").await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_drains_takes_pauses_and_keeps_the_files_only() {
    let images = Images::new();
    let bench = images.node().await;
    bench.create_all(["i1"]).await;
    bench.node.request(model::NodeRequest::Drain).await.unwrap();
    let id = "i1".parse().unwrap();
    bench.node.snapshot(&id, new_snapshot()).await.unwrap();
    assert!(!bench.pause("i1", Keep::Memory).await.unwrap().memory);
    assert_eq!(bench.fake.sealed_ids(), ["i1"]);
    bench.stop_clean("drain").await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_no_paused_sandbox() {
    let images = Images::new();
    let bench = images.node().await;
    bench.create_all(["i1", "i2"]).await;
    for id in ["i1", "i2"] {
        bench.pause(id, Keep::Memory).await.unwrap();
    }
    let report = bench.stop().await;
    assert!(report.is_clean() && !report.forced && report.ended == 0, "{report:?}");
    assert_eq!(bench.fake.sealed_ids(), ["i1", "i2"]);
    bench.assert_given_back("stop");
}
