//! What a real guest agent has noted, read by the daemon of its sandbox and by the one after it.

use std::time::Duration;

use lifecycle::Budget;
use model::{EndReason, Keep, SandboxSpec, Secret};
use node_wire::{Journal, JournalLine, JournalMark, NodeApi, NodeError};
use testkit::{TestNode, in_view, with_view};

use crate::guest::run_with;
use crate::requirements::id;

const LIMIT: Duration = Duration::from_secs(60);
/// The daemon is told it with the create, and the next one by nobody.
const TOKEN: &str = "token-of-this-test";

/// Everything that the agent of the only sandbox has noted after `mark`.
async fn read(test: &TestNode, mark: &JournalMark) -> Journal {
    test.node.journal(&id("i1"), mark).await.unwrap().unwrap()
}

async fn echo(test: &TestNode) {
    let addr = test.node.list().await.unwrap()[0].addr.unwrap();
    let output = run_with(addr, "user", Some(TOKEN), "echo s3cr3t | tr 3 4; exit 7").await;
    assert_eq!((output.code, output.stdout.as_str()), (7, "s4cr4t\n"));
}

fn event(line: &JournalLine) -> [&str; 3] {
    ["event_type", "exit_code", "stdout_bytes"]
        .map(|name| line.fields.get(name).map_or("", String::as_str))
}

const BOTH: [[&str; 3]; 2] = [["process_start", "", ""], ["process_end", "7", "7"]];

#[test]
fn what_an_agent_has_noted_is_read_by_the_daemon_that_made_its_sandbox_and_by_the_next() {
    let (dir, mark) = with_view(async move |view| {
        let test = TestNode::start(view, |_| {}).await;
        let access_token = Some(Secret::new(TOKEN.to_owned()));
        let spec = SandboxSpec { access_token, ..test.spec("i1") };
        test.node.create(spec, LIMIT).await.unwrap();
        let nothing = JournalMark::default();
        assert_eq!(read(&test, &nothing).await.lines, []);
        echo(&test).await;
        let told = read(&test, &nothing).await;
        assert_eq!(told.lines.iter().map(event).collect::<Vec<_>>(), BOTH);
        assert!(told.lines[0].fields["command"].contains("echo s3cr3t | tr 3 4"), "{told:?}");
        assert!(!format!("{told:?}").contains("s4cr4t"), "nothing of what it wrote");
        let mark = JournalMark { run: told.run, number: told.lines[1].number };
        assert_eq!(read(&test, &mark).await.lines, []);
        let report = test.node.leave(Budget::within(LIMIT)).await;
        assert_eq!((report.left, report.errors), (1, Vec::new()));
        (test.into_dir(), mark)
    });
    in_view(async move |view| {
        let next = TestNode::start_in(dir, view, |_| {}).await;
        echo(&next).await;
        let told = read(&next, &mark).await;
        assert_eq!(told.run, mark.run, "the agent has run on");
        assert_eq!(told.lines.iter().map(event).collect::<Vec<_>>(), BOTH);
        assert_eq!(told.lines[0].number, mark.number + 1);
        // One that stands still is not asked.
        next.node.pause(&id("i1"), Keep::Memory).await.unwrap();
        let refused = next.node.journal(&id("i1"), &mark).await.unwrap_err();
        assert_eq!(refused, NodeError::NotFound("i1".into()));
        next.node.kill(&id("i1"), EndReason::Request).await.unwrap();
        next.stop().await;
    });
}
