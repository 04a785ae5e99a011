//! What a daemon takes over from the one before, what it ends, and what it says of both.

use std::time::SystemTime;

use host::Fault;
use model::{EndReason, NodePhase, SandboxPhase};
use node_wire::{CreateError, NodeApi, NodeError};
use tokio::time::{Instant, sleep};

use super::crashes::{Site, assert_accounted, daemon, reason};
use super::{Bench, EVERY, ends, id, secs};
use crate::fake::{Class, Manner};
use crate::ledger::{Record, micros};
use crate::reclaim::AT_A_TIME;
use crate::start::{Node, StartError};
use crate::teardown::Step;

/// A machine whose daemon was killed while these sandboxes were live; and their lifecycles.
fn killed_with<const N: usize>(live: [&str; N]) -> (Site, [String; N]) {
    let site = Site::new();
    let lifecycles = daemon(&site.fake, async {
        let bench = site.open_node().await;
        bench.create_all(live).await;
        live.map(|sandbox| bench.entry(sandbox).lifecycle.to_string())
    });
    (site, lifecycles)
}

async fn live(bench: &Bench) -> Vec<String> {
    let listed = bench.list().await.into_iter();
    let mut live: Vec<String> = listed
        .filter(|status| status.phase == SandboxPhase::Live)
        .map(|status| status.id.to_string())
        .collect();
    live.sort();
    live
}

#[test]
fn an_adopted_sandbox_is_one_like_any_other() {
    let (site, _) = killed_with(["i1", "i2", "i3", "i4"]);
    // Its firewall, too: there has to be one before anything is taken over.
    site.fake.lose_node();
    daemon(&site.fake, async {
        let bench = site.node().await;
        // Nothing had to be removed: it admits at once.
        assert_eq!(assert_accounted(&bench, "adopted").await.len(), 4);
        let exists = bench.create("i1").await.unwrap_err();
        assert!(matches!(exists, CreateError::AlreadyExists(_)), "{exists}");
        let all: Vec<_> = bench.list().await;
        assert!(all.iter().all(|status| status.addr.is_some()), "{all:?}");
        // Its index is nobody else's.
        bench.create("i5").await.unwrap();
        let mut addresses: Vec<_> = bench.list().await.iter().map(|s| s.addr).collect();
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), 5);
        bench.kill("i1").await.unwrap();
        bench.node.set_end(&id("i2"), SystemTime::now() - secs(1)).await.unwrap();
        let i3 = bench.entry("i3").lifecycle.to_string();
        bench.fake.lose(&i3, Class::Process);
        sleep(secs(1)).await;
        assert_eq!(live(&bench).await, ["i4", "i5"]);
        for (sandbox, why) in
            [("i1", EndReason::Request), ("i2", EndReason::Timeout), ("i3", EndReason::Crashed)]
        {
            assert_eq!(reason(&bench, sandbox).await, Some(why), "{sandbox}");
        }
        bench.stop_clean("adopted").await;
    });
}

#[test]
fn each_that_cannot_run_on_is_ended_for_its_own_reason() {
    let (site, [dead, late, refused, torn, foreign, ending, live]) =
        killed_with(["i1", "i2", "i3", "i4", "i5", "i6", "i7"]);
    let fake = &site.fake;
    fake.lose(&dead, Class::Process);
    let past = Some(micros(SystemTime::now() - secs(60)));
    fake.tamper(&late, |record| Some(Record { ends_at_us: past, ..record }));
    fake.lose(&refused, Class::Slot);
    fake.tamper(&torn, |_| None);
    fake.tamper(&foreign, |record| Some(Record { lifecycle: live.clone(), ..record }));
    daemon(fake, async {
        // Its end was decided, and the daemon was killed before it had done anything.
        let bench = site.open_node().await;
        site.faults.arm(Step::Kill.point(), Fault::Delay, 1);
        tokio::select! { _ = bench.kill("i6") => unreachable!(), () = site.hung() => {} }
        let reason = fake.record(&ending).unwrap().ending.unwrap().reason;
        assert_eq!(reason, EndReason::Request, "written before anything is killed");
    });
    daemon(fake, async {
        let bench = site.open_node().await;
        assert_eq!(self::live(&bench).await, ["i7"]);
        for (sandbox, why) in [
            ("i1", Some(EndReason::Crashed)),
            ("i2", Some(EndReason::Timeout)),
            ("i3", Some(EndReason::Reclaimed)),
            // Nobody can say whose they were.
            ("i4", None),
            ("i5", None),
            ("i6", Some(EndReason::Request)),
            ("i7", None),
        ] {
            assert_eq!(reason(&bench, sandbox).await, why, "{sandbox}");
        }
        assert_accounted(&bench, "ended").await;
        bench.stop_clean("ended").await;
    });
}

