use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{Answer, Ends, Halted, Model, Runner, Sandbox, Seen, Violation};
use crate::soak::schedule::Content;

const CONTENT: Content = Content { seed: 5, len: 100 };

fn runner(pid: u32) -> Runner {
    Runner { pid, started: "1234".into() }
}

fn sandbox(id: &str, now: Instant) -> Sandbox {
    let end = now + Duration::from_secs(600);
    Sandbox {
        id: id.into(),
        key: format!("key-{id}"),
        worker: 0,
        keeper: false,
        paused: false,
        token: String::new(),
        runner: runner(5),
        files: BTreeMap::from([("f0".to_owned(), CONTENT)]),
        ends: Ends { earliest: end, latest: end },
    }
}

/// A model of two sandboxes, and a view in which everything is as it must be.
fn fine(now: Instant) -> (Model, Seen) {
    let mut model = Model::default();
    let mut seen = Seen { lifecycles: 2, ..Seen::default() };
    for id in ["a", "b"] {
        model.announced(sandbox(id, now));
        seen.listed.insert(id.into(), format!("key-{id}"));
        let files = BTreeMap::from([("f0".to_owned(), CONTENT.bytes())]);
        seen.answers.insert(id.into(), Ok(Answer { runner: runner(5), files }));
    }
    (model, seen)
}

fn found(plant: impl FnOnce(&mut Model, &mut Seen)) -> Vec<Violation> {
    let now = Instant::now();
    let (mut model, mut seen) = fine(now);
    plant(&mut model, &mut seen);
    model.check(&seen, now, now)
}

#[test]
fn what_is_as_it_must_be_is_no_violation() {
    assert_eq!(found(|_, _| {}), []);
}

#[test]
fn a_sandbox_that_is_not_listed_any_more_is_lost() {
    let found = found(|_, seen| {
        seen.listed.remove("a");
        seen.lifecycles = 1;
    });
    assert!(matches!(&found[..], [Violation::Lost { id, .. }] if id == "a"), "{found:?}");
    assert!(!found[0].may_settle());
}

#[test]
fn a_sandbox_that_is_listed_and_does_not_answer_is_lost() {
    let found = found(|_, seen| {
        seen.answers.insert("a".into(), Err("does not answer: 502".into()));
    });
    let how = "does not answer: 502".to_owned();
    assert_eq!(found, [Violation::Lost { id: "a".into(), how }]);
}

#[test]
fn another_process_in_its_place_is_a_change_even_with_the_same_pid() {
    for (pid, started) in [(6, "1234"), (5, "1235")] {
        let found = found(|_, seen| {
            if let Some(Ok(answer)) = seen.answers.get_mut("a") {
                answer.runner = Runner { pid, started: started.into() };
            }
        });
        assert!(matches!(&found[..], [Violation::Changed { .. }]), "{found:?}");
    }
}

#[test]
fn a_file_that_is_missing_or_other_or_new_is_a_change() {
    type Files = BTreeMap<String, Vec<u8>>;
    let plants: [fn(&mut Files); 3] = [
        |files| drop(files.remove("f0")),
        |files| files.get_mut("f0").unwrap()[7] ^= 1,
        |files| drop(files.insert("f1".into(), Vec::new())),
    ];
    for plant in plants {
        let found = found(|_, seen| {
            if let Some(Ok(answer)) = seen.answers.get_mut("b") {
                plant(&mut answer.files);
            }
        });
        assert!(matches!(&found[..], [Violation::Changed { id, .. }] if id == "b"), "{found:?}");
    }
}

#[test]
fn one_that_nobody_was_told_of_is_a_stranger_unless_its_create_was_hung_up() {
    let plant = |seen: &mut Seen| {
        seen.listed.insert("c".into(), "key-c".into());
        seen.lifecycles = 3;
    };
    let found_without = found(|_, seen| plant(seen));
    let stranger = Violation::Stranger { id: "c".into(), key: "key-c".into() };
    assert_eq!(found_without, [stranger]);
    let found_with = found(|model, seen| {
        plant(seen);
        model.hung_up("key-c");
    });
    assert_eq!(found_with, []);
    let found_late = found(|model, seen| {
        plant(seen);
        model.hung_up("key-c");
        model.settled();
    });
    assert!(matches!(&found_late[..], [Violation::Stranger { .. }]), "{found_late:?}");
}

#[test]
fn one_that_was_killed_and_is_listed_is_undead() {
    let found = found(|model, _| model.ended("a"));
    assert_eq!(found, [Violation::Undead { id: "a".into() }]);
}

#[test]
fn a_leaked_object_and_a_directory_without_a_sandbox_are_leaks() {
    let leaked = found(|_, seen| seen.leaked.push("link cd0-3".into()));
    assert_eq!(leaked, [Violation::Leaked { what: "link cd0-3".into() }]);
    let directory = found(|_, seen| seen.lifecycles = 3);
    assert!(matches!(&directory[..], [Violation::Leaked { .. }]), "{directory:?}");
}

