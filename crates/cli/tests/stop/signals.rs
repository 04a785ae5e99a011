use rustix::process::Signal;
use serde_json::json;

use crate::kit::{Service, census, data_dir, leaked, looks, turn};

#[test]
fn a_signal_lets_sandboxes_finish_and_everything_serves_meanwhile() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let mut service = Service::start(data.path(), &[]);
    let id = service.create();
    service.signal(Signal::TERM);
    let line = service.line();
    assert!(line.starts_with("cofferdam: stopping when 1 sandboxes have ended"), "{line:?}");
    // It says so before it begins, so its beginning is waited for.
    let drains = || !service.admin("GET", "/nodes").1.contains("\"status\":\"ready\"");
    assert!(looks(drains), "it does not begin");

    let (status, body) = service.try_create();
    assert_eq!(status, 503, "{body}");
    assert!(service.reaches(&id), "the sandbox is served");
    let (status, body) = service.api("GET", &format!("/sandboxes/{id}"), &json!(null));
    assert_eq!(status, 200, "{body}");
    assert_eq!(service.call("GET", "/health", &[], "").0, 200, "nobody kills it for draining");

    service.kill(&id);
    let (code, said) = service.end();
    assert!(
        said.ends_with(
            "1 sandboxes ended, 0 failed, 0 objects left, 0 events and 0 log lines lost, \
             exit code 0\n"
        ),
        "{said:?}"
    );
    assert_eq!(code, 0, "{}", service.complaint());
    assert_eq!(leaked(data.path()), json!([]));
}

#[test]
fn a_second_signal_ends_what_runs_and_the_exit_code_says_so() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let mut service = Service::start(data.path(), &[]);
    service.create();
    service.create();
    service.signal(Signal::TERM);
    assert!(service.line().contains("when 2 sandboxes have ended"));
    service.signal(Signal::INT);
    service.complains("cofferdam: ending 2 sandboxes now");
    let (code, said) = service.end();
    assert!(said.contains("2 sandboxes ended, 0 failed, 0 objects left, "), "{said:?}");
    assert!(said.ends_with("exit code 3\n"), "{said:?}");
    assert_eq!(code, 3);
    assert_eq!(leaked(data.path()), json!([]));
}

#[test]
fn a_third_signal_gives_up_and_the_next_start_removes_what_is_left() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    // Long enough that nothing but giving up ends it within the test.
    let mut service = Service::start(data.path(), &["--timeouts-stop", "10m"]);
    let id = service.create();
    service.hold_files();
    service.signal(Signal::TERM);
    service.line();
    service.signal(Signal::TERM);
    service.complains("another signal gives up");
    // The attempt to force has found out that it does not work.
    assert!(looks(|| service.admin("GET", "/nodes").1.contains(&id)), "it is not told");
    service.signal(Signal::TERM);
    service.complains("giving up");
    let (code, said) = service.end();
    assert_eq!(code, 2, "{said:?}");
    let (code, left) = census(data.path());
    assert_eq!((code, &left["leaked"]), (0, &json!([])), "what is left has a name: {left}");
    assert_ne!(left["unfinished"], json!([]), "{left}");

    let mut next = Service::start(data.path(), &[]);
    assert_eq!(leaked(data.path()), json!([]));
    next.signal(Signal::TERM);
    assert_eq!(next.end().0, 0, "{}", next.complaint());
}

#[test]
fn what_cannot_be_ended_in_time_is_named() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let patience = ["--shutdown-drain-timeout", "0s", "--timeouts-stop", "1s"];
    let mut service = Service::start(data.path(), &patience);
    let id = service.create();
    service.hold_files();
    service.signal(Signal::TERM);
    assert_eq!(service.line(), "cofferdam: stopping, 1 sandboxes will be ended\n");
    let (code, said) = service.end();
    assert_eq!(code, 2, "{said:?}");
    let complaint = service.complaint();
    assert!(complaint.contains(&id), "{complaint}");
    assert!(complaint.contains("cofferdam: left: LifecycleDirectory"), "{complaint}");
    Service::start(data.path(), &[]).finish();
    assert_eq!(leaked(data.path()), json!([]));
}

#[test]
fn a_stop_while_starting_leaves_nothing() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let mut service = Service::spawn(data.path(), &[], &[]);
    // The node takes its lock early in its start, long after signals are listened to.
    assert!(looks(|| data.path().join("node.lock").exists()), "it does not begin");
    service.signal(Signal::TERM);
    let (code, said) = service.end();
    assert_eq!(code, 0, "{said:?} {}", service.complaint());
    assert_eq!(leaked(data.path()), json!([]));
}

#[test]
fn a_person_at_a_terminal_is_told_what_ends_and_does_not_wait() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let mut service = Service::start_on_a_terminal(data.path(), &[]);
    service.create();
    service.signal(Signal::INT);
    let (code, said) = service.end();
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines.contains(&"cofferdam: stopping, 1 sandboxes will be ended"), "{said:?}");
    assert!(said.contains("1 sandboxes ended, 0 failed, 0 objects left, "), "{said:?}");
    assert!(said.trim_end().ends_with("exit code 3"), "{said:?}");
    assert_eq!(code, 3);
}

#[test]
fn who_will_be_killed_ends_what_runs_before_that() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    // All the time there is is what a stop needs, so there is none to wait.
    let deadline = ["--timeouts-stop", "60s", "--shutdown-kill-deadline", "145s"];
    let mut service = Service::start(data.path(), &deadline);
    service.create();
    service.signal(Signal::TERM);
    assert_eq!(service.line(), "cofferdam: stopping, 1 sandboxes will be ended\n");
    assert_eq!(service.end().0, 3);
}

#[test]
fn a_service_that_cannot_serve_stops_its_node_and_fails() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    // What is opened after the node has started.
    std::fs::create_dir(data.path().join("control-plane.sqlite")).unwrap();
    let mut service = Service::spawn(data.path(), &[], &[]);
    let (code, said) = service.end();
    assert!(said.contains("0 objects left, ") && said.ends_with("exit code 1\n"), "{said:?}");
    assert_eq!(code, 1);
    assert!(service.complaint().contains("cofferdam: stopped, because open the store"));
    assert_eq!(leaked(data.path()), json!([]));
}
