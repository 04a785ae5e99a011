//! What the answer to a kill promises, and what no process escapes.

use host::census::Kind;
use model::EndReason;
use node_wire::{NodeApi, NodeEvent};
use testkit::{TestNode, in_view, wait_for};

use super::{LIMIT, census, id, lifecycles};
use crate::guest::run;

#[test]
fn when_a_kill_is_answered_nothing_of_the_sandbox_is_left() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        for _ in 0..5 {
            test.node.create(test.spec("i1"), LIMIT).await.unwrap();
            assert_eq!(lifecycles(&census(&test).await).len(), 1);
            test.node.kill(&id("i1"), EndReason::Request).await.unwrap();
            let left = census(&test).await;
            assert!(lifecycles(&left).is_empty(), "{left:#?}");
        }
        test.stop().await;
    });
}

#[test]
fn a_kill_and_a_crash_at_the_same_moment_are_one_end() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        let mut events = test.node.events();
        for round in 0..10 {
            let name = format!("i{round}");
            test.node.create(test.spec(&name), LIMIT).await.unwrap();
            let items = census(&test).await;
            let agent = items.iter().find(|item| item.name.ends_with(" envd")).unwrap();
            let pid = agent.name.split(' ').next().unwrap().parse().unwrap();
            let process = host::process::Process::open(pid).unwrap();
            let crash = async { process.signal(rustix::process::Signal::KILL).unwrap() };
            let sandbox = id(&name);
            let kill = test.node.kill(&sandbox, EndReason::Request);
            // Which comes first takes turns.
            if round % 2 == 0 {
                let ((), killed) = tokio::join!(crash, kill);
                killed.unwrap();
            } else {
                let (killed, ()) = tokio::join!(kill, crash);
                killed.unwrap();
            }
            let event = events.try_recv().unwrap();
            let NodeEvent::Ended { id, reason, .. } = event else { panic!("{event:?}") };
            assert_eq!(id, sandbox);
            assert!(matches!(reason, EndReason::Request | EndReason::Crashed), "{reason:?}");
            assert!(events.try_recv().is_err(), "an end is told once");
        }
        test.stop().await;
    });
}

#[test]
fn who_leaves_the_session_and_ignores_every_signal_dies_all_the_same() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        let addr = test.node.create(test.spec("i1"), LIMIT).await.unwrap().route.addr;
        let stubborn = "trap '' TERM HUP INT QUIT; while :; do sleep 1000; done";
        let fork = format!("busybox setsid sh -c \"{stubborn}\" </dev/null >/dev/null 2>&1 &");
        let fork = format!("for i in 1 2 3; do {fork} done");
        assert_eq!(run(addr, "user", &fork).await.code, 0);
        let stubborn = async || {
            let items = census(&test).await;
            let sleeps = |item: &&host::census::Item| item.name.ends_with(" sleep");
            items.iter().filter(|item| item.kind == Kind::Process).filter(sleeps).count()
        };
        wait_for("them to run", LIMIT, async || stubborn().await == 3).await;
        test.node.kill(&id("i1"), EndReason::Request).await.unwrap();
        let left = census(&test).await;
        assert!(left.iter().all(|item| item.kind != Kind::Process), "{left:#?}");
        test.stop().await;
    });
}

#[test]
fn who_forks_without_end_out_of_its_session_is_gone_with_its_children() {
    in_view(async |view| {
        let test = TestNode::start(view, |config| config.max_pids = 256).await;
        let addr = test.node.create(test.spec("i1"), LIMIT).await.unwrap().route.addr;
        // Each starts two that leave for a session of their own and do the same, for as long as
        // there are numbers; whoever finds none tries again.
        let bomb = "trap '' TERM HUP INT QUIT\n\
            while :; do busybox setsid sh /tmp/bomb & busybox setsid sh /tmp/bomb & wait; done";
        let start = format!(
            "echo \"{bomb}\" > /tmp/bomb; busybox setsid sh /tmp/bomb </dev/null >/dev/null 2>&1 &"
        );
        assert_eq!(run(addr, "user", &start).await.code, 0);
        let processes = async || {
            let items = census(&test).await;
            items.iter().filter(|item| item.kind == Kind::Process).count()
        };
        wait_for("its limit to be reached", LIMIT, async || processes().await >= 200).await;
        test.node.kill(&id("i1"), EndReason::Request).await.unwrap();
        let left = census(&test).await;
        assert!(lifecycles(&left).is_empty(), "{left:#?}");
        test.stop().await;
    });
}