#[test]
fn a_start_says_what_it_found_and_why_each_has_ended() {
    let (site, [dead, late, ..]) = killed_with(["i1", "i2", "i3", "i4"]);
    daemon(&site.fake, async {
        let bench = site.open_node().await;
        site.faults.arm("create.slot.after", Fault::Delay, 1);
        tokio::select! { _ = bench.create("i5") => unreachable!(), () = site.hung() => {} }
    });
    site.fake.lose(&dead, Class::Process);
    site.fake.lose(&late, Class::Cgroup);
    daemon(&site.fake, async {
        let bench = site.open_node().await;
        let report = bench.node.adopt_report().await.unwrap().unwrap();
        assert_eq!((report.finished, report.adopted, report.stuck), (true, 2, 0), "{report:?}");
        assert_eq!(report.rolled_back, 1, "{report:?}");
        let mut ended: Vec<_> =
            report.ended.iter().map(|end| (end.id.to_string(), end.reason)).collect();
        ended.sort_by_key(|(id, _)| id.clone());
        let expected =
            [("i1".to_owned(), EndReason::Crashed), ("i2".to_owned(), EndReason::Reclaimed)];
        assert_eq!(ended, expected);
        let told = bench.node.ended(&["i1", "i2", "i3", "i5"].map(id)).await.unwrap();
        let told: Vec<_> = told.iter().map(|e| (e.id.as_str(), e.detail.as_str())).collect();
        let expected =
            [("i1", ""), ("i2", "it could not be taken over"), ("i5", "its start was cut off")];
        assert_eq!(told, expected);
        let explained = bench.node.explain(&id("i2"), None).await.unwrap().unwrap();
        assert_eq!(explained.reclaimed, ["processes"]);
        let names: Vec<_> = explained.steps.iter().map(|step| step.name.as_str()).collect();
        assert_eq!(names, ["admitted", "started", "ended: reclaimed"]);
        let lives = bench.node.explain(&id("i3"), None).await.unwrap().unwrap();
        assert_eq!(lives.lifecycle, bench.entry("i3").lifecycle);
        assert_eq!(bench.node.explain(&id("i9"), None).await.unwrap(), None);
        let other = "lother".parse().unwrap();
        assert_eq!(bench.node.explain(&id("i3"), Some(&other)).await.unwrap(), None);
    });
    // Again, with nothing to do: nothing changes, and it says so.
    daemon(&site.fake, async {
        let before = site.fake.held();
        let bench = site.node().await;
        let report = bench.node.adopt_report().await.unwrap().unwrap();
        assert_eq!((report.adopted, report.ended.len(), report.rolled_back), (2, 0, 0));
        let leased = |held: Vec<(String, Class)>| {
            held.into_iter().filter(|(_, class)| *class != Class::Lease).collect::<Vec<_>>()
        };
        assert_eq!(leased(bench.fake.held()), leased(before));
        bench.stop_clean("twice").await;
    });
    daemon(&site.fake, async {
        let bench = site.node().await;
        assert_eq!(bench.document().await.phase, NodePhase::Healthy, "without waiting");
        assert!(bench.node.adopt_report().await.unwrap().unwrap().is_empty());
        bench.stop_clean("nothing").await;
    });
}

#[test]
fn nothing_survives_a_restart_of_the_host_and_each_is_told_so() {
    let (site, [ended, ..]) = killed_with(["i1", "i2"]);
    site.fake.tamper(&ended, |record| Some(Record { boot_id: None, ..record }));
    site.fake.reboot();
    daemon(&site.fake, async {
        let bench = site.open_node().await;
        assert!(assert_accounted(&bench, "reboot").await.is_empty());
        // The release before did not write which boot it was.
        assert_eq!(reason(&bench, "i1").await, Some(EndReason::Crashed));
        assert_eq!(reason(&bench, "i2").await, Some(EndReason::HostRestart));
        bench.stop_clean("reboot").await;
    });
}

#[test]
fn a_node_that_removes_what_was_left_serves_everything_but_new_work() {
    let (site, [dead, ..]) = killed_with(["i1", "i2", "i3"]);
    site.fake.lose(&dead, Class::Process);
    site.fake.behave("i1", Manner { slow: Some((Step::Files, secs(20))), ..Manner::default() });
    daemon(&site.fake, async {
        let bench = site.node().await;
        sleep(secs(1)).await;
        let document = bench.document().await;
        assert_eq!((document.phase, document.accepting), (NodePhase::Starting, false));
        assert!(!bench.node.adopt_report().await.unwrap().unwrap().finished);
        assert_eq!(bench.create("i9").await.unwrap_err(), CreateError::Starting);
        assert_eq!(live(&bench).await, ["i2", "i3"]);
        bench.kill("i2").await.unwrap();
        bench.node.set_end(&id("i3"), SystemTime::now() + secs(3600)).await.unwrap();
        assert_eq!(reason(&bench, "i1").await, Some(EndReason::Crashed), "while it goes");
        assert_eq!(bench.document().await.phase, NodePhase::Starting);
        ends("start", bench.node.opened()).await;
        assert_eq!(live(&bench).await, ["i3"]);
        bench.create("i9").await.unwrap();
        bench.stop_clean("starting").await;
    });
}

