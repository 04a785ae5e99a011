//! A daemon that is killed at any point of anything it does. The next one finds every sandbox that
//! was live, with the same ids, and nothing else is left.

use std::sync::Arc;
use std::time::Duration;

use host::{Fault, Faults};
use model::{EndReason, NodePhase, NodeRequest, SandboxPhase};
use node_wire::{NodeApi, SandboxStatus};
use tokio::runtime::Builder;
use tokio::time::sleep;

use super::{Bench, Images, ends, id, secs};
use crate::adopt::ADOPT_POINTS;
use crate::backend::{Backend, CREATE_POINTS, Closer};
use crate::fake::{Class, Fake, OF_LIVE};
use crate::teardown::Step;

/// Runs `work` in a process of its own, as it were: nothing of it goes on afterwards, and nothing of
/// it is cleaned up.
pub(super) fn daemon<T>(fake: &Fake, work: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let done = runtime.block_on(work);
    fake.crash();
    drop(runtime);
    done
}

/// A machine, and what its daemons have in common.
pub(super) struct Site {
    pub images: Images,
    pub fake: Arc<Fake>,
    pub faults: Faults,
}

impl Site {
    pub(super) fn new() -> Self {
        let faults = Faults::default();
        Self { images: Images::new(), fake: Fake::new(faults.clone()), faults }
    }

    /// The next daemon.
    pub(super) async fn node(&self) -> Bench {
        self.images.node_on(Arc::clone(&self.fake), self.faults.clone(), |_| {}).await
    }

    /// The next daemon, when it has done with what was left.
    pub(super) async fn open_node(&self) -> Bench {
        let bench = self.node().await;
        ends("start", bench.node.opened()).await;
        bench
    }

    /// Waits until every fault has hit, and kills the daemon: whoever passed it hangs there.
    pub(super) async fn hung(&self) {
        let hit = async {
            while !self.faults.left().is_empty() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        ends("the point to be passed", hit).await;
        // At this instant: what whoever waits for this drops is not given up.
        self.fake.crash();
    }
}

/// What is listed is live, and is all that the machine has.
pub(super) async fn assert_accounted(bench: &Bench, case: &str) -> Vec<SandboxStatus> {
    let mut listed = bench.list().await;
    listed.sort_by_key(|status| status.id.clone());
    let phases: Vec<_> = listed.iter().map(|status| status.phase).collect();
    assert_eq!(phases, vec![SandboxPhase::Live; listed.len()], "{case}");
    let has = |status: &SandboxStatus| OF_LIVE.map(|class| (status.lifecycle.to_string(), class));
    let mut expected: Vec<(String, Class)> = listed.iter().flat_map(has).collect();
    expected.sort();
    assert_eq!(bench.fake.held(), expected, "{case}");
    assert!(!bench.fake.has_strays(), "{case}");
    assert_eq!(bench.fake.wrongs(), [""; 0], "{case}");
    assert_eq!(bench.document().await.phase, NodePhase::Healthy, "{case}");
    listed
}

fn ids(listed: &[SandboxStatus]) -> Vec<&str> {
    listed.iter().map(|status| status.id.as_str()).collect()
}

/// The reason for which the last run of `sandbox` has ended.
pub(super) async fn reason(bench: &Bench, sandbox: &str) -> Option<EndReason> {
    bench.node.ended(&[id(sandbox)]).await.unwrap().pop().map(|ending| ending.reason)
}

/// What a daemon does when it is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    Create,
    Kill,
    Force,
    Drain,
    Stop,
}

impl Doing {
    fn points(self) -> Vec<&'static str> {
        let release = Step::ALL.map(Step::point);
        match self {
            Self::Create => CREATE_POINTS.to_vec(),
            Self::Kill | Self::Force | Self::Drain => release.to_vec(),
            Self::Stop => release.into_iter().chain(Closer::ALL.map(Closer::point)).collect(),
        }
    }

    async fn work(self, bench: &Bench) {
        match self {
            Self::Create => drop(bench.create("i2").await),
            Self::Kill => drop(bench.kill("i1").await),
            Self::Force => bench.node.request(NodeRequest::DrainForced).await.unwrap(),
            Self::Drain => {
                bench.node.request(NodeRequest::Drain).await.unwrap();
                drop(bench.kill("i1").await);
            }
            Self::Stop => drop(bench.stop().await),
        }
        std::future::pending().await
    }

    /// Who is live when it is killed at `point`, and why the others have ended.
    fn left(self, point: &str) -> (&'static [&'static str], Option<EndReason>) {
        match self {
            // It is written that it is live; the caller finds it in the list.
            Self::Create if point == "create.live.after" => (&["i0", "i1", "i2"], None),
            Self::Create => (&["i0", "i1"], None),
            Self::Kill | Self::Drain => (&["i0"], Some(EndReason::Request)),
            Self::Force | Self::Stop => (&[], Some(EndReason::NodeStop)),
        }
    }
}

