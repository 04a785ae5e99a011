//! Work that many may ask for, that one does, and that may be tried again only if it failed.

use std::future::Future;

use crate::TaskGroup;
use crate::sync::{Arc, Mutex, watch};

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended<O> {
    /// Latched: there is nothing left to attempt.
    Done(O),
    /// The next request starts the next attempt.
    Failed(O),
}

impl<O> Ended<O> {
    pub fn outcome(&self) -> &O {
        match self {
            Self::Done(outcome) | Self::Failed(outcome) => outcome,
        }
    }

    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Done(_))
    }
}

/// Attempts at one thing, at most one at a time. Who asks while one runs joins it and sees its
/// outcome; success is kept, failure is not.
#[derive(Debug)]
pub struct Attempts<O> {
    state: Arc<Mutex<State<O>>>,
}

#[derive(Debug)]
struct State<O> {
    number: u32,
    running: Option<watch::Receiver<Option<Ended<O>>>>,
    last: Option<Ended<O>>,
}

impl<O> Default for Attempts<O> {
    fn default() -> Self {
        let state = State { number: 0, running: None, last: None };
        Self { state: Arc::new(Mutex::new(state)) }
    }
}

/// An attempt that was joined. Dropping it gives up the wait, not the attempt.
#[derive(Debug)]
pub struct Joined<O> {
    /// 1, 2, ...
    pub number: u32,
    outcome: watch::Receiver<Option<Ended<O>>>,
}

impl<O: Clone + Send + Sync + 'static> Attempts<O> {
    /// Joins the attempt that runs, or the one that succeeded; else starts the next as a task of
    /// `tasks`. `work` is called at most once, with the attempt's number, before the attempt runs.
    ///
    /// `at_end` is called with what the attempt has come to, in the moment in which it ends: nobody
    /// who saw what it changes can join this attempt, and the next one has not begun. It must not
    /// ask for an attempt. If the work panics it is not called.
    pub fn join<F>(
        &self,
        tasks: &TaskGroup,
        span: tracing::Span,
        work: impl FnOnce(u32) -> F,
        at_end: impl FnOnce(&Ended<O>) + Send + 'static,
    ) -> Joined<O>
    where
        F: Future<Output = Ended<O>> + Send + 'static,
    {
        let mut state = self.state.lock();
        let number = state.number;
        if let Some(running) = &state.running {
            return Joined { number, outcome: running.clone() };
        }
        if let Some(done @ Ended::Done(_)) = &state.last {
            return Joined { number, outcome: watch::channel(Some(done.clone())).1 };
        }
        state.number += 1;
        let number = state.number;
        let (tell, outcome) = watch::channel(None);
        state.running = Some(outcome.clone());
        drop(state);
        // Ends the attempt even if the work panics: nobody may join a dead one for ever.
        let run = Run { number, state: Arc::clone(&self.state), tell };
        let work = work(number);
        tasks.spawn(span, async move { run.end(work.await, at_end) });
        Joined { number, outcome }
    }

    /// The number of the last attempt, whether it runs, and how the last that ended has ended.
    #[must_use]
    pub fn status(&self) -> (u32, bool, Option<Ended<O>>) {
        let state = self.state.lock();
        (state.number, state.running.is_some(), state.last.clone())
    }
}

/// The attempt that runs.
///
/// It has ended before anybody hears so: who asks again because of its failure must not join it.
struct Run<O> {
    number: u32,
    state: Arc<Mutex<State<O>>>,
    /// Dropped after the state was left, for the same reason.
    tell: watch::Sender<Option<Ended<O>>>,
}

impl<O: Clone> Run<O> {
    fn end(self, ended: Ended<O>, at_end: impl FnOnce(&Ended<O>)) {
        {
            let mut state = self.state.lock();
            at_end(&ended);
            state.last = Some(ended.clone());
            state.running = None;
        }
        self.tell.send_replace(Some(ended));
    }
}

impl<O> Drop for Run<O> {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        // The next one may run already.
        if state.number == self.number {
            state.running = None;
        }
    }
}

impl<O: Clone> Joined<O> {
    /// How the attempt ends; `None` when its task ended without saying.
    ///
    /// Cancel safety: yes.
    pub async fn ended(mut self) -> Option<Ended<O>> {
        let ended = self.outcome.wait_for(Option::is_some).await.ok()?;
        (*ended).clone()
    }
}
