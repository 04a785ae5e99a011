//! There is no state from which a sandbox cannot be deleted: its owner is answered within 10 s, and
//! then nothing of it is left. What is under way when the order comes is held there by what can hold
//! it up: a guest agent that does not answer, and much to copy.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::guest;
use crate::kit::{Client, Service, census, data_dir, leaked, looks, turn};

/// How long the owner waits for the answer.
const PROMISED: Duration = Duration::from_secs(10);

/// Deletes a sandbox, of which nothing is left then.
fn delete(service: &Client, id: &str, case: &str) {
    let key = service.credential("E2B_API_KEY");
    let (key, path) = ([("X-API-Key", key.as_str())], format!("/sandboxes/{id}"));
    let answer = service.try_call_within(Some(PROMISED), "DELETE", &path, &key, "");
    let answer = answer.unwrap_or_else(|error| panic!("{case}: no answer: {error}"));
    assert_eq!(answer, (204, String::new()), "{case}");
    assert_eq!(service.api("GET", &path, &Value::Null).0, 404, "{case}");
    assert_eq!(phase(service, id), None, "{case}: its node has it");
    assert_eq!(service.api("DELETE", &path, &Value::Null).0, 404, "{case}: a second time");
}

/// Stops a service on whose host nothing of any sandbox is.
fn finish(service: Service) {
    let data = service.data.clone();
    let told = census(&data).1;
    let of_sandboxes = told["owned"].as_array().unwrap().iter();
    let left: Vec<_> = of_sandboxes.filter(|item| item["owner"]["lifecycle"].is_string()).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(fs::read_dir(data.join("node/paused")).unwrap().count(), 0);
    service.finish();
    assert_eq!(leaked(&data), json!([]));
}

/// All that the node has, each with its state there.
fn on_node(service: &Client) -> Vec<(String, String)> {
    let (status, body) = service.admin("GET", &format!("/nodes/{}/sandboxes", service.node_id()));
    assert_eq!(status, 200, "{body}");
    let rows: Vec<Value> = serde_json::from_str(&body).unwrap();
    let text = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
    rows.iter().map(|row| (text(row, "sandboxID"), text(row, "state"))).collect()
}

/// The state in which the node has a sandbox.
fn phase(service: &Client, id: &str) -> Option<String> {
    let row = on_node(service).into_iter().find(|(known, _)| known == id);
    row.map(|(_, state)| state)
}

/// The state that the record of a sandbox is in, those included that clients are not told of.
fn recorded(service: &Client, id: &str) -> Value {
    let (status, body) = service.api("GET", &format!("/sandboxes/{id}/explain"), &Value::Null);
    assert_eq!(status, 200, "{body}");
    serde_json::from_str::<Value>(&body).unwrap()["state"].take()
}

/// What a client is answered who asks a sandbox for something.
fn ask(service: &Client, id: &str, what: &str, body: &Value) -> (u16, String) {
    service.api("POST", &format!("/sandboxes/{id}/{what}"), body)
}

fn pause(service: &Client, id: &str, memory: bool) {
    let (status, body) = ask(service, id, "pause", &json!({ "memory": memory }));
    assert_eq!(status, 204, "{body}");
}

/// A request that was under way when its sandbox was deleted is answered, and not with an error of
/// the service. It may just have been done.
fn cut_off((status, body): (u16, String), case: &str) {
    assert!(status < 500, "{case}: {status} {body}");
}

/// Asks a sandbox for something, and deletes it as soon as that is `begun`.
fn delete_during(
    client: &Client,
    id: &str,
    (what, body): (&str, Value),
    begun: impl Fn() -> bool,
    case: &str,
) {
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| ask(client, id, what, &body));
        assert!(looks(begun), "{case}: {what} does not begin");
        delete(client, id, case);
        cut_off(asked.join().unwrap(), case);
    });
}

/// The guest agent of the only sandbox there is, as the host numbers it.
fn agent(service: &Client) -> Pid {
    let told = census(&service.data).1;
    let names = told["owned"].as_array().unwrap().iter().filter_map(|item| item["name"].as_str());
    let mut agents = names.filter_map(|name| name.strip_suffix(" envd"));
    let pid = agents.next().unwrap().parse().unwrap();
    assert_eq!(agents.next(), None);
    Pid::from_raw(pid).unwrap()
}

fn silence(agent: Pid) {
    kill_process(agent, Signal::STOP).unwrap();
}

