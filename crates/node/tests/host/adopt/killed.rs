//! Daemons that are killed for good, by SIGKILL at one point: processes of their own, which are this
//! test program once more.

use std::path::Path;

use host::{Fault, Faults};
use model::EndReason;
use node::{ADOPT_POINTS, CREATE_POINTS, Step};
use node_wire::NodeApi;
use tempfile::TempDir;
use testkit::{TestNode, in_view};

use super::{listed, reason};
use crate::guest::run;
use crate::requirements::{LIMIT, census, id, lifecycles};

const NAME: &str = "adopt::killed::a_daemon_of_its_own";
/// What such a daemon is told begins so.
const DIR: &str = "data-directory=";
const DOING: &str = "doing=";
const POINT: &str = "killed-at=";

fn told(what: &str) -> Option<String> {
    std::env::args().find_map(|arg| Some(arg.strip_prefix(what)?.to_owned()))
}

/// Runs a daemon on `dir` that is killed at `point` while it is `doing`.
#[expect(clippy::disallowed_methods, reason = "a test runs itself from outside")]
fn killed(dir: &Path, doing: &str, point: &str) {
    use std::os::unix::process::ExitStatusExt;
    let args = [(DIR, dir.to_str().unwrap()), (DOING, doing), (POINT, point)];
    let args = args.map(|(what, value)| format!("{what}{value}"));
    let this = std::env::current_exe().unwrap();
    let done =
        std::process::Command::new(this).args(["--exact", NAME]).args(args).output().unwrap();
    let output = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.signal(), Some(9), "{doing} {point}: {output}");
}

/// The daemon itself. Run as one of all tests it does nothing.
#[test]
fn a_daemon_of_its_own() {
    let (Some(root), Some(doing), Some(point)) = (told(DIR), told(DOING), told(POINT)) else {
        return;
    };
    in_view(async move |view| {
        let faults = Faults::default();
        let arm = || faults.arm(&point, Fault::Kill, 1);
        if doing == "start" {
            arm();
        }
        let test = TestNode::start_at(root.into(), view, |c| c.faults = faults.clone()).await;
        let create = async |id: &str| test.node.create(test.spec(id), LIMIT).await;
        if doing != "start" {
            create("i0").await.unwrap();
        }
        if doing == "kill" {
            create("i1").await.unwrap();
        }
        arm();
        match doing.as_str() {
            "create" => drop(create("i1").await),
            _ => drop(test.node.kill(&id("i1"), EndReason::Request).await),
        }
        // What is passed after the answer is passed soon.
        tokio::time::sleep(LIMIT).await;
    });
}

/// What the next daemon finds: these are live, and nothing of any other is there.
fn finds(dir: TempDir, case: String, live: &'static [&'static str]) {
    in_view(async move |view| {
        let next = TestNode::start_in(dir, view, |_| {}).await;
        let listed = listed(&next).await;
        let ids: Vec<_> = listed.iter().map(|status| status.id.as_str()).collect();
        assert_eq!(ids, live, "{case}");
        for status in &listed {
            let output = run(status.addr.unwrap(), "user", "echo here").await;
            assert_eq!(output.stdout, "here\n", "{case}");
        }
        let expected = listed.iter().map(|status| status.lifecycle.to_string()).collect();
        assert_eq!(lifecycles(&census(&next).await), expected, "{case}");
        if case.starts_with("kill") {
            assert_eq!(reason(&next, "i1").await, Some(EndReason::Request), "{case}");
        }
        // The id of what is gone can be used again.
        if live.len() == 1 {
            next.node.create(next.spec("i1"), LIMIT).await.unwrap();
        }
        next.stop().await;
    });
}

#[test]
fn whatever_point_of_a_create_it_is_killed_at_what_was_live_runs_on_and_nothing_is_left() {
    for point in CREATE_POINTS {
        let dir = tempfile::tempdir().unwrap();
        killed(dir.path(), "create", point);
        // It was written as live, and so it is.
        let live: &[&str] = if point == "create.live.after" { &["i0", "i1"] } else { &["i0"] };
        finds(dir, format!("create {point}"), live);
    }
}

#[test]
fn whatever_step_of_a_kill_it_is_killed_at_the_next_one_finishes_it() {
    for step in Step::ALL {
        let (dir, point) = (tempfile::tempdir().unwrap(), format!("release.{}", step.name()));
        killed(dir.path(), "kill", &point);
        finds(dir, format!("kill {point}"), &["i0"]);
    }
}

#[test]
fn whatever_point_of_taking_over_it_is_killed_at_the_next_one_does_it_again() {
    for point in ADOPT_POINTS {
        let dir = tempfile::tempdir().unwrap();
        killed(dir.path(), "create", "create.runtime.after");
        killed(dir.path(), "start", point);
        finds(dir, format!("start {point}"), &["i0"]);
    }
}
