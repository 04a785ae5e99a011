//! Several services that want one data directory.

use serde_json::json;

use crate::guest;
use crate::kit::{Service, data_dir, leaked, list, looks, turn};

/// What a service says that finds the directory taken.
const REFUSED: i32 = 4;

/// Those that serve, and those that have ended without.
fn settle(rivals: [Service; 2]) -> (Vec<Service>, Vec<Service>) {
    let told = rivals.map(|mut rival| (rival.serves(), rival));
    let (serving, ended): (Vec<_>, Vec<_>) = told.into_iter().partition(|(serves, _)| *serves);
    let services = |rivals: Vec<(bool, Service)>| rivals.into_iter().map(|(_, rival)| rival);
    (services(serving).collect(), services(ended).collect())
}

#[test]
fn of_two_that_start_at_once_one_takes_over_and_the_other_touches_nothing() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let mut service = Service::start(data.path(), &[]);
    let id = service.create();
    let pid = guest::start(service.address, &id, "while :; do sleep 1; done");
    for round in 0..20 {
        service.crash();
        let spawn = || Service::spawn(data.path(), &[], &[]);
        let (mut serving, mut refused) = settle([spawn(), spawn()]);
        assert_eq!((serving.len(), refused.len()), (1, 1), "round {round}");
        service = serving.remove(0);
        let mut refused = refused.remove(0);
        let (code, said) = refused.end();
        assert_eq!(code, REFUSED, "round {round}: {said} {}", refused.complaint());
        assert!(refused.complaint().contains("in use"), "round {round}");
        assert!(service.reaches(&id), "round {round}");
        assert_eq!(list(&service), [&*id], "round {round}");
        assert_eq!(leaked(data.path()), json!([]), "round {round}");
    }
    let said = guest::run(service.address, &id, &format!("kill -0 {pid} && echo it is there"));
    // "it is there\n"
    assert!(said.contains("aXQgaXMgdGhlcmUK"), "{said}");
    service.kill(&id);
    service.finish();
    assert_eq!(leaked(data.path()), json!([]));
}

#[test]
fn of_two_that_ask_for_the_same_service_one_has_it_in_the_end() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let mut service = Service::start(data.path(), &[]);
    let id = service.create();
    for round in 0..5 {
        let spawn = || Service::spawn(data.path(), &["--handover"], &[]);
        let (mut serving, mut refused) = settle([spawn(), spawn()]);
        let (code, said) = service.end();
        assert_eq!(code, 0, "round {round}: {said} {}", service.complaint());
        // The second may have asked the first, when that served.
        if serving.len() == 2 {
            assert!(looks(|| serving.iter_mut().any(Service::has_ended)), "round {round}");
            let at = serving.iter_mut().position(Service::has_ended).unwrap();
            let mut passed = serving.remove(at);
            let (code, said) = passed.end();
            assert_eq!(code, 0, "round {round}: {said} {}", passed.complaint());
        }
        for refused in &mut refused {
            let (code, said) = refused.end();
            let complaint = refused.complaint();
            assert_eq!(code, REFUSED, "round {round}: {said} {complaint}");
        }
        assert_eq!(serving.len(), 1, "round {round}");
        service = serving.remove(0);
        assert!(service.reaches(&id), "round {round}");
        assert_eq!(list(&service), [&*id], "round {round}");
    }
    service.kill(&id);
    service.finish();
    assert_eq!(leaked(data.path()), json!([]));
}
