//! What a gate promises, in every order in which its users can run.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::task::{Context, Waker};

use shuttle::future::block_on;
use shuttle::thread;

use crate::check::{holds, holds_always, is_found};
use crate::gate::{Gate, Pass};
use crate::planted::gate::{CheckThenAdd, CheckThenListen};
use crate::sync::{Arc, switch};

/// What the properties need of a gate, sound or not.
pub(crate) trait Admission: Clone + Default + Send + 'static {
    type Pass: Send;
    fn enter(&self) -> Option<Self::Pass>;
    fn shut(&self);
    fn empty(&self) -> impl Future<Output = ()> + Send;
}

impl Admission for Gate {
    type Pass = Pass;
    fn enter(&self) -> Option<Pass> {
        self.enter().ok()
    }
    fn shut(&self) {
        self.shut();
    }
    async fn empty(&self) {
        self.wait_empty(crate::Budget).await.expect("time stands still");
    }
}

/// What those who use the gate know of each other.
#[derive(Debug, Default)]
struct Known {
    inside: AtomicU32,
    found_empty: AtomicBool,
}

fn go_in_and_out<G: Admission>(gate: &G, known: &Known) {
    let Some(_pass) = gate.enter() else { return };
    assert!(!known.found_empty.load(Relaxed), "entered a gate that was empty and shut");
    known.inside.fetch_add(1, Relaxed);
    switch();
    known.inside.fetch_sub(1, Relaxed);
}

/// Once somebody has shut the gate and found it empty, nobody is inside and nobody comes; and
/// whoever waits for that is woken.
fn empty_means_empty<G: Admission, const USERS: usize, const WAITERS: usize>() {
    let gate = G::default();
    let known = Arc::new(Known::default());
    let users: Vec<_> = (0..USERS)
        .map(|_| {
            let (gate, known) = (gate.clone(), Arc::clone(&known));
            thread::spawn(move || go_in_and_out(&gate, &known))
        })
        .collect();
    let waiters: Vec<_> = (0..WAITERS)
        .map(|_| {
            let (gate, known) = (gate.clone(), Arc::clone(&known));
            thread::spawn(move || {
                gate.shut();
                block_on(gate.empty());
                assert_eq!(known.inside.load(Relaxed), 0, "somebody is in an empty gate");
                known.found_empty.store(true, Relaxed);
                assert!(gate.enter().is_none(), "a gate that was shut lets in");
            })
        })
        .collect();
    for thread in users.into_iter().chain(waiters) {
        thread.join().expect("a thread of the check");
    }
}

/// A wait that is given up takes nobody else's wake-up with it.
fn a_wait_given_up_costs_nobody_else<G: Admission>() {
    let gate = G::default();
    let pass = gate.enter().expect("open");
    let impatient = {
        let gate = gate.clone();
        thread::spawn(move || {
            let mut wait = Box::pin(gate.empty());
            let polled = wait.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            drop((polled, wait));
        })
    };
    let patient = {
        let gate = gate.clone();
        thread::spawn(move || block_on(gate.empty()))
    };
    gate.shut();
    drop(pass);
    for thread in [impatient, patient] {
        thread.join().expect("a thread of the check");
    }
}

#[test]
fn a_shut_gate_that_was_found_empty_stays_empty_with_any_number_of_users_and_waiters() {
    holds_always(empty_means_empty::<Gate, 1, 1>);
    holds(empty_means_empty::<Gate, 3, 1>);
    holds(empty_means_empty::<Gate, 2, 3>);
}

#[test]
fn a_wait_that_is_given_up_costs_nobody_else_the_wake_up() {
    holds(a_wait_given_up_costs_nobody_else::<Gate>);
}

#[test]
fn checking_before_counting_is_found_to_let_in_after_the_end() {
    is_found("was empty and shut", empty_means_empty::<CheckThenAdd, 1, 1>);
}

#[test]
fn checking_before_listening_is_found_to_lose_the_wake_up() {
    is_found("deadlock", empty_means_empty::<CheckThenListen, 1, 1>);
}
