//! Paused sandboxes over the ends of the service: whatever it was about when it was killed, the next one
//! has the sandbox, running or paused, with everything that was kept of it.

use serde_json::{Value, json};

use crate::guest;
use crate::kit::{Client, Service, data_dir, leaked, looks, turn};

/// A service that kills itself the first time it passes `point`.
fn doomed(data: &std::path::Path, point: &str) -> Service {
    Service::start_with(data, &[], &[("COFFERDAM_FAULTS", &format!("{point}=kill"))])
}

fn pause(service: &Client, id: &str, memory: bool) -> Option<u16> {
    let body = json!({ "memory": memory });
    let answer = service.try_api("POST", &format!("/sandboxes/{id}/pause"), &body);
    answer.ok().map(|(status, _)| status)
}

fn connect(service: &Client, id: &str) -> Option<u16> {
    let body = json!({ "timeout": 3600 });
    let answer = service.try_api("POST", &format!("/sandboxes/{id}/connect"), &body);
    answer.ok().map(|(status, _)| status)
}

fn detail(service: &Client, id: &str) -> Value {
    let (status, body) = service.api("GET", &format!("/sandboxes/{id}"), &Value::Null);
    assert_eq!(status, 200, "{id}: {body}");
    serde_json::from_str(&body).unwrap()
}

/// Waits until the service has found out what it has.
fn is_ready(service: &Client) {
    let ready = || service.admin("GET", "/nodes").1.contains("\"status\":\"ready\"");
    assert!(looks(ready), "it never became ready");
}

/// Runs, and has the file it has written; and if `pid` is kept, its process.
fn is_whole(service: &Client, id: &str, pid: Option<u64>, case: &str) {
    // "kept\n"
    let said = guest::run(service.address, id, "cat /home/user/file");
    assert!(said.contains("a2VwdAo"), "{case}: {said}");
    if let Some(pid) = pid {
        let said = guest::run(service.address, id, &format!("kill -0 {pid} && echo it is there"));
        assert!(said.contains("aXQgaXMgdGhlcmUK"), "{case}: {said}");
    }
}

fn with_file(service: &Client) -> String {
    let id = service.create();
    guest::run(service.address, &id, "echo kept > /home/user/file");
    id
}

#[test]
fn killed_at_any_point_of_a_pause_or_resume_the_next_one_has_the_sandbox() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let mut last = Service::start(data.path(), &[]);
    let id = with_file(&last);
    let pid = guest::start(last.address, &id, "while :; do sleep 1; done");
    for point in node::HALT_POINTS {
        last.crash();
        let mut service = doomed(data.path(), point);
        is_ready(&service);
        // One of them is cut off; the others do what they say.
        pause(&service, &id, true);
        connect(&service, &id);
        let path = format!("/sandboxes/{id}/snapshots");
        drop(service.try_api("POST", &path, &json!({})));
        service.killed(point);
        last = Service::start(data.path(), &[]);
        is_ready(&last);
        let state = detail(&last, &id)["state"].clone();
        if state == "paused" {
            assert_eq!(connect(&last, &id), Some(201), "{point}");
        }
        is_whole(&last, &id, Some(pid), point);
        assert_eq!(leaked(data.path()), json!([]), "{point}");
    }
    last.kill(&id);
    last.finish();
    assert_eq!(leaked(data.path()), json!([]));
}

#[test]
fn killed_at_any_point_of_a_pause_of_files_or_a_start_with_them_nothing_is_lost() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let mut last = Service::start(data.path(), &[]);
    let id = with_file(&last);
    let release = node::Step::ALL.map(|step| format!("release.{}", step.name()));
    let start = node::CREATE_POINTS.map(str::to_owned);
    for point in release.into_iter().chain(start) {
        last.crash();
        let mut service = doomed(data.path(), &point);
        is_ready(&service);
        pause(&service, &id, false);
        connect(&service, &id);
        service.killed(&point);
        last = Service::start(data.path(), &[]);
        is_ready(&last);
        // Until the node has looked through what was left, its state is the one before.
        let is_known = || {
            let state = detail(&last, &id)["state"].clone();
            state == "running" || connect(&last, &id) == Some(201)
        };
        assert!(looks(is_known), "{point}: {}", detail(&last, &id));
        is_whole(&last, &id, None, &point);
        assert_eq!(leaked(data.path()), json!([]), "{point}");
    }
    pause(&last, &id, false);
    last.kill(&id);
    last.finish();
    assert_eq!(leaked(data.path()), json!([]));
}

/// A stop gives the memory up and keeps the files; the next service has them.
#[test]
fn a_stop_seals_what_is_paused_and_the_next_service_says_so() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let mut first = Service::start(data.path(), &[]);
    let id = with_file(&first);
    assert_eq!(pause(&first, &id, true), Some(204));
    assert_eq!(detail(&first, &id)["pauseMode"], "full");
    first.signal(rustix::process::Signal::TERM);
    let (code, said) = first.end();
    assert_eq!(code, 0, "{said}");
    assert_eq!(leaked(data.path()), json!([]));
    let next = Service::start(data.path(), &[]);
    is_ready(&next);
    let is_told = || detail(&next, &id)["pauseMode"] == "filesystem";
    assert!(looks(is_told), "{}", detail(&next, &id));
    assert_eq!(connect(&next, &id), Some(201));
    is_whole(&next, &id, None, "the next service");
    next.kill(&id);
    next.finish();
}
