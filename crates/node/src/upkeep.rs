//! The tasks that keep a node going, none of which may end unnoticed.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::FutureExt;
use model::{NodePhase, NodeRequest};
use observe::metrics::UPKEEP_ENDED;

use crate::backend::Upkeep;
use crate::metrics;
use crate::start::Inner;
use crate::teardown::words_of;

impl Inner {
    pub(crate) fn start_upkeep(self: &Arc<Self>) {
        let stop = self.upkeep.stop_token();
        let sample = metrics::sample(Arc::clone(self), stop.clone());
        let sampler = Upkeep { name: "sampler", work: Box::pin(sample) };
        for upkeep in Arc::clone(&self.backend).upkeep(stop).into_iter().chain([sampler]) {
            self.keep_up(upkeep);
        }
    }

    /// Runs one until the node stops. If it ends before, by a panic or by itself, the node is
    /// unhealthy: what runs goes on, and nothing new is placed on it.
    fn keep_up(self: &Arc<Self>, Upkeep { name, work }: Upkeep) {
        let inner = Arc::clone(self);
        let stop = self.upkeep.stop_token().clone();
        self.upkeep.spawn(tracing::info_span!("upkeep", task = name), async move {
            let ended = AssertUnwindSafe(work).catch_unwind().await;
            let why = match ended {
                Ok(()) if stop.is_cancelled() => return,
                Ok(()) => "it ended by itself".to_owned(),
                Err(panic) => format!("it panicked: {}", words_of(&*panic)),
            };
            UPKEEP_ENDED.count([name]);
            tracing::error!(task = name, why, "a task that keeps the node going has ended");
            inner.failing.store(true, Ordering::SeqCst);
            inner.tell_failing();
        });
    }

    /// Takes a node whose upkeep has failed out of placement. One that drains goes on draining, and
    /// one that starts hears of it when it has started.
    pub(crate) fn tell_failing(&self) {
        let placeable = matches!(self.phase(), NodePhase::Healthy | NodePhase::Standby);
        if self.failing.load(Ordering::SeqCst)
            && placeable
            && let Err(error) = self.change(NodeRequest::Unhealthy)
        {
            // A drain came in between.
            tracing::debug!(%error, "not told to be unhealthy");
        }
    }
}
