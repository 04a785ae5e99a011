//! What `cofferdam leaks` says when there is something to say.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::Output;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::kit::{BINARY, Client, Service, census, command, data_dir, leaked, looks, said, turn};
use crate::records::lifecycle_of;

fn leaks(service: &Client, args: &[&str]) -> Output {
    let mut leaks = command(BINARY);
    leaks.arg("leaks").args(args).arg("--data-dir").arg(&service.data).output().unwrap()
}

/// The node's own directory in the cgroup hierarchy that has them all.
fn cgroups(service: &Client) -> PathBuf {
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

/// How many objects of each kind are in `part` of a census.
fn kinds(census: &Value, part: &str) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for item in census[part].as_array().unwrap() {
        *kinds.entry(item["kind"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    kinds
}

#[test]
fn without_a_service_what_waits_is_told_from_what_is_unfinished_and_from_what_is_leaked() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let mut service = Service::start(data.path(), &[]);
    let (lives, dies) = (service.create(), service.create());
    let root = cgroups(&service);
    let lifecycle = |id| {
        let path = lifecycle_of(data.path(), id);
        path.file_name().unwrap().to_str().unwrap().to_owned()
    };
    let (of_lives, of_dies) = (lifecycle(&lives), lifecycle(&dies));
    let client = service.client.clone();
    service.crash();

    let (code, told) = census(data.path());
    assert_eq!((code, &told["daemon_running"], &told["lifecycles"]), (0, &json!(false), &json!(2)));
    assert_eq!((&told["unfinished"], &told["leaked"]), (&json!([]), &json!([])), "{told}");
    let waiting = kinds(&told, "waiting");
    assert_eq!((waiting["link"], waiting["lifecycle-directory"]), (2, 2), "{waiting:?}");
    assert_eq!(waiting["firewall-table"], 1, "it stands around those that live: {waiting:?}");

    // One dies while nobody looks after it.
    let group = root.join(&of_dies);
    fs::write(group.join("cgroup.kill"), "1").unwrap();
    let (code, told) = loop {
        let (code, told) = census(data.path());
        if told["lifecycles"] == 1 {
            break (code, told);
        }
    };
    assert_eq!((code, &told["leaked"]), (0, &json!([])), "{told}");
    let owners = |part: &str| -> BTreeSet<String> {
        let items = told[part].as_array().unwrap().iter();
        items.filter_map(|item| item["owner"]["lifecycle"].as_str().map(str::to_owned)).collect()
    };
    assert_eq!(owners("waiting"), BTreeSet::from([of_lives]), "{told}");
    assert_eq!(owners("unfinished"), BTreeSet::from([of_dies.clone()]), "{told}");
    let text = said(&leaks(&client, &[]));
    let summary = "service not running, 1 live sandboxes wait for the next one with ";
    assert!(text.starts_with(summary) && text.contains(&of_dies), "{text}");

    // And something that is nobody's.
    let stray = root.join("lstray");
    fs::create_dir(&stray).unwrap();
    let (code, told) = census(data.path());
    let expected =
        json!([{ "kind": "cgroup", "name": "lstray", "owner": { "lifecycle": "lstray" } }]);
    assert_eq!((code, &told["leaked"]), (3, &expected));

    // The next one puts all of it in order.
    let next = Service::start(data.path(), &[]);
    assert!(looks(|| !stray.exists() && !group.exists()), "it was not cleared up");
    assert!(next.reaches(&lives));
    next.kill(&lives);
    next.finish();
    assert_eq!(leaked(data.path()), json!([]));
    let (code, told) = census(data.path());
    assert_eq!((code, &told["waiting"], &told["unfinished"]), (0, &json!([]), &json!([])));
}
