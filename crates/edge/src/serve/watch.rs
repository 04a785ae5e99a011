//! What ends a client connection from outside of its work.

use std::future::{pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::clock::{Alarm, Clock};
use crate::quiet::Quiet;

/// How long the first request of a connection is waited for when the listener stops.
const FIRST_LIMIT: Duration = Duration::from_millis(500);

/// The limits of one connection, and what the listener says to it.
#[derive(Debug)]
pub(super) struct Watch {
    clock: Arc<Clock>,
    alarm: Alarm,
    cut: CancellationToken,
    told: Quiet<BoxFuture<'static, Told>>,
    /// Whether a first request was waited for.
    waited: bool,
    stopping: bool,
}

/// What the listener has to say.
#[derive(Debug)]
enum Told {
    Cut,
    /// End when nothing is under way.
    Stop,
}

impl Watch {
    /// `cut` ends the connection as it is, `stop` as soon as nothing is under way on it.
    pub(super) fn new(clock: Arc<Clock>, cut: CancellationToken, stop: CancellationToken) -> Self {
        let alarm = Alarm::new(Arc::clone(&clock));
        let told = told(cut.clone(), stop.cancelled_owned().boxed());
        Self { clock, alarm, cut, told, waited: false, stopping: false }
    }

    /// Whether no request is to be taken any more once those under way have been answered.
    pub(super) const fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Ready when the connection is to end as it is. To be polled after the connection, in the same
    /// task; then also [`Watch::is_stopping`] may have changed.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Poll::Ready(told) = Pin::new(&mut self.told).poll(cx) {
            let next = match told {
                Told::Cut => return Poll::Ready(()),
                // Its first request is on its way, most likely: a client that was let in and sees
                // its connection closed cannot know that nothing was done.
                Told::Stop if self.clock.is_fresh() && !self.waited => {
                    self.waited = true;
                    tokio::time::sleep(FIRST_LIMIT).boxed()
                }
                Told::Stop => {
                    self.stopping = true;
                    pending().boxed()
                }
            };
            self.told = self::told(self.cut.clone(), next);
        }
        let late = Pin::new(&mut self.alarm).poll(cx);
        if late.is_ready() {
            debug!("client took longer than it may");
        }
        late
    }

    /// What `work` gives, or `None` when the connection is to end.
    ///
    /// Cancel safety: that of `work`.
    pub(super) async fn beside<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending => self.poll(cx).map(|()| None),
        })
        .await
    }
}

fn told(cut: CancellationToken, stop: BoxFuture<'static, ()>) -> Quiet<BoxFuture<'static, Told>> {
    let told = async move {
        tokio::select! {
            biased;
            () = cut.cancelled() => Told::Cut,
            () = stop => Told::Stop,
        }
    };
    Quiet::new(told.boxed())
}
