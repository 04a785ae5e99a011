//! Attempts with one mistake each.

use std::future::Future;

use tracing::Span;

use crate::TaskGroup;
use crate::attempt::Ended;
use crate::attempts::Ask;
use crate::sync::{Arc, Mutex, watch};

type Outcome = watch::Receiver<Option<Ended<u32>>>;

#[derive(Debug, Default)]
pub(crate) struct State {
    number: u32,
    /// The attempt that can be joined.
    joinable: Option<Outcome>,
    done: Option<u32>,
}

#[derive(Debug, Default)]
pub(crate) struct Broken<M> {
    state: Arc<Mutex<State>>,
    mistake: M,
}

/// Where an attempt is told to have ended.
#[derive(Debug)]
pub(crate) struct Ending<'a, S> {
    state: &'a Mutex<State>,
    tell: &'a watch::Sender<Option<Ended<u32>>>,
    at_end: S,
}

impl<S: FnOnce(&Ended<u32>)> Ending<'_, S> {
    /// As it should be.
    fn is(self, ended: Ended<u32>) {
        let mut state = self.state.lock();
        (self.at_end)(&ended);
        state.over(ended);
        drop(state);
        self.tell.send_replace(Some(ended));
    }
}

impl State {
    fn over(&mut self, ended: Ended<u32>) {
        self.joinable = None;
        self.done = ended.is_done().then(|| *ended.outcome());
    }
}

/// Ends an attempt; each mistake does so in its own way.
pub(crate) trait Mistake: Copy + Default + Send + Sync + 'static {
    fn end<S: FnOnce(&Ended<u32>)>(self, ending: Ending<'_, S>, ended: Ended<u32>);
}

impl<M: Mistake> Ask for Broken<M> {
    fn ask<F>(
        &self,
        tasks: TaskGroup,
        work: impl FnOnce(u32) -> F,
        at_end: impl FnOnce(&Ended<u32>) + Send + 'static,
    ) -> (u32, impl Future<Output = Option<Ended<u32>>>)
    where
        F: Future<Output = Ended<u32>> + Send + 'static,
    {
        let mut state = self.state.lock();
        let outcome = match (&state.joinable, state.done) {
            (Some(outcome), _) => outcome.clone(),
            (None, Some(done)) => watch::channel(Some(Ended::Done(done))).1,
            (None, None) => {
                state.number += 1;
                let (tell, outcome) = watch::channel(None);
                state.joinable = Some(outcome.clone());
                let (shared, mistake) = (Arc::clone(&self.state), self.mistake);
                let work = work(state.number);
                tasks.spawn(Span::none(), async move {
                    let ended = work.await;
                    mistake.end(Ending { state: &shared, tell: &tell, at_end }, ended);
                });
                outcome
            }
        };
        let number = state.number;
        (number, told(outcome))
    }
}

async fn told(mut outcome: Outcome) -> Option<Ended<u32>> {
    let ended = outcome.wait_for(Option::is_some).await.ok()?;
    *ended
}

/// Keeps the first outcome whatever it was, as a `Once` does.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Latch;

impl Mistake for Latch {
    fn end<S: FnOnce(&Ended<u32>)>(self, ending: Ending<'_, S>, ended: Ended<u32>) {
        ending.tell.send_replace(Some(ended));
    }
}

/// Tells who waits before the attempt is over: he may come back and join it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TellFirst;

impl Mistake for TellFirst {
    fn end<S: FnOnce(&Ended<u32>)>(self, ending: Ending<'_, S>, ended: Ended<u32>) {
        ending.tell.send_replace(Some(ended));
        ending.is(ended);
    }
}

/// Tidies up once more when it is gone, without looking whose turn it is by then.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ClearAlways;

impl Mistake for ClearAlways {
    fn end<S: FnOnce(&Ended<u32>)>(self, ending: Ending<'_, S>, ended: Ended<u32>) {
        let state = ending.state;
        ending.is(ended);
        state.lock().joinable = None;
    }
}

/// Shows the end to those who do not wait for it, and only then ends the attempt.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ShowFirst;

impl Mistake for ShowFirst {
    fn end<S: FnOnce(&Ended<u32>)>(self, ending: Ending<'_, S>, ended: Ended<u32>) {
        (ending.at_end)(&ended);
        Ending { at_end: |_: &_| {}, state: ending.state, tell: ending.tell }.is(ended);
    }
}

/// Ends the attempt, and shows it to those who do not wait for it when the next may have begun.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ShowLast;

impl Mistake for ShowLast {
    fn end<S: FnOnce(&Ended<u32>)>(self, ending: Ending<'_, S>, ended: Ended<u32>) {
        Ending { at_end: |_: &_| {}, state: ending.state, tell: ending.tell }.is(ended);
        (ending.at_end)(&ended);
    }
}
