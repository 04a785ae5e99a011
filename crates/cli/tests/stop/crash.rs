//! `kill -9` of the service at every point of what it does, and what the next one makes of it.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::guest;
use crate::kit::{Client, Service, data_dir, leaked, list, looks, turn};

/// A service that kills itself the first time it passes `point`.
fn doomed(data: &std::path::Path, point: &str) -> Service {
    Service::start_with(data, &[], &[("COFFERDAM_FAULTS", &format!("{point}=kill"))])
}

/// One that is killed while it starts, at `point`.
fn killed_while_starting(data: &std::path::Path, point: &str) {
    let faults = format!("{point}=kill");
    let mut service = Service::spawn(data, &[], &[("COFFERDAM_FAULTS", &faults)]);
    service.killed(point);
}

/// Leaves a sandbox that is half made: there is something to clear up.
fn half_made(data: &std::path::Path) {
    let mut service = doomed(data, "create.init.before");
    let body = json!({ "templateID": "busybox", "timeout": 3600 });
    assert!(service.try_api("POST", "/sandboxes", &body).is_err());
    service.killed("a create");
}

/// The sandboxes the service knows, when it has found out about all of them.
fn settled(service: &Client) -> Vec<String> {
    // Reclaiming goes on while it serves already.
    let is_ready = || service.admin("GET", "/nodes").1.contains("\"status\":\"ready\"");
    assert!(looks(is_ready), "it never became ready");
    list(service)
}

/// The service has exactly `ids`, every one of which works; nothing else is on the host.
fn has_exactly(service: &Client, ids: &[&str], case: &str) {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    assert_eq!(settled(service), ids, "{case}");
    for id in ids {
        assert!(service.reaches(id), "{case}: {id}");
    }
    assert_eq!(leaked(&service.data), json!([]), "{case}");
}

#[test]
fn killed_at_any_point_of_a_create_the_next_one_has_what_was_there_and_nothing_half_made() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let first = Service::start(data.path(), &[]);
    let there = first.create();
    let pid = guest::start(first.address, &there, "while :; do sleep 1; done");
    let mut last = first;
    for point in node::CREATE_POINTS {
        // From there on it is the client's, who was not told of it.
        let whole = point == "create.live.after";
        last.crash();
        let mut service = doomed(data.path(), point);
        assert!(service.reaches(&there), "{point}");
        let body = json!({ "templateID": "busybox", "timeout": 3600 });
        let cut = service.try_api("POST", "/sandboxes", &body);
        assert!(cut.is_err(), "{point}: {cut:?}");
        service.killed(point);
        last = Service::start(data.path(), &[]);
        let left = settled(&last);
        let new: Vec<&str> = left.iter().map(String::as_str).filter(|id| **id != *there).collect();
        assert_eq!(new.len(), usize::from(whole), "{point}: {new:?}");
        has_exactly(&last, &[&[&*there], &*new].concat(), point);
        new.iter().for_each(|id| last.kill(id));
    }
    let said = guest::run(last.address, &there, &format!("kill -0 {pid} && echo it is there"));
    // "it is there\n"
    assert!(said.contains("aXQgaXMgdGhlcmUK"), "{said}");
    last.kill(&there);
    last.finish();
    assert_eq!(leaked(data.path()), json!([]));
}

#[test]
fn killed_at_any_step_of_a_kill_the_next_one_finishes_it() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let mut last = Service::start(data.path(), &[]);
    let stays = last.create();
    for step in node::Step::ALL {
        let point = format!("release.{}", step.name());
        let goes = last.create();
        last.crash();
        let mut service = doomed(data.path(), &point);
        let cut = service.try_api("DELETE", &format!("/sandboxes/{goes}"), &Value::Null);
        assert!(cut.is_err(), "{point}: {cut:?}");
        service.killed(&point);
        last = Service::start(data.path(), &[]);
        has_exactly(&last, &[&stays], &point);
        let (status, body) = last.api("GET", &format!("/sandboxes/{goes}"), &Value::Null);
        assert_eq!(status, 404, "{point}: {body}");
    }
    last.kill(&stays);
    last.finish();
    assert_eq!(leaked(data.path()), json!([]));
}

