//! What attempts promise, in every order in which those who ask can run.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use shuttle::future::block_on;
use shuttle::thread;
use tracing::Span;

use crate::TaskGroup;
use crate::attempt::{Attempts, Ended};
use crate::check::{holds, holds_always, is_found};
use crate::planted::attempt::{Broken, ClearAlways, Latch, ShowFirst, ShowLast, TellFirst};
use crate::sync::{Arc, switch};

/// What the properties need of attempts, sound or not. An outcome is the attempt's number.
pub(crate) trait Ask: Default + Send + Sync + 'static {
    /// The number of the attempt that was joined or started, and how it ends.
    fn ask<F>(
        &self,
        tasks: TaskGroup,
        work: impl FnOnce(u32) -> F,
        at_end: impl FnOnce(&Ended<u32>) + Send + 'static,
    ) -> (u32, impl Future<Output = Option<Ended<u32>>>)
    where
        F: Future<Output = Ended<u32>> + Send + 'static;
}

impl Ask for Attempts<u32> {
    fn ask<F>(
        &self,
        tasks: TaskGroup,
        work: impl FnOnce(u32) -> F,
        at_end: impl FnOnce(&Ended<u32>) + Send + 'static,
    ) -> (u32, impl Future<Output = Option<Ended<u32>>>)
    where
        F: Future<Output = Ended<u32>> + Send + 'static,
    {
        let joined = self.join(&tasks, Span::none(), work, at_end);
        (joined.number, joined.ended())
    }
}

/// What the attempts did.
#[derive(Debug, Default)]
struct Done {
    running: AtomicBool,
    attempts: AtomicU32,
    /// The last attempt whose failure everybody can see.
    failed: AtomicU32,
}

impl Done {
    /// One attempt; it fails while its number is below `succeeds`.
    async fn attempt(self: Arc<Self>, number: u32, succeeds: u32) -> Ended<u32> {
        assert!(!self.running.swap(true, Relaxed), "one attempt too many at a time");
        assert!(number <= succeeds, "one attempt too many");
        assert_eq!(self.attempts.fetch_add(1, Relaxed) + 1, number, "attempts are counted");
        switch();
        self.running.store(false, Relaxed);
        if number < succeeds { Ended::Failed(number) } else { Ended::Done(number) }
    }

    fn show(&self, ended: &Ended<u32>) {
        if let Ended::Failed(number) = *ended {
            assert_eq!(self.attempts.load(Relaxed), number, "is shown after the next has begun");
            self.failed.store(number, Relaxed);
            switch();
        }
    }
}

/// Everybody asks until it is done. Nobody is given the failure of an attempt that had ended when
/// he asked, nobody waits for ever, and no more attempts are made than needed.
fn all_ask_until_done<A: Ask, const ASKERS: usize, const SUCCEEDS: u32>() {
    let attempts = Arc::new(A::default());
    let done = Arc::new(Done::default());
    let askers: Vec<_> = (0..ASKERS)
        .map(|_| {
            let (attempts, done) = (Arc::clone(&attempts), Arc::clone(&done));
            thread::spawn(move || {
                let mut failed = 0;
                loop {
                    let work = |number| Arc::clone(&done).attempt(number, SUCCEEDS);
                    let (number, ended) = attempts.ask(TaskGroup::Runs, work, |_| {});
                    match block_on(ended) {
                        Some(Ended::Done(of)) => return assert_eq!(of, number),
                        Some(Ended::Failed(of)) => {
                            assert!(of > failed, "was given a failure that he had answered");
                            assert_eq!(of, number, "was given the outcome of another attempt");
                            failed = of;
                        }
                        None => panic!("an attempt ended without saying"),
                    }
                }
            })
        })
        .collect();
    for asker in askers {
        asker.join().expect("an asker");
    }
    assert_eq!(done.attempts.load(Relaxed), SUCCEEDS, "as many attempts as it takes");
}

/// Who has seen that an attempt failed is given the next one, which had not begun when it was shown.
fn who_saw_a_failure_gets_the_next<A: Ask, const ASKERS: usize>() {
    let attempts = Arc::new(A::default());
    let done = Arc::new(Done::default());
    let askers: Vec<_> = (0..ASKERS)
        .map(|_| {
            let (attempts, done) = (Arc::clone(&attempts), Arc::clone(&done));
            thread::spawn(move || {
                let seen = done.failed.load(Relaxed);
                let work = |number| Arc::clone(&done).attempt(number, u32::MAX);
                let shown = Arc::clone(&done);
                let at_end = move |ended: &Ended<u32>| shown.show(ended);
                let (number, ended) = attempts.ask(TaskGroup::Runs, work, at_end);
                assert!(number > seen, "joined what he had seen fail");
                assert_eq!(block_on(ended), Some(Ended::Failed(number)));
            })
        })
        .collect();
    for asker in askers {
        asker.join().expect("an asker");
    }
    let (made, shown) = (done.attempts.load(Relaxed), done.failed.load(Relaxed));
    assert_eq!(made, shown, "every failure was shown");
}

/// A task that ends without saying, as one that panics does, ends its attempt for all who joined
/// it; the next who asks gets the next.
fn a_broken_attempt_is_followed_by_another<A: Ask>() {
    let attempts = Arc::new(A::default());
    let askers: Vec<_> = (0..2)
        .map(|_| {
            let attempts = Arc::clone(&attempts);
            thread::spawn(move || {
                let work = |number| async move { Ended::Failed(number) };
                let (first, ended) = attempts.ask(TaskGroup::Breaks, work, |_| {});
                assert_eq!(block_on(ended), None);
                let (next, ended) = attempts.ask(TaskGroup::Breaks, work, |_| {});
                assert!(next > first, "joined an attempt that was over");
                assert_eq!(block_on(ended), None);
            })
        })
        .collect();
    for asker in askers {
        asker.join().expect("an asker");
    }
}

#[test]
fn who_asks_meanwhile_joins_and_who_asks_after_a_failure_gets_the_next_attempt() {
    holds_always(all_ask_until_done::<Attempts<u32>, 1, 1>);
    holds(all_ask_until_done::<Attempts<u32>, 2, 3>);
    holds(all_ask_until_done::<Attempts<u32>, 4, 2>);
}

#[test]
fn an_end_is_shown_when_the_attempt_can_not_be_joined_and_the_next_has_not_begun() {
    holds(who_saw_a_failure_gets_the_next::<Attempts<u32>, 2>);
    holds(who_saw_a_failure_gets_the_next::<Attempts<u32>, 4>);
}

#[test]
fn an_attempt_whose_task_breaks_is_over_for_everybody() {
    holds(a_broken_attempt_is_followed_by_another::<Attempts<u32>>);
}

#[test]
fn a_latched_failure_is_found() {
    is_found("that he had answered", all_ask_until_done::<Broken<Latch>, 1, 2>);
}

#[test]
fn telling_the_outcome_before_the_attempt_is_over_is_found() {
    is_found("that he had answered", all_ask_until_done::<Broken<TellFirst>, 1, 2>);
}

#[test]
fn showing_the_end_of_an_attempt_that_can_be_joined_is_found() {
    is_found("had seen fail", who_saw_a_failure_gets_the_next::<Broken<ShowFirst>, 2>);
}

#[test]
fn showing_the_end_of_an_attempt_beside_the_next_is_found() {
    is_found("the next has begun", who_saw_a_failure_gets_the_next::<Broken<ShowLast>, 2>);
}

#[test]
fn an_attempt_that_ends_the_next_one_with_itself_is_found() {
    is_found("one attempt too many", all_ask_until_done::<Broken<ClearAlways>, 3, 4>);
}
