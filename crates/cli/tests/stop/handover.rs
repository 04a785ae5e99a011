//! The next service takes the place of the one that runs.

use rustix::process::Signal;
use serde_json::json;

use crate::guest;
use crate::kit::{BINARY, Service, command, data_dir, leaked, said, turn};

#[test]
fn the_next_service_takes_over_sockets_and_sandboxes() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let mut first = Service::start(data.path(), &[]);
    let id = first.create();
    let pid = guest::start(first.address, &id, "while :; do sleep 1; done");

    let next = Service::start(data.path(), &["--handover"]);
    let (code, said) = first.end();
    assert_eq!(code, 0, "{said} {}", first.complaint());
    assert!(said.contains("1 run on for the next service"), "{said}");
    assert_eq!(next.address, first.address);
    assert!(next.reaches(&id));
    let said = guest::run(next.address, &id, &format!("kill -0 {pid} && echo it is there"));
    // "it is there\n"
    assert!(said.contains("aXQgaXMgdGhlcmUK"), "{said}");
    next.kill(&id);
    next.finish();
    assert_eq!(leaked(data.path()), json!([]));
}

#[test]
fn a_node_that_nobody_runs_is_not_handed_over() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    for (words, why) in [
        (["handover"].as_slice(), "no service runs in "),
        (&["--handover"], "no service runs in "),
        (&["--handover", "ls"], "leave out the other"),
    ] {
        let mut asked = command(BINARY);
        let told = asked.arg("node").args(words).arg("--data-dir").arg(data.path());
        let told = told.output().unwrap();
        assert_eq!(told.status.code(), Some(1), "{words:?} {}", said(&told));
        assert!(said(&told).contains(why), "{words:?} {}", said(&told));
    }
}

#[test]
fn without_a_service_to_take_over_it_starts_as_usual() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let service = Service::start(data.path(), &["--handover"]);
    let id = service.create();
    assert!(service.reaches(&id));
    service.kill(&id);
    service.finish();
    assert_eq!(leaked(data.path()), json!([]));
}

#[test]
fn a_service_that_drains_keeps_its_place_and_its_sandboxes_to_their_end() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let mut first = Service::start(data.path(), &[]);
    let id = first.create();
    assert_eq!(first.node(&["drain"]).0, 0);
    let mut next = Service::spawn(data.path(), &["--handover"], &[]);
    let (code, _) = next.end();
    assert_eq!(code, 1);
    let complaint = next.complaint();
    assert!(complaint.contains("its node drains; wait for its end"), "{complaint}");
    assert!(first.reaches(&id));
    first.kill(&id);
    first.signal(Signal::TERM);
    assert_eq!(first.end().0, 0);
    assert_eq!(leaked(data.path()), json!([]));
}