#[test]
fn a_paused_sandbox_is_lost_when_it_is_not_listed_and_changed_when_it_runs() {
    let halt = |memory: bool, model: &mut Model, seen: &mut Seen| {
        model.paused("a", true);
        let key = seen.listed.remove("a").unwrap();
        seen.answers.remove("a");
        seen.paused.insert("a".into(), Halted { key, memory });
        seen.lifecycles = 1 + usize::from(memory);
    };
    for memory in [true, false] {
        assert_eq!(found(|model, seen| halt(memory, model, seen)), []);
        let directory = found(|model, seen| {
            halt(memory, model, seen);
            seen.lifecycles += 1;
        });
        assert!(matches!(&directory[..], [Violation::Leaked { .. }]), "{directory:?}");
    }
    let gone = found(|model, seen| {
        halt(false, model, seen);
        seen.paused.clear();
    });
    assert!(matches!(&gone[..], [Violation::Lost { id, .. }] if id == "a"), "{gone:?}");
    let runs = found(|model, _| model.paused("a", true));
    assert!(matches!(&runs[..], [Violation::Changed { id, .. }] if id == "a"), "{runs:?}");
}

#[test]
fn a_paused_sandbox_that_nobody_made_is_a_stranger_and_a_snapshot_a_leak() {
    let stranger = found(|_, seen| {
        seen.paused.insert("c".into(), Halted { key: "k".into(), memory: false });
    });
    assert_eq!(stranger, [Violation::Stranger { id: "c".into(), key: "k".into() }]);
    let snapshot = found(|_, seen| seen.snapshots.push("team/x:default".into()));
    assert!(matches!(&snapshot[..], [Violation::Leaked { .. }]), "{snapshot:?}");
}

#[test]
fn a_sandbox_whose_time_runs_out_may_be_there_or_not_and_then_must_not() {
    let now = Instant::now();
    let at = |ms: u64| now + Duration::from_millis(ms);
    let (mut model, mut seen) = fine(now);
    model.ends("a", Ends { earliest: at(1000), latest: at(2000) });
    // Still within its time.
    let mut gone = seen.clone();
    gone.listed.remove("a");
    gone.lifecycles = 1;
    assert!(matches!(model.check(&gone, at(0), at(999))[..], [Violation::Lost { .. }]));
    // In doubt.
    assert_eq!(model.check(&gone, at(0), at(1500)), []);
    assert_eq!(model.check(&seen, at(0), at(1500)), []);
    // Over.
    assert_eq!(model.check(&gone, at(2001), at(2002)), []);
    assert_eq!(model.check(&seen, at(2001), at(2002)), [Violation::Undead { id: "a".into() }]);
    // Forgotten only once it is gone.
    model.expire(&seen.listed, at(3000));
    assert_eq!(model.live().count(), 2);
    seen = gone;
    model.expire(&seen.listed, at(3000));
    assert_eq!(model.live().count(), 1);
    assert_eq!(model.check(&seen, at(3000), at(3001)), []);
}

#[test]
fn a_worker_is_given_only_its_own_sandboxes_that_last() {
    let now = Instant::now();
    let (mut model, _) = fine(now);
    assert_eq!(model.of(0, now + Duration::from_secs(60)).len(), 2);
    assert_eq!(model.of(1, now).len(), 0);
    model.ends("a", Ends { earliest: now, latest: now });
    let lasting = model.of(0, now + Duration::from_secs(60));
    assert_eq!(lasting.iter().map(|one| one.id.as_str()).collect::<Vec<_>>(), ["b"]);
}

#[test]
fn one_that_is_about_to_end_or_paused_is_not_asked_for_an_answer() {
    let now = Instant::now();
    let (mut model, _) = fine(now);
    let soon = now + Duration::from_secs(60);
    assert_eq!(model.answering(soon).len(), 2);
    model.ends("a", Ends { earliest: soon, latest: soon });
    let left = model.answering(soon);
    assert_eq!(left.iter().map(|one| one.id.as_str()).collect::<Vec<_>>(), ["b"]);
    model.paused("b", true);
    assert!(model.answering(soon).is_empty());
}

#[test]
fn only_a_create_that_was_hung_up_is_unclaimed() {
    let now = Instant::now();
    let (mut model, mut seen) = fine(now);
    model.hung_up("key-c");
    model.hung_up("key-d");
    seen.listed.insert("c".into(), "key-c".into());
    seen.listed.insert("e".into(), "key-e".into());
    assert_eq!(model.unclaimed(&seen.listed), [("c".to_owned(), "key-c".to_owned())]);
}
