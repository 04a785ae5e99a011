//! Pauses of a real sandbox whose guest agent is stopped, as only the host can stop the first process
//! of a pid namespace.

use std::path::{Path, PathBuf};
use std::time::Duration;

use host::process::Process;
use model::{EndReason, Keep, SandboxId, SandboxPhase};
use node_wire::{NodeApi, PauseError, PauseOrder, PausedStatus};
use rustix::process::Signal;
use testkit::{TestNode, in_view, wait_for};

use crate::guest::run;
use crate::requirements::census;

const LIMIT: Duration = Duration::from_secs(60);
const STRICT: PauseOrder = PauseOrder { keep: Keep::Memory, healthy_only: true };

/// Starts a program that counts in a file as long as it runs.
const COUNT: &str = "(while true; do echo x >> /home/user/count; busybox usleep 1000; done) \
                     >/dev/null 2>&1 & until [ -s /home/user/count ]; do busybox usleep 1000; done";

fn id() -> SandboxId {
    SandboxId::parse("i1").unwrap()
}

/// Sends a signal to the guest agent of the only sandbox there is. After one that stops it, none of
/// its threads answers any more: the kernel stops them one by one, after the call.
pub(crate) async fn tell_agent(test: &TestNode, signal: Signal) {
    let items = census(test).await;
    let agent = items.iter().find(|item| item.name.ends_with(" envd")).unwrap();
    let pid = agent.name.split(' ').next().unwrap().parse().unwrap();
    Process::open(pid).unwrap().signal(signal).unwrap();
    if signal == Signal::STOP {
        wait_for("every thread has stopped", LIMIT, || async { has_stopped(pid) }).await;
    }
}

/// Whether every thread of a process is in the state `T` of proc(5).
fn has_stopped(pid: i32) -> bool {
    let mut threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads.all(|thread| {
        // One that ends meanwhile has nothing to read, and is not listed the next time. The name
        // before the state is in parentheses and may have anything in it.
        let stat = std::fs::read_to_string(thread.unwrap().path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    })
}

/// Waits until the program counts on, from here.
async fn counts_on(count: &Path) {
    let length = || std::fs::metadata(count).map_or(0, |meta| meta.len());
    let before = length();
    wait_for("it counts on", LIMIT, || async { length() > before }).await;
}

async fn pause(test: &TestNode, order: PauseOrder) -> Result<PausedStatus, PauseError> {
    test.node.pause_by(&id(), order).await
}

/// Where the sandbox counts, of its run that goes on.
async fn count_of(test: &TestNode) -> PathBuf {
    let all = test.node.list().await.unwrap();
    assert_eq!(all[0].phase, SandboxPhase::Live);
    let lifecycles = test.data_dir().join("node/lifecycles");
    lifecycles.join(all[0].lifecycle.as_str()).join("upper/home/user/count")
}

#[test]
fn a_sandbox_whose_agent_is_stopped_runs_on_or_is_paused_and_said_to_be_one() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        let addr = test.node.create(test.spec("i1"), LIMIT).await.unwrap().route.addr;
        assert_eq!(run(addr, "user", COUNT).await.code, 0);
        let count = count_of(&test).await;
        tell_agent(&test, Signal::STOP).await;
        for order in [STRICT, Keep::Files.into()] {
            let refused = pause(&test, order).await.unwrap_err();
            assert_eq!(refused, PauseError::AgentSilent("i1".into()));
            counts_on(&count).await;
        }
        let paused = pause(&test, Keep::Memory.into()).await.unwrap();
        assert!(paused.memory && paused.agent_silent);
        assert_eq!(test.node.paused().await.unwrap(), [paused]);

        // Whoever knows better may have its memory: nothing of it is lost.
        tell_agent(&test, Signal::CONT).await;
        let resumed = test.node.resume(test.spec("i1"), Keep::Memory, LIMIT).await.unwrap();
        assert!(resumed.memory);
        counts_on(&count).await;
        assert!(!pause(&test, STRICT).await.unwrap().agent_silent);
        test.node.resume(test.spec("i1"), Keep::Memory, LIMIT).await.unwrap();

        tell_agent(&test, Signal::STOP).await;
        assert!(pause(&test, Keep::Memory.into()).await.unwrap().agent_silent);
        let anew = test.node.resume(test.spec("i1"), Keep::Files, LIMIT).await.unwrap();
        assert!(!anew.memory);
        let file = run(anew.started.route.addr, "user", "[ -s /home/user/count ]").await;
        assert_eq!(file.code, 0, "{file:?}");
        test.node.kill(&id(), EndReason::Request).await.unwrap();
        test.wait_no_sandbox_objects().await;
        test.stop().await;
    });
}