#[test]
fn what_was_left_is_removed_many_at_a_time_and_not_all_at_once() {
    let names: [String; 40] = std::array::from_fn(|n| format!("i{n}"));
    let left = names.each_ref().map(String::as_str);
    let (site, dead) = killed_with(left);
    for (lifecycle, sandbox) in dead.iter().zip(left) {
        site.fake.lose(lifecycle, Class::Process);
        let manner = Manner { slow: Some((Step::Kill, secs(1))), ..Manner::default() };
        site.fake.behave(sandbox, manner);
    }
    daemon(&site.fake, async {
        let began = Instant::now();
        let bench = site.open_node().await;
        let waves = left.len().div_ceil(AT_A_TIME);
        assert_eq!(began.elapsed(), secs(1) * u32::try_from(waves).unwrap());
        bench.stop_clean("many were left").await;
    });
}

#[test]
fn a_node_is_stopped_while_it_removes_what_was_left() {
    let (site, [dead, ..]) = killed_with(["i1", "i2"]);
    site.fake.lose(&dead, Class::Process);
    site.fake.behave("i1", Manner { slow: Some((Step::Files, secs(5))), ..Manner::default() });
    daemon(&site.fake, async {
        let bench = site.node().await;
        bench.stop_clean("stopped while starting").await;
    });
}

#[test]
fn what_will_not_go_is_stuck_keeps_its_slot_and_keeps_no_node_from_starting() {
    for step in Step::ALL {
        let (site, [dead, _]) = killed_with(["i1", "i2"]);
        site.fake.tamper(&dead, |record| Some(Record { started_at_us: None, ..record }));
        site.faults.arm(step.point(), Fault::Error, EVERY);
        site.fake.stray();
        daemon(&site.fake, async {
            let bench = site.open_node().await;
            let name = step.name();
            assert_eq!(bench.document().await.phase, NodePhase::Healthy, "{name}");
            let report = bench.node.adopt_report().await.unwrap().unwrap();
            assert_eq!((report.adopted, report.rolled_back, report.stuck), (1, 1, 1), "{name}");
            let listed = bench.list().await;
            let stuck = listed.iter().find(|status| status.id == id("i1")).unwrap();
            assert!(matches!(stuck.phase, SandboxPhase::Stuck), "{name}: {stuck:?}");
            assert!(stuck.left[0].starts_with(name), "{name}: {:?}", stuck.left);
            assert_eq!(bench.keeps_slot("i1"), matches!(step, Step::Kill | Step::Slot), "{name}");
            let taken = bench.create("i1").await.unwrap_err();
            assert!(matches!(taken, CreateError::AlreadyExists(_)), "{name}: {taken}");
            bench.create("i3").await.unwrap();
            assert!(site.fake.has_strays(), "{name}: a link of nobody may be its");
            site.faults.disarm();
            bench.kill("i1").await.unwrap();
            sleep(secs(1)).await;
            assert_eq!(assert_accounted(&bench, name).await.len(), 2);
            bench.stop_clean(name).await;
        });
    }
}

#[test]
fn more_than_a_node_may_have_are_taken_over_and_none_is_let_in() {
    let (site, _) = killed_with(["i1", "i2", "i3"]);
    daemon(&site.fake, async {
        let few = |config: &mut crate::Config| config.max_sandboxes = 2;
        let bench = site.images.node_on(site.fake.clone(), site.faults.clone(), few).await;
        assert_eq!(assert_accounted(&bench, "many").await.len(), 3);
        assert_eq!(bench.create("i4").await.unwrap_err(), CreateError::Full { limit: 2 });
        bench.kill("i1").await.unwrap();
        bench.kill("i2").await.unwrap();
        bench.create("i4").await.unwrap();
        bench.stop_clean("many").await;
    });
}

