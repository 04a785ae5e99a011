//! What is on the host and is not this node's.

use std::path::Path;

use host::process::{Spawn, run};
use lifecycle::Budget;
use node_wire::NodeApi;
use rustix::process::Signal;
use testkit::{TestNode, in_view, with_view};

use super::{left_with, listed, tamper};
use crate::requirements::{LIMIT, id};

async fn call(program: &str, args: &[&str]) -> String {
    let done = run(Path::new(program), args, None, Budget::within(LIMIT)).await.unwrap();
    assert!(done.status.success(), "{program} {args:?}: {}", done.output);
    done.output
}

/// A network namespace, a firewall table and a program called as the runtime is, as others have
/// them; and another node of this host with a sandbox.
#[test]
fn what_is_not_this_nodes_is_as_it_was() {
    let (dir, before) = left_with(["i1", "i2"]);
    // One that goes on, and one that is removed.
    tamper(&dir.path().join("data"), &before[1], |record| record["boot_id"] = "another".into());
    let own = format!("cofferdam-foreign-{}", std::process::id());
    let scratch = tempfile::tempdir().unwrap();
    let crun = scratch.path().join("crun");
    with_view(async move |view| {
        // By another program: a child that a test starts meanwhile would have this process's copy
        // open for writing, and nobody could run it until that child execs.
        let to = crun.to_str().unwrap();
        call("/usr/bin/install", &["-m", "755", "/bin/sleep", to]).await;
        let neighbour = TestNode::start(view, |_| {}).await;
        neighbour.node.create(neighbour.spec("n1"), LIMIT).await.unwrap();
        let table = own.replace('-', "_");
        call("/usr/sbin/ip", &["netns", "add", &own]).await;
        call("/usr/sbin/nft", &["add", "table", "inet", &table]).await;
        let program = Spawn::new(&crun).args(["1000"]).start().unwrap();
        let inside = tokio::task::spawn_blocking(move || {
            in_view(async move |view| {
                let next = TestNode::start_in(dir, view, |_| {}).await;
                assert_eq!(listed(&next).await, before[..1]);
                next.stop().await;
            });
        });
        inside.await.unwrap();
        assert!(program.is_running().unwrap(), "it is only called like the runtime");
        program.signal(Signal::KILL).unwrap();
        program.exited().await.unwrap();
        assert!(call("/usr/sbin/ip", &["netns", "list"]).await.contains(&own));
        assert!(call("/usr/sbin/nft", &["list", "tables"]).await.contains(&table));
        call("/usr/sbin/ip", &["netns", "delete", &own]).await;
        call("/usr/sbin/nft", &["delete", "table", "inet", &table]).await;
        let addr = listed(&neighbour).await[0].addr.unwrap();
        assert_eq!(crate::guest::run(addr, "user", "echo here").await.stdout, "here\n");
        neighbour.node.kill(&id("n1"), model::EndReason::Request).await.unwrap();
        neighbour.stop().await;
    });
}
