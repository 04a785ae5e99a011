//! What admission and the registry promise, in every order in which their users can run.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use lifecycle::{Gate, Pass};
use model::{
    BuildId, EndReason, LifecycleId, Resources, SandboxEvent, SandboxId, SandboxPhase, TeamId,
    TemplateId,
};
use node_wire::CreateError;
use shuttle::future::block_on;
use shuttle::thread;

use crate::admission::Admitted;
use crate::check::{holds, is_found};
use crate::entry::{Entry, Identity};
use crate::planted::{LooksThenEnters, TellsThenLeaves};
use crate::pulse::Pulse;
use crate::registry::Registry;
use crate::sync::{Arc, switch};

pub(crate) fn identity(id: &str, lifecycle: &str) -> Identity {
    Identity {
        id: SandboxId::parse(id).expect("an id"),
        lifecycle: LifecycleId::parse(lifecycle).expect("an id"),
        team: TeamId::parse("t").expect("an id"),
        template: TemplateId::parse("base").expect("an id"),
        build: BuildId::parse("b1").expect("an id"),
        resources: Resources { vcpus: 1, memory_mib: 1, disk_mib: 1 },
        metadata: BTreeMap::new(),
    }
}

/// What the properties need of a registry, sound or not.
pub(crate) trait Book: Send + Sync + 'static {
    fn reserve(&self, id: &str, lifecycle: &str) -> Option<Arc<Entry>>;
    fn get(&self, id: &SandboxId) -> Option<Arc<Entry>>;
    fn remove(&self, entry: &Arc<Entry>, confirm: impl FnOnce(&Entry));
}

impl Book for Registry {
    fn reserve(&self, id: &str, lifecycle: &str) -> Option<Arc<Entry>> {
        self.reserve(identity(id, lifecycle), Duration::ZERO).ok()
    }

    fn get(&self, id: &SandboxId) -> Option<Arc<Entry>> {
        self.get(id)
    }

    fn remove(&self, entry: &Arc<Entry>, confirm: impl FnOnce(&Entry)) {
        self.remove(entry, confirm);
    }
}

fn registry() -> Registry {
    Registry::new(LIMIT, Pulse::default())
}

const LIMIT: u32 = 2;

/// Takes a lifecycle to its end as its supervisor does.
fn supervise<B: Book>(book: &B, entry: &Arc<Entry>) {
    entry.on(SandboxEvent::Acquire, |_| {});
    switch();
    entry.on(SandboxEvent::Ready, |_| {});
    block_on(entry.ended().cancelled());
    entry.on(SandboxEvent::End, |_| {});
    entry.on(SandboxEvent::Release, |_| {});
    switch();
    book.remove(entry, |entry| entry.on(SandboxEvent::Confirm, |_| {}));
}

/// Of those who create under one id, one at a time gets it, from before it acquires anything to
/// after it has released everything.
fn one_lifecycle_of_an_id_at_a_time<B: Book>(book: B) {
    let book = Arc::new(book);
    let holders = Arc::new(AtomicU32::new(0));
    let creates: Vec<_> = ["l1", "l2", "l3"]
        .into_iter()
        .map(|lifecycle| {
            let (book, holders) = (Arc::clone(&book), Arc::clone(&holders));
            thread::spawn(move || {
                let Some(entry) = book.reserve("i1", lifecycle) else { return };
                assert_eq!(holders.fetch_add(1, Relaxed), 0, "two hold what one id names");
                switch();
                holders.fetch_sub(1, Relaxed);
                book.remove(&entry, |_| {});
            })
        })
        .collect();
    for create in creates {
        create.join().expect("a create");
    }
    assert!(book.get(&identity("i1", "l").id).is_none());
}

/// Everybody who ends a sandbox hears of its end, and finds it no more then: not even when another
/// has the id by that time.
fn whoever_hears_of_an_end_finds_it_no_more<B: Book>(book: B) {
    let book = Arc::new(book);
    let entry = book.reserve("i1", "l1").expect("room");
    let supervisor = {
        let (book, entry) = (Arc::clone(&book), Arc::clone(&entry));
        thread::spawn(move || supervise(&*book, &entry))
    };
    let killers: Vec<_> = (0..2)
        .map(|_| {
            let book = Arc::clone(&book);
            thread::spawn(move || {
                let Some(entry) = book.get(&identity("i1", "l").id) else { return };
                let mut state = entry.watch();
                entry.end(EndReason::Request);
                let told = block_on(state.wait_for(|state| state.phase == SandboxPhase::Stopped));
                drop(told.expect("the entry is there"));
                let there = book.get(&entry.id);
                assert!(
                    there.is_none_or(|there| !Arc::ptr_eq(&there, &entry)),
                    "found after its end was told"
                );
                if let Some(next) = book.reserve("i1", "l2") {
                    // A late repetition takes nothing from whoever has the id now.
                    book.remove(&entry, |_| {});
                    assert!(book.get(&next.id).is_some(), "another's end took it away");
                    next.end(EndReason::Request);
                    supervise(&*book, &next);
                }
            })
        })
        .collect();
    for thread in killers.into_iter().chain([supervisor]) {
        thread.join().expect("a thread of the check");
    }
}

/// What a create holds until it is in the registry.
trait Hold: Send + 'static {
    fn hold(pass: Pass, pulse: &Pulse) -> Self;
}