/// A start that cannot say what is there ends no sandbox: the next one takes them over.
#[test]
fn a_start_that_fails_while_it_takes_over_harms_nothing() {
    for point in ["adopt.list", "adopt.hold", "adopt.enter"] {
        for at in ["before", "after"] {
            let (site, _) = killed_with(["i1", "i2"]);
            let point = format!("{point}.{at}");
            site.faults.arm(&point, Fault::Error, 1);
            daemon(&site.fake, async {
                let config = site.images.config(&site.faults);
                let store = site.images.store.clone();
                let began = Instant::now();
                let failed = ends("start", Node::start_on(config, store, site.fake.clone())).await;
                let error = failed.unwrap_err();
                assert!(matches!(error, StartError::Adopt(_)), "{point}: {error}");
                assert!(site.faults.left().is_empty(), "{point}");
                assert!(began.elapsed() < secs(1), "{point}: it waited for what stays");
            });
            daemon(&site.fake, async {
                let bench = site.open_node().await;
                assert_eq!(assert_accounted(&bench, &point).await.len(), 2, "{point}");
                bench.stop_clean(&point).await;
            });
        }
    }
}

#[test]
fn an_end_that_was_moved_is_moved_for_the_next_daemon_too() {
    let (site, [lifecycle]) = killed_with(["i1"]);
    let far = SystemTime::now() + secs(12345);
    let written = |site: &Site| site.fake.record(&lifecycle).unwrap().ends_at_us.unwrap();
    daemon(&site.fake, async {
        let bench = site.open_node().await;
        bench.node.set_end(&id("i1"), far).await.unwrap();
        assert_eq!(written(&site), micros(far), "before it is answered");
        // What cannot be written is not in force, and who asked is told.
        site.fake.set_full(true);
        let before = bench.list().await.remove(0).ends_at;
        let refused = bench.node.set_end(&id("i1"), far + secs(1)).await.unwrap_err();
        assert!(matches!(refused, NodeError::Internal(_)), "{refused}");
        assert_eq!(bench.list().await.remove(0).ends_at, before);
        site.fake.set_full(false);
        // Of many at the same time each is answered, and one is the last.
        let moves = (1..=20).map(|n| bench.node.set_end(&SANDBOX, far + secs(n)));
        for moved in futures::future::join_all(moves).await {
            moved.unwrap();
        }
        assert_eq!(written(&site), micros(bench.list().await.remove(0).ends_at));
    });
    daemon(&site.fake, async {
        let bench = site.open_node().await;
        assert_eq!(micros(bench.list().await.remove(0).ends_at), written(&site));
        // Its clock goes on.
        bench.node.set_end(&id("i1"), SystemTime::now() + secs(100)).await.unwrap();
    });
    daemon(&site.fake, async {
        let bench = site.open_node().await;
        sleep(secs(98)).await;
        assert_eq!(live(&bench).await, ["i1"]);
        sleep(secs(3)).await;
        assert_eq!(bench.node.sandboxes(), 0);
        let gone = bench.node.set_end(&id("i1"), far).await.unwrap_err();
        assert!(matches!(gone, NodeError::NotFound(_)), "{gone}");
        bench.stop_clean("moved").await;
    });
}

static SANDBOX: std::sync::LazyLock<model::SandboxId> = std::sync::LazyLock::new(|| id("i1"));

#[test]
fn a_full_disk_keeps_nothing_from_ending_and_the_end_is_written_when_there_is_room() {
    let site = Site::new();
    daemon(&site.fake, async {
        let bench = site.open_node().await;
        bench.create_all(["i1"]).await;
        let mut events = bench.node.events();
        site.fake.set_full(true);
        bench.kill("i1").await.unwrap();
        assert!(events.try_recv().is_ok());
        assert_eq!(bench.fake.held(), []);
        site.fake.set_full(false);
        bench.stop_clean("full").await;
    });
}

#[test]
fn a_start_that_failed_is_remembered_with_its_step() {
    let site = Site::new();
    daemon(&site.fake, async {
        let bench = site.open_node().await;
        site.faults.arm("create.cgroup.before", Fault::Error, 1);
        bench.create("i1").await.unwrap_err();
        bench.create("i1").await.unwrap();
        bench.kill("i1").await.unwrap();
        let told = bench.node.ended(&[id("i1"), id("i2")]).await.unwrap();
        let told: Vec<_> = told.iter().map(|e| (e.reason, e.detail.as_str())).collect();
        let failed = "its start failed at the step cgroup";
        assert_eq!(told, [(EndReason::StartFailed, failed), (EndReason::Request, "")]);
        let first = bench.node.ended(&[id("i1")]).await.unwrap().remove(0).lifecycle;
        let explained = bench.node.explain(&id("i1"), Some(&first)).await.unwrap().unwrap();
        assert_eq!(explained.failed_step.as_deref(), Some("cgroup"));
        let last = bench.node.explain(&id("i1"), None).await.unwrap().unwrap();
        assert_eq!((last.failed_step, last.lifecycle == first), (None, false));
        bench.stop_clean("failed start").await;
    });
}
