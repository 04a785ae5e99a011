//! Work that many may ask for, that one does, and that may be tried again only if it failed.

use std::future::Future;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::TaskGroup;

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
    /// `tasks`. `work` is called at most once, with the attempt's number.
    pub fn join<F>(
        &self,
        tasks: &TaskGroup,
        span: tracing::Span,
        work: impl FnOnce(u32) -> F,
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
        let guard = EndGuard { shared: Arc::clone(&self.state) };
        let work = work(number);
        tasks.spawn(span, async move {
            let ended = work.await;
            guard.end(ended.clone());
            tell.send_replace(Some(ended));
        });
        Joined { number, outcome }
    }

    /// The number of the last attempt, whether it runs, and how the last that ended has ended.
    #[must_use]
    pub fn status(&self) -> (u32, bool, Option<Ended<O>>) {
        let state = self.state.lock();
        (state.number, state.running.is_some(), state.last.clone())
    }
}

struct EndGuard<O> {
    shared: Arc<Mutex<State<O>>>,
}

impl<O> EndGuard<O> {
    fn end(&self, ended: Ended<O>) {
        self.shared.lock().last = Some(ended);
    }
}

impl<O> Drop for EndGuard<O> {
    fn drop(&mut self) {
        self.shared.lock().running = None;
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::Notify;

    use super::{Attempts, Ended};
    use crate::TaskGroup;

    #[tokio::test]
    async fn those_who_ask_meanwhile_join_and_see_the_same_outcome() {
        let (attempts, tasks) = (Attempts::default(), TaskGroup::default());
        let (runs, go) = (Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
        let ask = || {
            let (runs, go) = (Arc::clone(&runs), Arc::clone(&go));
            attempts.join(&tasks, tracing::Span::none(), |number| async move {
                runs.fetch_add(1, Ordering::Relaxed);
                go.notified().await;
                Ended::Failed(number)
            })
        };
        let (first, second) = (ask(), ask());
        go.notify_one();
        assert_eq!(first.ended().await, Some(Ended::Failed(1)));
        assert_eq!(second.ended().await, Some(Ended::Failed(1)));
        assert_eq!(runs.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn failure_is_not_latched_and_success_is() {
        let (attempts, tasks) = (Attempts::default(), TaskGroup::default());
        let ask = |ended: Ended<&'static str>| {
            attempts.join(&tasks, tracing::Span::none(), move |_| async move { ended }).ended()
        };
        assert_eq!(ask(Ended::Failed("stuck")).await, Some(Ended::Failed("stuck")));
        assert_eq!(ask(Ended::Done("gone")).await, Some(Ended::Done("gone")));
        assert_eq!(ask(Ended::Failed("never asked")).await, Some(Ended::Done("gone")));
        assert_eq!(attempts.status(), (2, false, Some(Ended::Done("gone"))));
    }

    #[tokio::test]
    async fn an_attempt_that_panics_can_be_followed_by_another() {
        let (attempts, tasks) = (Attempts::<u32>::default(), TaskGroup::default());
        let broken = attempts.join(&tasks, tracing::Span::none(), |_| async { panic!("broken") });
        assert_eq!(broken.ended().await, None);
        let next = attempts.join(&tasks, tracing::Span::none(), |n| async move { Ended::Done(n) });
        assert_eq!(next.ended().await, Some(Ended::Done(2)));
    }
}
