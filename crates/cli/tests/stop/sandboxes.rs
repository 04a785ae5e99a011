use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::kit::{Service, data_dir, leaked, looks, turn};

/// Stops a service that has nothing left.
fn stop(mut service: Service) {
    service.signal(Signal::TERM);
    let (code, said) = service.end();
    assert_eq!(code, 0, "{said:?} {}", service.complaint());
    assert_eq!(leaked(&service.data), json!([]));
}

fn listed(service: &Service) -> Value {
    let (code, told, complaint) = service.sandbox(&["ls", "--json"]);
    assert_eq!((code, complaint.as_str()), (0, ""), "{told}");
    serde_json::from_str(&told).unwrap()
}

#[test]
fn what_runs_is_listed_and_described_and_ended_with_nothing_but_the_credentials_file() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let service = Service::start(data.path(), &[]);
    assert_eq!(listed(&service), json!([]));
    let body = json!({
        "templateID": "busybox", "timeout": 3600, "metadata": {"who": "a \u{1b}[31mred one"},
    });
    let (status, created) = service.api("POST", "/sandboxes", &body);
    assert_eq!(status, 201, "{created}");
    let first = serde_json::from_str::<Value>(&created).unwrap()["sandboxID"].clone();
    let (first, second) = (first.as_str().unwrap(), service.create());

    let rows = listed(&service);
    let ids = [&rows[0]["sandboxID"], &rows[1]["sandboxID"]];
    assert_eq!(ids, [first, second.as_str()], "the oldest first: {rows}");
    assert_eq!((&rows[0]["state"], &rows[0]["left"]), (&json!("live"), &json!([])));
    let (code, table, _) = service.sandbox(&["ls"]);
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!((code, lines.len()), (0, 3), "{table}");
    assert!(lines[1].contains(first) && lines[1].contains("live"), "{table}");
    assert!(lines[1].contains("59m"), "an hour, and some time has passed: {table}");

    let (code, described, _) = service.sandbox(&["info", first]);
    assert_eq!(code, 0, "{described}");
    assert!(described.contains("metadata   who=a \\u{1b}[31mred one"), "{described}");
    let (code, described, _) = service.sandbox(&["info", first, "--json"]);
    assert_eq!((code, serde_json::from_str::<Value>(&described).unwrap()), (0, rows[0].clone()));

    // Also as older clients write an id.
    for id in [first.to_owned(), format!("{second}-00000000")] {
        let (code, told, complaint) = service.sandbox(&["kill", &id]);
        assert_eq!((code, complaint.as_str()), (0, ""), "{told}");
        assert!(told.ends_with(" is gone; nothing of it is left\n"), "{told}");
    }
    assert_eq!(service.api("GET", "/v2/sandboxes", &Value::Null), (200, "[]".to_owned()));
    for command in ["kill", "info"] {
        let (code, told, complaint) = service.sandbox(&[command, first]);
        assert_eq!((code, told.as_str()), (4, ""));
        assert!(complaint.contains(&format!("no node has a sandbox {first}")), "{complaint}");
    }
    stop(service);
}

#[test]
fn what_is_stuck_is_named_and_tried_again_until_it_is_gone_or_the_time_is_over() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let service = Service::start(data.path(), &[]);
    let id = service.create();
    let held = service.hold_files();

    let (code, told, complaint) = service.sandbox(&["kill", &id]);
    assert_eq!(code, 3, "{told}{complaint}");
    assert!(told.starts_with(&format!("sandbox {id} is not gone; left are:\n  ")), "{told}");
    assert!(told.contains("files"), "the step is named: {told}");
    assert!(complaint.contains("--retry"), "{complaint}");
    let rows = listed(&service);
    assert_eq!((&rows[0]["sandboxID"], &rows[0]["state"]), (&json!(id), &json!("stuck")));
    let (_, table, _) = service.sandbox(&["ls"]);
    assert!(table.contains("stuck") && table.contains("files"), "{table}");
    let (_, described, _) = service.sandbox(&["info", &id]);
    assert!(described.lines().any(|line| line.starts_with("left") && line.contains("files")));

    let (code, told, complaint) = service.sandbox(&["kill", &id, "--retry", "--timeout", "5s"]);
    assert_eq!(code, 3, "{told}");
    assert!(told.starts_with("round 1: left are:\n  "), "{told}");
    assert!(told.contains(&format!("sandbox {id} is not gone; left are:\n  ")), "{told}");
    assert_eq!(complaint, "The time is over; the node keeps trying.\n");

    let mut retry = service.about_sandboxes(&["kill", &id, "--retry", "--timeout", "10m"]);
    let mut retry = retry.stdout(Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(retry.stdout.take().unwrap()).lines();
    assert_eq!(told.next().unwrap().unwrap(), "round 1: left are:");
    service.let_go(&held);
    assert!(retry.wait().unwrap().success());
    let last = told.last().unwrap().unwrap();
    assert_eq!(last, format!("sandbox {id} is gone; nothing of it is left"));
    assert_eq!(listed(&service), json!([]));
    stop(service);
}

