use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::kit::{Service, data_dir, leaked, read_all, terminal, turn};

/// Stops a service that has nothing to wait for.
fn stop(mut service: Service) {
    service.signal(Signal::TERM);
    let (code, said) = service.end();
    assert_eq!(code, 0, "{said:?} {}", service.complaint());
    assert_eq!(leaked(&service.data), json!([]));
}

#[test]
fn a_drain_that_is_waited_for_ends_with_the_last_sandbox() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let service = Service::start(data.path(), &[]);
    let id = service.create();
    let (code, listed) = service.node(&["ls"]);
    assert_eq!(code, 0, "{listed}");
    assert!(listed.lines().nth(1).unwrap().contains("ready"), "{listed}");
    assert_eq!(service.node(&["status", "--ready"]).0, 0);

    let mut drain = service.operator(&["drain", "--wait"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(drain.stdout.take().unwrap()).lines();
    let first = told.next().unwrap().unwrap();
    assert!(first.contains("draining") && first.contains("1 left"), "{first}");
    assert!(first.contains(&id), "the sandbox is named: {first}");
    assert_eq!(service.try_create().0, 503);
    assert_eq!(service.node(&["status", "--ready"]).0, 1);
    service.kill(&id);
    assert!(drain.wait().unwrap().success());
    assert!(told.last().unwrap().unwrap().contains("is drained; nothing is left"));
    // Asked again, it is drained at once.
    assert_eq!(service.node(&["drain", "--wait"]).0, 0);
    stop(service);
}

#[test]
fn an_interrupt_ends_the_wait_and_not_the_drain() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let service = Service::start(data.path(), &[]);
    let id = service.create();
    let mut drain =
        service.operator(&["drain", "--force-after", "1h"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(drain.stdout.take().unwrap()).lines();
    told.next().unwrap().unwrap();
    // A child of ours that was not waited for: the number is its own.
    kill_process(Pid::from_child(&drain), Signal::INT).unwrap();
    assert_eq!(drain.wait().unwrap().code(), Some(1));
    let last = told.last().unwrap().unwrap();
    assert!(last.contains("the drain goes on; it will not be forced"), "{last}");
    assert!(service.reaches(&id));
    assert_eq!(service.try_create().0, 503);
    service.kill(&id);
    stop(service);
}

#[test]
fn a_drain_is_forced_at_once_or_after_a_time() {
    let Some(_turn) = turn() else { return };
    for how in [&["--wait", "--force"][..], &["--force-after", "1s"]] {
        let data = data_dir();
        let service = Service::start(data.path(), &[]);
        service.create();
        service.create();
        let (code, told) = service.node(&[&["drain"], how].concat());
        assert_eq!(code, 0, "{told}");
        assert!(told.contains("is drained; nothing is left"), "{told}");
        assert_eq!(told.contains("time is up"), how.contains(&"1s"), "{told}");
        stop(service);
    }
}

#[test]
fn what_a_forced_drain_leaves_is_named_and_the_next_one_gets_rid_of_it() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let service = Service::start(data.path(), &[]);
    let id = service.create();
    let held = service.hold_files();
    let (code, told) = service.node(&["drain", "--wait", "--force"]);
    assert_eq!(code, 3, "{told}");
    assert!(told.contains("is not drained; left are:") && told.contains(&id), "{told}");
    let (code, told) = service.node(&["status"]);
    assert_eq!(code, 0);
    assert!(told.contains("force-failed") && told.contains("stuck 1"), "{told}");
    service.let_go(&held);
    let (code, told) = service.node(&["drain", "--wait", "--force"]);
    assert_eq!(code, 0, "{told}");
    stop(service);
}

#[test]
fn a_node_can_be_watched_until_an_interrupt() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let service = Service::start(data.path(), &[]);
    let mut watch =
        service.operator(&["status", "--watch"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(watch.stdout.take().unwrap()).lines();
    let first = told.next().unwrap().unwrap();
    assert!(first.contains(" healthy for ") && first.contains("0 left"), "{first}");
    let id = service.create();
    while !told.next().unwrap().unwrap().contains(&id) {}
    // A child of ours that was not waited for: the number is its own.
    kill_process(Pid::from_child(&watch), Signal::INT).unwrap();
    assert!(watch.wait().unwrap().success());
    service.kill(&id);
    stop(service);
}

#[test]
fn a_person_sees_a_picture_that_moves() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let service = Service::start(data.path(), &[]);
    let id = service.create();
    let (mut screen, keyboard) = terminal();
    let mut drain = service.operator(&["drain", "--wait"]).stdout(keyboard).spawn().unwrap();
    let mut shown = String::new();
    while !shown.contains(&id) {
        let mut piece = [0; 4096];
        let length = screen.read(&mut piece).unwrap();
        shown.push_str(std::str::from_utf8(piece.get(..length).unwrap()).unwrap());
    }
    assert!(shown.contains("starting 0  live 1"), "{shown:?}");
    service.kill(&id);
    assert!(drain.wait().unwrap().success());
    shown.push_str(&read_all(&mut screen));
    // Up over the old picture and away with it.
    assert!(shown.contains("A\r\x1b[J"), "{shown:?}");
    assert!(shown.ends_with("is drained; nothing is left\r\n"), "{shown:?}");
    stop(service);
}

#[test]
fn programs_get_documents() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let service = Service::start(data.path(), &[]);
    let id = service.create();
    let (code, told) = service.node(&["status", "--json"]);
    let document: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((code, &document["phase"]), (0, &json!("healthy")));
    let (code, told) = service.node(&["drain", "--force-after", "0s", "--json"]);
    assert_eq!(code, 0, "{told}");
    let documents: Vec<Value> =
        told.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let last = documents.last().unwrap();
    assert_eq!((&last["remaining"], &last["accepting"]), (&json!(0), &json!(false)));
    assert!(documents.iter().all(|document| document["nodeID"].is_string()));
    let (code, told) = service.node(&["leaks", "--json"]);
    let found: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((code, &found["leaked"]), (0, &json!([])), "nothing of {id}");
    let (code, told) = service.node(&["ls", "--json"]);
    let nodes: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((code, &nodes[0]["status"]), (0, &json!("draining")));
    stop(service);
}