#[test]
fn killed_at_any_step_of_a_forced_drain_the_next_one_finishes_what_was_begun() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    for step in node::Step::ALL {
        let point = format!("release.{}", step.name());
        let mut service = doomed(data.path(), &point);
        service.create();
        service.create();
        let body = json!({ "status": "draining", "forceStop": true });
        let id = service.node_id();
        // The answer may be there before the end is.
        drop(service.try_admin("POST", &format!("/nodes/{id}"), &body));
        service.killed(&point);
        let next = Service::start(data.path(), &[]);
        // Of two that were to end, each has ended or runs on whole, as far as it had come.
        let left = settled(&next);
        has_exactly(&next, &left.iter().map(String::as_str).collect::<Vec<_>>(), &point);
        left.iter().for_each(|id| next.kill(id));
        next.finish();
        assert_eq!(leaked(data.path()), json!([]), "{point}");
    }
}

#[test]
fn killed_at_any_point_of_taking_over_the_one_after_it_takes_over() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let mut last = Service::start(data.path(), &[]);
    let stays = last.create();
    for point in node::ADOPT_POINTS {
        last.crash();
        half_made(data.path());
        killed_while_starting(data.path(), point);
        last = Service::start(data.path(), &[]);
        has_exactly(&last, &[&stays], point);
    }
    last.kill(&stays);
    last.finish();
    assert_eq!(leaked(data.path()), json!([]));
}

#[test]
fn killed_at_any_step_of_clearing_up_the_one_after_it_clears_up() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    for step in node::Step::ALL {
        let point = format!("release.{}", step.name());
        half_made(data.path());
        killed_while_starting(data.path(), &point);
        let next = Service::start(data.path(), &[]);
        has_exactly(&next, &[], &point);
        next.finish();
        assert_eq!(leaked(data.path()), json!([]), "{point}");
    }
}

#[test]
fn killed_again_and_again_it_loses_nothing() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let mut service = Service::start(data.path(), &[]);
    let ids: Vec<String> = (0..5).map(|_| service.create()).collect();
    for _ in 0..3 {
        service.crash();
        service = Service::start(data.path(), &[]);
    }
    has_exactly(&service, &ids.iter().map(String::as_str).collect::<Vec<_>>(), "again and again");
    service.signal(Signal::TERM);
    ids.iter().for_each(|id| service.kill(id));
    assert_eq!(service.end().0, 0);
    assert_eq!(leaked(data.path()), json!([]));
}

/// How a service is made to leave its sandboxes to the next one.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// By a signal; the next one comes when it has ended.
    Signal,
    /// By the next one, which waits for it.
    Handover,
}

#[test]
fn killed_at_any_point_of_leaving_the_next_one_has_what_was_there() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let mut last = Service::start(data.path(), &[]);
    let stays = last.create();
    let pid = guest::start(last.address, &stays, "while :; do sleep 1; done");
    for way in [Way::Signal, Way::Handover] {
        for point in node::LEAVE_POINTS {
            let case = format!("{way:?} {point}");
            last.crash();
            let faults = format!("{point}=kill");
            let leaves = ["--shutdown-leave", "always"];
            let mut leaving =
                Service::start_with(data.path(), &leaves, &[("COFFERDAM_FAULTS", &faults)]);
            assert!(leaving.reaches(&stays), "{case}");
            last = match way {
                Way::Signal => {
                    leaving.signal(Signal::TERM);
                    leaving.killed(&case);
                    Service::start(data.path(), &[])
                }
                Way::Handover => {
                    let next = Service::start(data.path(), &["--handover"]);
                    leaving.killed(&case);
                    next
                }
            };
            has_exactly(&last, &[&stays], &case);
        }
    }
    let said = guest::run(last.address, &stays, &format!("kill -0 {pid} && echo it is there"));
    // "it is there\n"
    assert!(said.contains("aXQgaXMgdGhlcmUK"), "{said}");
    last.kill(&stays);
    last.finish();
    assert_eq!(leaked(data.path()), json!([]));
}

/// Who supervises it sees a failure (systemd's `Restart=on-failure`) and no end that was wanted.
#[test]
fn a_panic_at_any_point_of_leaving_is_a_failure_and_the_next_one_has_what_was_there() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let mut last = Service::start(data.path(), &[]);
    let stays = last.create();
    for point in node::LEAVE_POINTS {
        last.crash();
        let faults = format!("{point}=panic");
        let leaves = ["--shutdown-leave", "always"];
        let mut leaving =
            Service::start_with(data.path(), &leaves, &[("COFFERDAM_FAULTS", &faults)]);
        leaving.signal(Signal::TERM);
        let (code, said) = leaving.end();
        assert_eq!(code, 101, "{point}: {said} {}", leaving.complaint());
        last = Service::start(data.path(), &[]);
        has_exactly(&last, &[&stays], point);
    }
    last.kill(&stays);
    last.finish();
    assert_eq!(leaked(data.path()), json!([]));
}