#[test]
fn what_is_stuck_after_its_own_end_is_not_the_clients_any_more_and_still_the_operators() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let service = Service::start(data.path(), &[]);
    let id = service.create();
    let held = service.hold_files();
    // Its time is over now.
    let path = format!("/sandboxes/{id}");
    let (status, body) = service.api("POST", &format!("{path}/timeout"), &json!({"timeout": 0}));
    assert_eq!(status, 204, "{body}");
    assert!(looks(|| listed(&service)[0]["state"] == "stuck"), "{}", listed(&service));
    // Its record ended with what ran.
    let is_gone = || service.api("DELETE", &path, &Value::Null).0 == 404;
    assert!(looks(is_gone), "its record does not end");
    assert_eq!(service.sandbox(&["kill", &id]).0, 3);
    service.let_go(&held);
    let (code, told, complaint) = service.sandbox(&["kill", &id]);
    assert_eq!(code, 0, "{told}{complaint}");
    stop(service);
}

#[test]
fn a_time_goes_with_trying_again_and_ids_are_looked_at_before_anybody_is_asked() {
    let nothing = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let mut command = crate::kit::command(crate::kit::BINARY);
        let command = command.arg("sandbox").args(args).arg("--data-dir").arg(nothing.path());
        let output = command.output().unwrap();
        (output.status.code().unwrap(), crate::kit::said(&output))
    };
    let (code, told) = run(&["kill", "ione", "--timeout", "1s"]);
    assert!(code == 2 && told.contains("--retry"), "{told}");
    let (code, told) = run(&["info", "../nodes"]);
    assert!(code == 2 && told.contains("../nodes"), "{told}");
    let (code, told) = run(&["ls"]);
    assert!(code == 1 && told.contains("no service was ever started on "), "{told}");
}

#[test]
fn one_is_paused_resumed_and_copied_by_its_operator() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let service = Service::start(data.path(), &[]);
    let id = service.create();
    let state = || listed(&service)[0]["state"].clone();
    let run = |words: &[&str]| {
        let (code, told, complaint) = service.sandbox(words);
        assert_eq!((code, complaint.as_str()), (0, ""), "{words:?} {told}");
        told
    };
    for (flags, paused) in [(&[][..], "paused"), (&["--files-only"][..], "paused-files")] {
        let words = [&["pause", &id][..], flags].concat();
        assert_eq!(run(&words), format!("sandbox {id} is paused\n"));
        assert_eq!(state(), paused);
        assert!(run(&["info", &id]).contains("not while it is paused"));
        let (code, _, complaint) = service.sandbox(&["pause", &id]);
        assert_eq!(code, 1);
        assert!(complaint.contains("is paused already"), "{complaint}");
        assert_eq!(run(&["resume", &id, "--timeout", "90s"]), format!("sandbox {id} runs\n"));
        assert_eq!(state(), "live");
    }
    assert_eq!(run(&["snapshot", &id, "--name", "kept:v1"]), "default/kept:v1\n");
    let copies = run(&["fork", &id, "--count", "2"]);
    assert_eq!(copies.lines().count(), 2, "{copies}");
    assert_eq!(listed(&service).as_array().unwrap().len(), 3);
    let (status, templates) = service.api("GET", "/templates", &Value::Null);
    assert!(status == 200 && !templates.contains("kept"), "{templates}");
    let ids: Vec<String> = copies.lines().map(str::to_owned).chain([id]).collect();
    for id in &ids {
        run(&["kill", id]);
    }
    let (code, _, complaint) = service.sandbox(&["pause", "inever"]);
    assert_eq!(code, 4, "{complaint}");
    stop(service);
}
