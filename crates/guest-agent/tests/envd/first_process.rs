//! What the first process of a sandbox owes its others.

use crate::program::{Envd, command, is_alive, wait_until};
use crate::upgrade::{connect, upgrade};

/// As process 1 of a namespace of its own, if this machine allows it.
fn start() -> Option<Envd> {
    let unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];
    let probe = command(unshare[0]).args(&unshare[1..]).arg("true").status();
    if !probe.is_ok_and(|status| status.success()) {
        println!("skipped, because this machine allows no process namespaces");
        return None;
    }
    Some(Envd::start_by(&unshare, &[], &[]))
}

#[tokio::test]
async fn orphans_are_reaped() {
    let Some(envd) = start() else { return };
    let outcome =
        envd.run("ps -o pid= -p 1 >/dev/null; for i in 1 2 3; do (sleep 0.01 &) ; done").await;
    assert_eq!(outcome.end["exited"], true);
    for _ in 0..1_000 {
        let states = envd.run("cat /proc/[0-9]*/stat 2>/dev/null | cut -d' ' -f2,3").await.stdout;
        if !states.contains("sleep") {
            assert!(!states.contains(") Z"), "{states}");
            return;
        }
    }
    panic!("the orphans never went away");
}

#[tokio::test]
async fn an_upgraded_agent_is_still_the_first_process_and_reaps_and_ends_as_one() {
    let Some(mut envd) = start() else { return };
    envd.post("/init", &[], "{}").await;
    // Its orphans end before, while and after the agent is replaced.
    let orphans = "for i in 1 2 3 4 5 6 7 8 9; do (sleep 0.0$i &) ; done; echo up; exec sleep 1000";
    let mut frames = envd.shell(orphans, &[]).await;
    let pid = frames.started().await;
    frames.until("stdout", "up").await;
    for _ in 0..2 {
        upgrade(&envd).await;
    }
    let frames = connect(&envd, pid).await;
    let states = "cat /proc/[0-9]*/stat 2>/dev/null | cut -d' ' -f1,2,3";
    // One sleeps on, and the other eight are gone.
    while envd.run(states).await.stdout.matches("sleep").count() > 1 {}
    assert!(!envd.run(states).await.stdout.contains(") Z"));
    assert_eq!(envd.run("readlink /proc/1/exe").await.stdout, "/memfd:envd (deleted)\n");

    let unshare = envd.pid();
    let children = std::fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children"));
    let first = rustix::process::Pid::from_raw(children.unwrap().trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(first, rustix::process::Signal::TERM).unwrap();
    assert_eq!(envd.child().wait().unwrap().code(), Some(0));
    drop(frames);
}

#[tokio::test]
async fn the_end_of_the_agent_is_the_end_of_everything() {
    let Some(mut envd) = start() else { return };
    // One that ends when asked, and one that does not.
    let polite = format!("trap 'touch {}; exit' TERM; echo up; while :; do sleep 0.01; done", {
        envd.text_path("asked")
    });
    let mut one = envd.shell(&polite, &[]).await;
    one.started().await;
    one.until("stdout", "up").await;
    let mut other = envd.shell("trap '' TERM; echo up; while :; do sleep 0.01; done", &[]).await;
    other.started().await;
    other.until("stdout", "up").await;

    let unshare = envd.pid();
    let children = std::fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children"));
    let first: i32 = children.unwrap().trim().parse().unwrap();
    // Each thread has children of its own.
    let threads = std::fs::read_dir(format!("/proc/{first}/task")).unwrap().flatten();
    let below: Vec<u32> = threads
        .flat_map(|thread| {
            let children = std::fs::read_to_string(thread.path().join("children")).unwrap();
            let pids = children.split_whitespace().map(|pid| pid.parse().unwrap());
            pids.collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(below.len(), 2, "{below:?}");
    let pid = rustix::process::Pid::from_raw(first).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let status = envd.child().wait().unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(envd.path("asked").exists());
    wait_until("all are gone", || !below.iter().any(|pid| is_alive(*pid))).await;
}

#[tokio::test]
async fn outside_of_a_sandbox_only_its_own_processes_end() {
    let mut envd = Envd::start();
    let mut frames = envd.shell("exec sleep 1000", &[]).await;
    let child = u32::try_from(frames.started().await).unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(envd.pid()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(envd.child().wait().unwrap().code(), Some(0));
    assert!(!is_alive(child));
}
