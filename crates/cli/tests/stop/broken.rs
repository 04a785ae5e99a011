//! A service of which a part has ended that should not have.

use serde_json::json;

use crate::kit::{Service, data_dir, leaked, turn};

const BROKEN: [(&str, &str); 1] = [("COFFERDAM_FAULTS", "upkeep.sampler=panic")];

#[test]
fn under_a_service_manager_it_fails_and_the_next_one_has_its_sandboxes() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let mut service = Service::start(data.path(), &[]);
    let id = service.create();
    service.crash();
    let mut broken = Service::spawn(data.path(), &[], &BROKEN);
    let (code, said) = broken.end();
    assert_eq!(code, 1, "{said} {}", broken.complaint());
    assert!(said.contains("1 run on for the next service"), "{said}");
    let complaint = broken.complaint();
    assert!(complaint.contains("stopped, because sampler: it panicked"), "{complaint}");
    let next = Service::start(data.path(), &[]);
    assert!(next.reaches(&id));
    next.kill(&id);
    next.finish();
    assert_eq!(leaked(data.path()), json!([]));
}

#[test]
fn without_one_it_stops_and_leaves_nothing() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let mut service = Service::start(data.path(), &[]);
    service.create();
    service.crash();
    let mut broken = Service::spawn_alone(data.path(), &BROKEN);
    let (code, said) = broken.end();
    assert_eq!(code, 1, "{said} {}", broken.complaint());
    assert!(said.contains("1 sandboxes ended, 0 failed, 0 objects left"), "{said}");
    assert_eq!(leaked(data.path()), json!([]));
}
