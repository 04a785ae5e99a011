//! Snapshots of snapshots, as many as there may be.

use host::mount::MAX_LAYERS;
use model::{EndReason, Keep};
use node_wire::{NodeApi, PauseError};
use testkit::{TestNode, in_view};

use super::{LIMIT, id, snapshot};
use crate::guest::run;

/// One that is made of as many layers as there may be starts, and starts again from its files, and
/// has a file of every one. One more is refused, and the sandbox runs on.
#[test]
fn a_chain_of_snapshots_works_as_deep_as_it_may_be_and_the_next_is_refused() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        let mut addr = test.node.create(test.spec("i0"), LIMIT).await.unwrap().route.addr;
        // The template is a layer, too.
        let deepest = u32::try_from(MAX_LAYERS).unwrap() - 1;
        for number in 1..=deepest {
            let write = format!("echo {number} > /home/user/of-{number}; echo {number} > /last");
            run(addr, "root", &write).await;
            let source = id(&format!("i{}", number - 1));
            test.node.snapshot(&source, snapshot(number)).await.unwrap();
            test.node.kill(&source, EndReason::Request).await.unwrap();
            let mut spec = test.spec(&format!("i{number}"));
            spec.template = snapshot(number).template;
            let started = test.node.create(spec, LIMIT).await;
            addr = started.unwrap_or_else(|error| panic!("number {number}: {error}")).route.addr;
        }
        let last = format!("i{deepest}");
        let last = last.as_str();
        let all: String = (1..=deepest).map(|number| format!("{number}\n")).collect();
        let look = format!("for n in $(busybox seq {deepest}); do cat /home/user/of-$n; done");
        assert_eq!(run(addr, "user", &look).await.stdout, all);

        let refused = test.node.snapshot(&id(last), snapshot(deepest + 1)).await.unwrap_err();
        let PauseError::Limit(why) = &refused else { panic!("{refused:?}") };
        assert!(why.contains(&format!("made by {deepest} snapshots")), "{why}");
        assert_eq!(run(addr, "user", "cat /last").await.stdout, format!("{deepest}\n"));

        test.node.pause(&id(last), Keep::Files).await.unwrap();
        let mut spec = test.spec(last);
        spec.template = snapshot(deepest).template;
        let resumed = test.node.resume(spec, Keep::Memory, LIMIT).await.unwrap();
        assert_eq!(run(resumed.started.route.addr, "user", &look).await.stdout, all);
        test.node.kill(&id(last), EndReason::Request).await.unwrap();
        for number in (1..=deepest).rev() {
            test.node.remove_template(&snapshot(number).template).await.unwrap();
        }
        test.wait_no_sandbox_objects().await;
        test.stop().await;
    });
}
