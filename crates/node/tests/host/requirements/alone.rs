//! Counts that are kept by process: descriptors, threads, zombies.

use std::collections::BTreeSet;
use std::fs;

use model::{EndReason, NodeRequest};
use node_wire::NodeApi;
use testkit::{TestNode, in_view, wait_for};
use tokio::runtime::Handle;

use super::{LIMIT, id};

const NAME: &str =
    "requirements::alone::hundreds_of_sandboxes_come_and_go_and_leave_nothing_in_the_process";
/// Matches no test; marks the process that runs only one.
const ALONE: &str = "in-a-process-of-its-own";

/// Runs test `name` in a process in which nothing else runs.
#[expect(clippy::disallowed_methods, reason = "a test runs itself from outside")]
fn alone(name: &str) {
    let this = std::env::current_exe().unwrap();
    let done = std::process::Command::new(this).args(["--exact", name, ALONE]).output().unwrap();
    let output = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && output.contains("1 passed"), "{output}");
}

/// What a process has that it must give back.
#[derive(Debug, PartialEq, Eq)]
struct Has {
    descriptors: usize,
    threads: usize,
    tasks: usize,
    zombies: usize,
}

impl Has {
    fn now() -> Self {
        let count = |dir: &str| fs::read_dir(dir).unwrap().count();
        Self {
            // Without the one that reads the directory.
            descriptors: count("/proc/self/fd") - 1,
            threads: count("/proc/self/task"),
            tasks: Handle::current().metrics().num_alive_tasks(),
            zombies: zombies(),
        }
    }
}

fn zombies() -> usize {
    let own = std::process::id().to_string();
    let of_ours = |stat: &String| {
        let after = stat.rsplit(") ").next().unwrap_or_default();
        let mut fields = after.split(' ');
        fields.next() == Some("Z") && fields.next() == Some(own.as_str())
    };
    let dirs = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    dirs.filter_map(|dir| fs::read_to_string(dir.path().join("stat")).ok()).filter(of_ours).count()
}

/// The network namespaces that threads of this process are in.
fn networks() -> BTreeSet<std::path::PathBuf> {
    let tasks = fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    // A thread may end meanwhile.
    tasks.filter_map(|task| fs::read_link(task.join("ns/net")).ok()).collect()
}

#[test]
fn hundreds_of_sandboxes_come_and_go_and_leave_nothing_in_the_process() {
    if !std::env::args().any(|arg| arg == ALONE) {
        return alone(NAME);
    }
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        test.node.create(test.spec("first"), LIMIT).await.unwrap();
        test.node.kill(&id("first"), EndReason::Request).await.unwrap();
        test.wait_no_sandbox_objects().await;
        // Threads for work that blocks end when nothing has been asked of them for a while.
        let workers = Handle::current().metrics().num_workers();
        let before = Has::now();
        let one = async |lane: u32| {
            for n in 0..75 {
                let name = format!("i{lane}x{n}");
                test.node.create(test.spec(&name), LIMIT).await.unwrap();
                test.node.kill(&id(&name), EndReason::Request).await.unwrap();
            }
        };
        futures::future::join_all((0..4).map(one)).await;
        // Who watches a drain and goes away leaves no task either.
        let mut watchers = Vec::new();
        for _ in 0..100 {
            watchers.push(test.node.drain_updates().await.unwrap());
        }
        drop(watchers);
        test.wait_no_sandbox_objects().await;
        wait_for("descriptors, threads and tasks to be as before", LIMIT, || async {
            let now = Has::now();
            now.descriptors == before.descriptors
                && now.tasks == before.tasks
                && now.zombies == 0
                && now.threads <= before.threads.max(workers + 3)
        })
        .await;
        assert_eq!(networks().len(), 1, "no thread was left in a sandbox's network");
        test.node.request(NodeRequest::Drain).await.unwrap();
        test.stop().await;
    });
}