fn killed_while(doing: Doing, point: &'static str) {
    let (site, case) = (Site::new(), format!("{doing:?} {point}"));
    let before = daemon(&site.fake, async {
        let bench = site.open_node().await;
        bench.create_all(["i0", "i1"]).await;
        let before = bench.list().await;
        site.faults.arm(point, Fault::Delay, 1);
        tokio::select! {
            () = doing.work(&bench) => unreachable!(),
            () = site.hung() => before,
        }
    });
    daemon(&site.fake, async {
        let bench = site.open_node().await;
        let listed = assert_accounted(&bench, &case).await;
        let (live, why) = doing.left(point);
        assert_eq!(ids(&listed), live, "{case}");
        for status in &listed {
            let same = before.iter().find(|before| before.id == status.id);
            assert!(same.is_none_or(|same| same == status), "{case}: {same:?} {status:?}");
        }
        assert_eq!(reason(&bench, "i1").await, why, "{case}");
        // What it used is as it was when its end was decided, not when the next daemon came.
        let past = bench.fake.past();
        let i1 = past.iter().filter(|record| record.sandbox == "i1");
        let pids: Vec<_> = i1.map(|record| record.ending.as_ref().unwrap().pids).collect();
        assert_eq!(pids, vec![Some(1); usize::from(why.is_some())], "{case}");
        if doing == Doing::Create && live.len() == 2 {
            // Nothing is there of it but, if it was written before the kill, how it ended.
            let told = reason(&bench, "i2").await;
            assert!(told.is_none_or(|told| told == EndReason::Reclaimed), "{case}: {told:?}");
            bench.create("i2").await.unwrap();
        }
        bench.stop_clean(&case).await;
    });
}

#[test]
fn a_daemon_killed_at_any_point_leaves_to_the_next_what_was_live_and_nothing_else() {
    let mut cases = 0;
    for doing in [Doing::Create, Doing::Kill, Doing::Force, Doing::Drain, Doing::Stop] {
        for point in doing.points() {
            killed_while(doing, point);
            cases += 1;
        }
    }
    // 19 points of a create, 8 release steps four times, 7 closers.
    assert_eq!(cases, 19 + 4 * 8 + 7);
}

/// A machine on which two sandboxes run, one was half made and another half taken down; and the two.
fn left_in_disorder() -> (Site, Vec<SandboxStatus>) {
    let site = Site::new();
    let live = daemon(&site.fake, async {
        let bench = site.open_node().await;
        bench.create_all(["i0", "i1", "i2"]).await;
        let live = bench.list().await.into_iter().filter(|s| s.id != id("i2")).collect();
        site.faults.arm("release.slot", Fault::Delay, 1);
        site.faults.arm("create.machine.after", Fault::Delay, 1);
        tokio::select! {
            _ = bench.kill("i2") => unreachable!(),
            _ = bench.create("i3") => unreachable!(),
            () = site.hung() => live,
        }
    });
    site.fake.stray();
    (site, live)
}

/// Starts a daemon that is killed at `point`, or when it has started.
fn killed_at_start(site: &Site, point: &str) {
    site.faults.arm(point, Fault::Delay, 1);
    daemon(&site.fake, async {
        tokio::select! {
            biased;
            () = site.hung() => {}
            bench = site.open_node() => drop(bench),
        }
    });
    site.faults.disarm();
}

#[test]
fn daemons_killed_one_after_another_while_they_take_over_lose_nothing() {
    for first in ADOPT_POINTS {
        for second in ADOPT_POINTS {
            let ((site, mut live), case) = (left_in_disorder(), format!("{first}, {second}"));
            killed_at_start(&site, first);
            killed_at_start(&site, second);
            daemon(&site.fake, async {
                let bench = site.open_node().await;
                live.sort_by_key(|status| status.id.clone());
                assert_eq!(assert_accounted(&bench, &case).await, live, "{case}");
                assert_eq!(reason(&bench, "i2").await, Some(EndReason::Request), "{case}");
                assert_eq!(reason(&bench, "i3").await, Some(EndReason::Reclaimed), "{case}");
                let report = bench.node.adopt_report().await.unwrap().unwrap();
                assert_eq!((report.finished, report.adopted, report.stuck), (true, 2, 0), "{case}");
                bench.stop_clean(&case).await;
            });
        }
    }
}

#[test]
fn every_point_of_a_start_that_finds_something_is_passed() {
    for point in ADOPT_POINTS {
        let (site, _) = left_in_disorder();
        site.faults.arm(point, Fault::Delay, 1);
        daemon(&site.fake, async {
            let opened = async {
                let bench = site.open_node().await;
                // The last of what it does may come after that.
                sleep(secs(1)).await;
                bench
            };
            tokio::select! {
                () = site.hung() => {}
                _ = opened => panic!("{point} was not passed"),
            }
        });
    }
}