impl Hold for Admitted {
    fn hold(pass: Pass, pulse: &Pulse) -> Self {
        Self::new(pass, pulse.clone())
    }
}

/// A planted mistake: leaving is told to nobody.
struct Silent(#[expect(dead_code, reason = "held, not read")] Pass);

impl Hold for Silent {
    fn hold(pass: Pass, _: &Pulse) -> Self {
        Self(pass)
    }
}

/// Once a drain has found the node empty, no lifecycle is there and none comes; and it does find
/// it empty, also when the last to leave is a create that was refused or failed.
fn a_drained_node_is_empty_and_stays_so<H: Hold>() {
    let pulse = Pulse::default();
    let gate = Gate::default();
    let registry = Arc::new(Registry::new(LIMIT, pulse.clone()));
    let drained = Arc::new(AtomicBool::new(false));
    let creates: Vec<_> = ["i1", "i2", "i1"]
        .into_iter()
        .zip(["l1", "l2", "l3"])
        .map(|(id, lifecycle)| {
            let (gate, pulse) = (gate.clone(), pulse.clone());
            let (registry, drained) = (Arc::clone(&registry), Arc::clone(&drained));
            thread::spawn(move || {
                let Ok(pass) = gate.enter() else { return };
                let held = H::hold(pass, &pulse);
                switch();
                let reserved = Book::reserve(&*registry, id, lifecycle);
                switch();
                assert!(!drained.load(Relaxed), "a create came in after the node was empty");
                let Some(entry) = reserved else { return };
                drop(held);
                switch();
                registry.remove(&entry, |_| {});
            })
        })
        .collect();
    let drains: Vec<_> = (0..2)
        .map(|_| {
            let (gate, pulse) = (gate.clone(), pulse.clone());
            let (registry, drained) = (Arc::clone(&registry), Arc::clone(&drained));
            thread::spawn(move || {
                gate.shut();
                let mut beats = pulse.listen();
                block_on(beats.until(|| {
                    // In this order: who leaves the gate is in the registry by then.
                    let outside = gate.inside() == 0;
                    switch();
                    let empty = outside && registry.len() == 0;
                    switch();
                    empty
                }));
                assert!(registry.all().is_empty(), "a lifecycle is left");
                drained.store(true, Relaxed);
            })
        })
        .collect();
    for thread in creates.into_iter().chain(drains) {
        thread.join().expect("a thread of the check");
    }
}

/// However many come at a time, those inside are never more than the node may have.
fn a_full_node_refuses() {
    let registry = Arc::new(registry());
    let creates: Vec<_> = [("i1", "l1"), ("i2", "l2"), ("i3", "l3"), ("i4", "l4")]
        .into_iter()
        .map(|(id, lifecycle)| {
            let registry = Arc::clone(&registry);
            thread::spawn(move || match registry.reserve(identity(id, lifecycle), Duration::ZERO) {
                Ok(entry) => {
                    assert!(registry.len() <= 2, "more than the node may have");
                    registry.remove(&entry, |_| {});
                }
                Err(refused) => assert!(matches!(refused, CreateError::Full { limit: LIMIT })),
            })
        })
        .collect();
    for create in creates {
        create.join().expect("a create");
    }
    assert_eq!(registry.len(), 0);
}

/// Of those that are entered under one id, as those that an earlier daemon left, one is; however many
/// there may be.
fn one_of_an_id_is_entered() {
    let registry = Arc::new(Registry::new(0, Pulse::default()));
    let entered: Vec<_> = ["l1", "l2"]
        .into_iter()
        .map(|lifecycle| {
            let registry = Arc::clone(&registry);
            thread::spawn(move || {
                let entry = Entry::new(identity("i1", lifecycle), Duration::ZERO, Pulse::default());
                registry.enter(entry).is_some()
            })
        })
        .collect();
    let entered = entered.into_iter().map(|thread| thread.join().expect("one"));
    assert_eq!(entered.filter(|entered| *entered).count(), 1);
    assert_eq!(registry.len(), 1);
}

#[test]
fn of_lifecycles_that_were_left_under_one_id_one_is_entered() {
    holds(one_of_an_id_is_entered);
}

#[test]
fn of_creates_with_one_id_one_wins_and_the_others_acquire_nothing() {
    holds(|| one_lifecycle_of_an_id_at_a_time(registry()));
}

#[test]
fn nobody_who_heard_of_an_end_finds_the_lifecycle_and_nobody_waits_for_ever() {
    holds(|| whoever_hears_of_an_end_finds_it_no_more(registry()));
}

#[test]
fn a_drain_ends_and_nothing_comes_after_it() {
    holds(a_drained_node_is_empty_and_stays_so::<Admitted>);
}

#[test]
fn a_node_never_has_more_than_it_may() {
    holds(a_full_node_refuses);
}

#[test]
fn looking_for_an_id_before_entering_it_is_found() {
    is_found("two hold what one id names", || {
        one_lifecycle_of_an_id_at_a_time(LooksThenEnters::default());
    });
}

#[test]
fn telling_of_an_end_before_leaving_the_registry_is_found() {
    is_found("found after its end was told", || {
        whoever_hears_of_an_end_finds_it_no_more(TellsThenLeaves::default());
    });
}

#[test]
fn a_pass_that_is_given_back_in_silence_is_found_to_hang_the_drain() {
    is_found("deadlock", a_drained_node_is_empty_and_stays_so::<Silent>);
}
