//! Attempts as their users see them. `model` has the interleavings.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use lifecycle::{Attempts, Ended, TaskGroup};
use tokio::sync::Notify;
use tracing::Span;

#[tokio::test]
async fn those_who_ask_meanwhile_join_and_see_the_same_outcome() {
    let (attempts, tasks) = (Attempts::default(), TaskGroup::default());
    let (runs, go) = (Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
    let ask = || {
        let (runs, go) = (Arc::clone(&runs), Arc::clone(&go));
        attempts.join(
            &tasks,
            Span::none(),
            |number| async move {
                runs.fetch_add(1, Ordering::Relaxed);
                go.notified().await;
                Ended::Failed(number)
            },
            |_| {},
        )
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
        attempts.join(&tasks, Span::none(), move |_| async move { ended }, |_| {}).ended()
    };
    assert_eq!(ask(Ended::Failed("stuck")).await, Some(Ended::Failed("stuck")));
    assert_eq!(ask(Ended::Done("gone")).await, Some(Ended::Done("gone")));
    assert_eq!(ask(Ended::Failed("never asked")).await, Some(Ended::Done("gone")));
    assert_eq!(attempts.status(), (2, false, Some(Ended::Done("gone"))));
}

#[tokio::test]
async fn an_attempt_that_panics_can_be_followed_by_another() {
    let (attempts, tasks) = (Attempts::<u32>::default(), TaskGroup::default());
    let broken = attempts.join(&tasks, Span::none(), |_| async { panic!("broken") }, |_| {});
    assert_eq!(broken.ended().await, None);
    let next = attempts.join(&tasks, Span::none(), |n| async move { Ended::Done(n) }, |_| {});
    assert_eq!(next.ended().await, Some(Ended::Done(2)));
}