#[test]
fn a_node_that_is_not_there_and_a_service_that_is_not_are_told_apart() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let service = Service::start(data.path(), &[]);
    let (code, told) = service.node(&["drain", "nope", "--wait"]);
    assert_eq!(code, 1);
    assert!(told.contains("the service has no node nope; see `cofferdam node ls`"), "{told}");
    let mut wrong = service.operator(&["ls"]);
    let told = wrong.env("COFFERDAM_ADMIN_TOKEN", "wrong").output().unwrap();
    let told = crate::kit::said(&told);
    assert!(told.contains("401") && told.contains("admin token is wrong"), "{told}");

    let token = service.credential("COFFERDAM_ADMIN_TOKEN");
    let elsewhere = crate::kit::command(crate::kit::BINARY)
        .args(["node", "ls", "--data-dir", "/nonexistent"])
        .env("E2B_API_URL", format!("http://{}", service.address))
        .env("COFFERDAM_ADMIN_TOKEN", token)
        .output()
        .unwrap();
    assert!(elsewhere.status.success(), "{}", crate::kit::said(&elsewhere));

    service.signal(Signal::TERM);
    let mut service = service;
    assert_eq!(service.end().0, 0);
    let (code, told) = service.node(&["ls"]);
    assert_eq!(code, 1);
    assert!(told.contains("is it running?"), "{told}");
    let nothing = tempfile::tempdir().unwrap();
    service.client.data = nothing.path().to_path_buf();
    let (code, told) = service.node(&["ls"]);
    assert_eq!(code, 1);
    assert!(told.contains("no service was ever started on "), "{told}");
}

#[test]
fn metrics_are_the_operators_and_count_what_has_happened() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let service = Service::start(data.path(), &[]);
    assert_eq!(service.call("GET", "/metrics", &[], "").0, 401);
    let number = |name: &str| {
        let (status, text) = service.admin("GET", "/metrics");
        assert_eq!(status, 200, "{text}");
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("{name} in\n{text}")).parse::<u64>().unwrap()
    };
    let id = service.create();
    assert_eq!(number("cofferdam_work{class=\"live\"}"), 1);
    assert_eq!(number("cofferdam_slots{state=\"used\"}"), 1);
    assert_eq!(number("cofferdam_create_seconds_count{result=\"ok\"}"), 1);
    assert_eq!(number("cofferdam_slots_total"), 2048);

    // One that cannot be ended keeps its slot, or not, but is seen.
    let held = service.hold_files();
    let (status, _) = service.api("DELETE", &format!("/sandboxes/{id}"), &json!(null));
    assert_ne!(status, 204);
    assert_eq!(number("cofferdam_work{class=\"stuck\"}"), 1);
    assert!(number("cofferdam_release_step_seconds_count{step=\"files\",result=\"failed\"}") >= 1);
    assert_eq!(number("cofferdam_release_step_seconds_count{step=\"kill\",result=\"ok\"}"), 1);
    service.let_go(&held);
    service.kill(&id);
    assert_eq!(number("cofferdam_work{class=\"stuck\"}"), 0);
    assert_eq!(number("cofferdam_slots{state=\"used\"}"), 0);

    let (code, told) = service.node(&["drain", "--force", "--wait"]);
    assert_eq!(code, 0, "{told}");
    assert_eq!(number("cofferdam_node_accepting"), 0);
    assert_eq!(number("cofferdam_force_attempts_total{result=\"ok\"}"), 1);
    stop(service);
}
