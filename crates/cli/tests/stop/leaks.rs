//! What `cofferdam leaks` says when there is something to say.

use std::fs;
use std::path::PathBuf;
use std::process::Output;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::kit::{BINARY, Service, command, data_dir, said, turn};

fn leaks(service: &Service, args: &[&str]) -> Output {
    let mut leaks = command(BINARY);
    leaks.arg("leaks").args(args).arg("--data-dir").arg(&service.data).output().unwrap()
}

/// The node's own directory in the cgroup hierarchy that has them all.
fn cgroups(service: &Service) -> PathBuf {
    let told: Value = serde_json::from_slice(&leaks(service, &["--json"]).stdout).unwrap();
    let owned = told["owned"].as_array().unwrap();
    let layout = host::cgroup::Layout::detect().unwrap();
    let unified = layout.unified_path().unwrap();
    let is_root = |item: &&Value| {
        item["kind"] == "cgroup"
            && item["name"].as_str().is_some_and(|name| name.starts_with(unified.to_str().unwrap()))
    };
    owned.iter().find(is_root).unwrap()["name"].as_str().unwrap().into()
}

#[test]
fn a_leak_beside_a_live_service_is_named_and_the_exit_code_says_so() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let mut service = Service::start(data.path(), &[]);
    service.create();
    let clean = leaks(&service, &[]);
    assert_eq!(clean.status.code(), Some(0), "{}", said(&clean));
    assert!(said(&clean).starts_with("service running, 1 live sandboxes, "), "{}", said(&clean));

    let stray = cgroups(&service).join("lstray");
    fs::create_dir(&stray).unwrap();
    let found = leaks(&service, &[]);
    assert_eq!(found.status.code(), Some(3), "{}", said(&found));
    assert!(said(&found).contains(" 1 leaked\n"), "{}", said(&found));
    assert!(said(&found).contains("lstray"), "{}", said(&found));
    let found = leaks(&service, &["--json"]);
    assert_eq!(found.status.code(), Some(3), "{}", said(&found));
    let told: Value = serde_json::from_slice(&found.stdout).unwrap();
    let expected = json!([{
        "kind": "cgroup", "name": "lstray", "owner": { "lifecycle": "lstray" },
    }]);
    assert_eq!(told["leaked"], expected);

    fs::remove_dir(&stray).unwrap();
    assert_eq!(leaks(&service, &[]).status.code(), Some(0));
    service.signal(Signal::TERM);
    service.line();
    service.signal(Signal::TERM);
    assert_eq!(service.end().0, 3);
}
