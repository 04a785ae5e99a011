//! What an operator is told of a sandbox that has ended, with nothing but the credentials file.

use std::fs;
use std::path::Path;

use images::{NewTemplate, Store};
use model::Resources;
use serde_json::{Value, json};

use crate::kit::{Service, data_dir, looks, turn};

/// What `explain ID` says in words and as a document; it must succeed.
fn explained(service: &Service, id: &str) -> (String, Value) {
    let (code, words, complaint) = service.sandbox(&["explain", id]);
    assert_eq!((code, complaint.as_str()), (0, ""), "{words}");
    let (code, document, complaint) = service.sandbox(&["explain", id, "--json"]);
    assert_eq!((code, complaint.as_str()), (0, ""), "{document}");
    (words, serde_json::from_str(&document).unwrap())
}

#[test]
fn an_end_that_was_asked_for_is_told_from_the_request_to_the_release() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let service = Service::start(data.path(), &[]);
    let id = service.create();
    let (words, document) = explained(&service, &id);
    assert!(words.starts_with(&format!("Sandbox {id} is running.\n\n")), "{words}");
    assert_eq!((&document["state"], &document["ended"]), (&json!("running"), &Value::Null));

    service.kill(&id);
    let (words, document) = explained(&service, &format!("{id}-00000000"));
    let first = words.lines().next().unwrap();
    assert!(first.starts_with(&format!("Sandbox {id} ended at ")), "{words}");
    assert!(first.ends_with(", because somebody asked for its end (request)."), "{words}");
    assert_eq!(document["ended"]["reason"], "request");
    let moments: Vec<&str> = document["timeline"]
        .as_array()
        .unwrap()
        .iter()
        .map(|moment| moment["what"].as_str().unwrap())
        .collect();
    assert_eq!(moments, ["asked", "started", "kill-asked", "ended", "released"]);
    // In the same order in words, and then what its node remembers.
    let mut rest = words.as_str();
    for what in moments.iter().chain(&["steps on its node\n"]) {
        let at = rest.find(what).unwrap_or_else(|| panic!("{what} in its place in\n{words}"));
        rest = rest.get(at..).unwrap();
    }
    for step in ["  admitted  ", "  started  ", "  ended: request  "] {
        assert!(rest.contains(step), "{step:?} in\n{words}");
    }
    assert!(words.contains("MiB of memory"), "{words}");
    service.finish();
}

#[test]
fn an_end_by_the_clock_is_told_as_that_also_by_the_next_service() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let service = Service::start(data.path(), &[]);
    let id = service.create();
    let path = format!("/sandboxes/{id}/timeout");
    let (status, body) = service.api("POST", &path, &json!({ "timeout": 0 }));
    assert_eq!(status, 204, "{body}");
    assert!(looks(|| !explained(&service, &id).1["ended"].is_null()), "it does not end");
    let (words, _) = explained(&service, &id);
    assert!(words.contains(", because its time was over (timeout)."), "{words}");
    assert!(words.contains("end-moved"), "{words}");
    service.finish();

    let service = Service::start(data.path(), &[]);
    let (words, document) = explained(&service, &id);
    assert!(words.contains(", because its time was over (timeout)."), "{words}");
    assert!(document["onNode"]["steps"].as_array().is_some_and(|steps| !steps.is_empty()));
    service.finish();
}

/// A template in which no machine can be made: its `/proc` is a file.
fn broken(data: &Path) {
    let store = Store::open(&data.join("images")).unwrap();
    let draft = store.begin().unwrap();
    fs::create_dir(draft.rootfs()).unwrap();
    fs::write(draft.rootfs().join("proc"), "").unwrap();
    let content = NewTemplate {
        aliases: vec!["broken".to_owned()],
        resources: Resources { vcpus: 1, memory_mib: 64, disk_mib: 64 },
        user: "root".to_owned(),
        workdir: None,
        envd_version: "0.6.4".to_owned(),
        packages: Vec::new(),
    };
    store.publish(draft, content).unwrap();
}

/// The id of the one sandbox that has been and is gone, which its user was not told.
fn only_ended(data: &Path) -> String {
    let mut records = fs::read_dir(data.join("node/ended")).unwrap();
    let record = fs::read(records.next().unwrap().unwrap().path()).unwrap();
    let record: Value = serde_json::from_slice(&record).unwrap();
    record["sandbox"].as_str().unwrap().to_owned()
}

#[test]
fn a_start_that_failed_is_told_with_its_step() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    broken(data.path());
    let service = Service::start(data.path(), &[]);
    let body = json!({ "templateID": "broken", "timeout": 60 });
    let (status, body) = service.api("POST", "/sandboxes", &body);
    assert_eq!(status, 500, "{body}");
    let (words, document) = explained(&service, &only_ended(data.path()));
    let verdict = ", because it did not start (start-failed): ";
    assert!(words.lines().next().unwrap().contains(verdict), "{words}");
    assert!(words.lines().any(|line| line == "failed step       machine"), "{words}");
    let (_, steps) = words.split_once("\nsteps on its node\n").unwrap();
    let failed = steps.lines().find(|line| line.contains("  machine  "));
    let why = "create: the target `<host>` is invalid: Not a directory";
    assert!(failed.is_some_and(|line| line.contains(why)), "what the runtime said: {words}");
    assert!(words.contains("\nlast output\n"), "{words}");
    assert!(!words.contains(&*data.path().to_string_lossy()), "{words}");
    assert_eq!(document["onNode"]["failedStep"], "machine");
    service.finish();
}

#[test]
fn what_nobody_knows_is_said_to_be_unknown() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let service = Service::start(data.path(), &[]);
    let (code, told, complaint) = service.sandbox(&["explain", "inobody"]);
    assert_eq!((code, told.as_str()), (4, ""));
    assert!(complaint.contains("no record of a sandbox inobody is kept"), "{complaint}");
    service.finish();
}