/// The same, and waits until none of its threads answers any more: the kernel stops them one by one,
/// after the call.
fn silenced(agent: Pid) {
    silence(agent);
    let stopped = || {
        let threads = fs::read_dir(format!("/proc/{}/task", agent.as_raw_nonzero())).unwrap();
        threads.into_iter().all(|thread| {
            // One that ends meanwhile has nothing to read, and is not listed the next time.
            let stat = fs::read_to_string(thread.unwrap().path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
        })
    };
    assert!(looks(stopped), "its agent does not stop");
}

/// A guest agent that never answers: whatever starts with it is starting until somebody gives up.
fn mute(dir: &tempfile::TempDir) -> PathBuf {
    let path = dir.path().join("mute");
    fs::write(&path, "#!/bin/sh\nexec sleep 3600\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Puts a service in the place of `service` whose new sandboxes have such an agent.
fn with_mute_agents(mut service: Service, agent: &Path) -> Service {
    service.crash();
    let next = Service::start(&service.data, &["--envd", agent.to_str().unwrap()]);
    let ready = || next.admin("GET", "/nodes").1.contains("\"status\":\"ready\"");
    assert!(looks(ready), "it never became ready");
    next
}

#[test]
fn one_that_runs_or_is_paused_is_deleted() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let service = Service::start(data.path(), &[]);
    let running = service.create();
    guest::start(service.address, &running, "while :; do :; done");
    delete(&service, &running, "it runs");
    for (memory, state) in [(true, "paused"), (false, "paused-files")] {
        let id = service.create();
        pause(&service, &id, memory);
        assert_eq!(phase(&service, &id).unwrap(), state);
        delete(&service, &id, state);
    }
    finish(service);
}

#[test]
fn one_that_is_starting_is_deleted_whatever_it_is_made_of() {
    let Some(_turn) = turn() else { return };
    let (data, scratch) = (data_dir(), tempfile::tempdir().unwrap());
    let service = Service::start(data.path(), &[]);
    let (source, kept) = (service.create(), service.create());
    pause(&service, &kept, false);
    let service = with_mute_agents(service, &mute(&scratch));
    let client = service.client.clone();
    let starting = || -> Vec<String> {
        let all = on_node(&client).into_iter();
        all.filter(|(_, state)| state == "booting").map(|(id, _)| id).collect()
    };

    std::thread::scope(|scope| {
        let create = scope.spawn(|| client.try_create());
        assert!(looks(|| starting().len() == 1), "it does not start");
        delete(&client, &starting()[0], "it starts");
        cut_off(create.join().unwrap(), "it starts");
    });

    let begun = || starting() == [kept.as_str()] && recorded(&client, &kept) == "resuming";
    let connect = ("connect", json!({ "timeout": 60 }));
    delete_during(&client, &kept, connect, begun, "it starts with its files");

    std::thread::scope(|scope| {
        let fork = scope.spawn(|| ask(&client, &source, "fork", &json!({ "count": 2 })));
        assert!(looks(|| starting().len() == 2), "its copies do not start");
        delete(&client, &source, "its copies start");
        for copy in starting() {
            delete(&client, &copy, "it is a copy and starts");
        }
        let (status, body) = fork.join().unwrap();
        let copies: Vec<Value> = serde_json::from_str(&body).unwrap();
        assert_eq!((status, copies.len()), (201, 2), "{body}");
        assert!(copies.iter().all(|copy| copy["error"]["code"] == 409), "{body}");
    });
    finish(service);
}

#[test]
fn one_whose_guest_agent_is_silent_is_deleted_in_every_state() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let service = Service::start(data.path(), &[]);
    let client = service.client.clone();
    let silent = || {
        let id = client.create();
        silenced(agent(&client));
        id
    };
    delete(&client, &silent(), "it runs");

    let id = silent();
    pause(&client, &id, true);
    delete(&client, &id, "it is paused");

    let id = silent();
    // The agent is given a moment to answer.
    let begun = || recorded(&client, &id) != "running";
    delete_during(&client, &id, ("pause", json!({})), begun, "it is being paused");

    let id = client.create();
    let agent = agent(&client);
    pause(&client, &id, true);
    // It has no part of this before it goes on.
    silence(agent);
    let begun = || recorded(&client, &id) == "resuming";
    let connect = ("connect", json!({ "timeout": 60 }));
    delete_during(&client, &id, connect, begun, "it is being resumed");
    finish(service);
}

#[cfg(feature = "fault-injection")]
#[test]
fn one_that_is_being_paused_is_deleted_whatever_the_pause_waits_for() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    // Each is where one sandbox is held, in this order: the host does not do what it is asked to.
    let held =
        [("pause.freeze.before", true), ("pause.write.before", false), ("pause.sync.before", true)];
    let faults = held.map(|(point, _)| format!("{point}=delay")).join(",");
    let service = Service::start_with(data.path(), &[], &[("COFFERDAM_FAULTS", &faults)]);
    let client = service.client.clone();
    for (point, memory) in held {
        let id = client.create();
        let begun = || phase(&client, &id).unwrap() == "pausing";
        delete_during(&client, &id, ("pause", json!({ "memory": memory })), begun, point);
    }
    finish(service);
}

#[cfg(feature = "fault-injection")]
#[test]
fn one_of_which_a_snapshot_is_taken_is_deleted_whatever_that_waits_for() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let held = ["snapshot.copy.before", "snapshot.copy.after", "snapshot.publish.before"];
    let faults = held.map(|point| format!("{point}=delay*1")).join(",");
    let service = Service::start_with(data.path(), &[], &[("COFFERDAM_FAULTS", &faults)]);
    let client = service.client.clone();
    for point in held {
        let id = client.create();
        // The last of them is when its processes go on already.
        let begun = || phase(&client, &id).unwrap() == "checkpointing";
        delete_during(&client, &id, ("snapshots", json!({})), begun, point);
    }
    finish(service);
}

#[test]
fn one_of_which_a_large_snapshot_is_taken_is_deleted() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let service = Service::start(data.path(), &[]);
    let client = service.client.clone();
    let id = client.create();
    let fill = "busybox dd if=/dev/zero of=/home/user/large bs=1048576 count=300";
    let said = guest::run(client.address, &id, fill);
    assert!(said.contains("exit status 0"), "{said}");
    std::thread::scope(|scope| {
        // A disk that shares blocks may be done before anybody looks.
        let taken = loop {
            let taken = scope.spawn(|| ask(&client, &id, "snapshots", &json!({})));
            let begun = || phase(&client, &id).unwrap() == "checkpointing";
            assert!(looks(|| begun() || taken.is_finished()), "none is taken");
            if !taken.is_finished() {
                break taken;
            }
            assert_eq!(taken.join().unwrap().0, 201);
        };
        delete(&client, &id, "a snapshot is taken");
        // It may have been made by the time that the order came.
        let (status, body) = taken.join().unwrap();
        assert!(matches!(status, 201 | 404), "{status} {body}");
    });
    finish(service);
}
