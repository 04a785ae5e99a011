//! Restarts while clients are at work: requests under way are answered, programs notice nothing.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::guest;
use crate::kit::{Client, Ends, Service, data_dir, leaked, list, looks, turn};

/// Clients at a time, and sandboxes that each has at a time.
const CLIENTS: usize = 3;
const EACH: usize = 4;

/// What a client was answered.
#[derive(Default)]
struct Seen {
    /// Sandboxes it was told of and has not ended.
    has: Vec<String>,
    created: usize,
    refused: usize,
}

/// Makes and ends sandboxes until `enough`. Every request is answered, and only as it may be.
fn work(service: &Client, enough: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    while !enough.load(Ordering::Relaxed) {
        if seen.has.len() < EACH {
            match service.try_create() {
                (201, body) => {
                    let body: Value = serde_json::from_str(&body).unwrap();
                    seen.has.push(body["sandboxID"].as_str().unwrap().to_owned());
                    seen.created += 1;
                }
                (503, body) => {
                    typed(&body);
                    seen.refused += 1;
                }
                (status, body) => panic!("{status} {body}"),
            }
            continue;
        }
        let id = seen.has.remove(0);
        match service.api("DELETE", &format!("/sandboxes/{id}"), &Value::Null) {
            (204, _) => {}
            (503, body) => {
                typed(&body);
                seen.has.insert(0, id);
            }
            // It was ended for one that was told to try again.
            (404, _) => {}
            (status, body) => panic!("{status} {body}"),
        }
    }
    seen
}

fn typed(body: &str) {
    let error: Value = serde_json::from_str(body).unwrap();
    assert_eq!(error["code"], 503, "{body}");
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{body}");
}

#[test]
fn requests_in_flight_at_a_handover_are_answered_and_every_answer_is_true() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    // Who is answered has the time to hear it.
    let patient = ["--timeouts-clients", "30s"];
    let mut service = Service::start(data.path(), &patient);
    let client = service.client.clone();
    let enough = AtomicBool::new(false);
    // What the services said, for whoever looks at a failure of this.
    let mut log = String::new();
    let seen: Vec<_> = std::thread::scope(|scope| {
        let over = Ends(&enough);
        let clients: Vec<_> =
            (0..CLIENTS).map(|_| scope.spawn(|| work(&client, &enough))).collect();
        for round in 0..5 {
            let next = Service::start(data.path(), &["--handover", "--timeouts-clients", "30s"]);
            let (code, said) = service.end();
            log += &service.complaint();
            assert_eq!(code, 0, "round {round}: {said} {log}");
            service = next;
        }
        drop(over);
        clients.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
    });
    if seen.iter().any(Result::is_err) {
        service.end();
        panic!("a client was answered wrongly; {log}{}", service.complaint());
    }
    let seen: Vec<Seen> = seen.into_iter().map(Result::unwrap).collect();
    let created: usize = seen.iter().map(|seen| seen.created).sum();
    assert!(created > CLIENTS * EACH, "there was work at every moment: {created}");
    let told: BTreeSet<String> = seen.into_iter().flat_map(|seen| seen.has).collect();
    let ready = || service.admin("GET", "/nodes").1.contains("\"status\":\"ready\"");
    assert!(looks(ready), "it never became ready");
    assert_eq!(list(&service), told.iter().map(String::as_str).collect::<Vec<_>>());
    for id in &told {
        assert!(service.reaches(id), "{id}");
        service.kill(id);
    }
    assert_eq!(leaked(data.path()), json!([]));
    service.finish();
    assert_eq!(leaked(data.path()), json!([]));
}

#[test]
fn while_nobody_serves_a_request_is_refused_and_makes_nothing() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let mut service = Service::start(data.path(), &[]);
    let id = service.create();
    service.crash();
    let body = json!({ "templateID": "busybox", "timeout": 3600 });
    for _ in 0..5 {
        let refused = service.try_api("POST", "/sandboxes", &body).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let path = format!("/sandboxes/{id}");
        let refused = service.try_api("DELETE", &path, &Value::Null).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }
    let service = Service::start(data.path(), &[]);
    assert_eq!(list(&service), [&*id]);
    assert!(service.reaches(&id));
    service.kill(&id);
    service.finish();
    assert_eq!(leaked(data.path()), json!([]));
}

/// Says what signals it gets, and waits to be told to go on.
const PATIENT: &str = "trap 'echo signalled' HUP INT TERM PIPE; echo first; \
    while ! test -e /tmp/go; do sleep 0.05; done; echo later; exit 7";
/// "first\n", "later\n", "signalled\n" on the wire.
const FIRST: &str = "Zmlyc3QK";
const LATER: &str = "bGF0ZXIK";
const SIGNALLED: &str = "c2lnbmFsbGVk";

/// Reads until there is `part`; everything that was there.
fn read_until(stream: &mut TcpStream, part: &str) -> String {
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains(part) {
        let mut piece = [0; 4096];
        let length = stream.read(&mut piece).unwrap();
        assert_ne!(length, 0, "no {part:?} in {}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&piece[..length]);
    }
    String::from_utf8_lossy(&seen).into_owned()
}

/// The stream of a command breaks when the service is restarted by `restart`, and that is all.
fn over(restart: impl FnOnce(Service) -> Service) {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let service = Service::start(data.path(), &[]);
    let id = service.create();
    let mut stream = guest::request(service.address, &id, PATIENT).unwrap();
    let seen = read_until(&mut stream, FIRST);
    let pid: u64 = guest::pid_in(&seen).unwrap();

    let service = restart(service);
    let mut rest = Vec::new();
    // An end, or an error: the connection was to the service that has gone.
    drop(stream.read_to_end(&mut rest));
    assert!(!String::from_utf8_lossy(&rest).contains("exited"), "{rest:?}");

    let mut stream = guest::connect(service.address, &id, pid).unwrap();
    read_until(&mut stream, &format!("\"pid\":{pid}"));
    guest::run(service.address, &id, "touch /tmp/go");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    let rest = String::from_utf8_lossy(&rest);
    assert!(rest.contains(LATER) && rest.contains("\"exitCode\":7"), "{rest}");
    assert!(!rest.contains(SIGNALLED), "{rest}");
    service.kill(&id);
    service.finish();
    assert_eq!(leaked(data.path()), json!([]));
}

#[test]
fn a_command_outlives_a_crash_and_its_output_is_had_by_connecting_again() {
    over(|mut service| {
        service.crash();
        Service::start(&service.data, &[])
    });
}

#[test]
fn a_command_outlives_a_handover_and_its_output_is_had_by_connecting_again() {
    over(|mut service| {
        let next = Service::start(&service.data, &["--handover"]);
        let (code, said) = service.end();
        assert_eq!(code, 0, "{said} {}", service.complaint());
        next
    });
}
