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

/// Ends attempt `number`; each mistake does so in its own way.
pub(crate) trait Mistake: Copy + Default + Send + Sync + 'static {
    fn end(self, state: &Mutex<State>, tell: &watch::Sender<Option<Ended<u32>>>, ended: Ended<u32>);
}

impl<M: Mistake> Ask for Broken<M> {
    fn ask<F>(
        &self,
        tasks: TaskGroup,
        work: impl FnOnce(u32) -> F,
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
                    mistake.end(&shared, &tell, work.await);
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

fn done(ended: Ended<u32>) -> Option<u32> {
    ended.is_done().then(|| *ended.outcome())
}

/// Keeps the first outcome whatever it was, as a `Once` does.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Latch;

impl Mistake for Latch {
    fn end(self, _: &Mutex<State>, tell: &watch::Sender<Option<Ended<u32>>>, ended: Ended<u32>) {
        tell.send_replace(Some(ended));
    }
}

/// Tells who waits before the attempt is over: he may come back and join it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TellFirst;

impl Mistake for TellFirst {
    fn end(
        self,
        state: &Mutex<State>,
        tell: &watch::Sender<Option<Ended<u32>>>,
        ended: Ended<u32>,
    ) {
        tell.send_replace(Some(ended));
        let mut state = state.lock();
        state.joinable = None;
        state.done = done(ended);
    }
}

/// Tidies up once more when it is gone, without looking whose turn it is by then.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ClearAlways;

impl Mistake for ClearAlways {
    fn end(
        self,
        state: &Mutex<State>,
        tell: &watch::Sender<Option<Ended<u32>>>,
        ended: Ended<u32>,
    ) {
        {
            let mut state = state.lock();
            state.joinable = None;
            state.done = done(ended);
        }
        tell.send_replace(Some(ended));
        state.lock().joinable = None;
    }
}
