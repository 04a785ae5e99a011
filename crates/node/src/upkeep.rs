//! The tasks that keep a node going, none of which may end unnoticed.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use host::fault::Injected;
use lifecycle::Budget;
use model::{NodePhase, NodeRequest};
use node_wire::Expected;
use observe::metrics::UPKEEP_ENDED;

use crate::backend::Upkeep;
use crate::janitor;
use crate::metrics;
use crate::relief;
use crate::start::{Inner, Node};
use crate::teardown::words_of;

impl Node {
    /// Waits until a task that keeps the node going has ended, and says which and why. The node is
    /// unhealthy then; what runs on it goes on, and only another process can keep it going.
    ///
    /// Cancel safety: yes.
    pub async fn failed(&self) -> String {
        let mut failing = self.inner.failing.subscribe();
        // The sender is in the node: it cannot be gone.
        let why = failing.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
        why.unwrap_or_default()
    }
}

impl Inner {
    pub(crate) fn start_upkeep(self: &Arc<Self>) {
        let stop = self.upkeep.stop_token();
        let sample = metrics::sample(Arc::clone(self), stop.clone());
        let sampler = Upkeep { name: "sampler", work: Box::pin(sample) };
        let collect = janitor::collect(Arc::clone(self), stop.clone());
        let janitor = Upkeep { name: "janitor", work: Box::pin(collect) };
        let relieve = relief::relieve(Arc::clone(self), stop.clone());
        let relief = Upkeep { name: "relief", work: Box::pin(relieve) };
        let own = [sampler, janitor, relief];
        for upkeep in Arc::clone(&self.backend).upkeep(stop).into_iter().chain(own) {
            self.keep_up(upkeep);
        }
    }

    /// Runs one until the node stops. If it ends before, by a panic or by itself, the node is
    /// unhealthy: what runs goes on, and nothing new is placed on it.
    fn keep_up(self: &Arc<Self>, Upkeep { name, work }: Upkeep) {
        let inner = Arc::clone(self);
        let stop = self.upkeep.stop_token().clone();
        self.upkeep.spawn(tracing::info_span!("upkeep", task = name), async move {
            let budget = Budget::within(inner.config.teardown_limit);
            let work = async {
                inner.config.faults.hit(&format!("upkeep.{name}"), budget).await?;
                work.await;
                Ok::<_, Injected>(())
            };
            let ended = AssertUnwindSafe(work).catch_unwind().await;
            let why = match ended {
                Ok(Ok(())) if stop.is_cancelled() => return,
                Ok(Ok(())) => "it ended by itself".to_owned(),
                Ok(Err(injected)) => injected.to_string(),
                Err(panic) => format!("it panicked: {}", words_of(&*panic)),
            };
            UPKEEP_ENDED.count([name]);
            tracing::error!(task = name, why, "a task that keeps the node going has ended");
            inner.failing.send_replace(Some(format!("{name}: {why}")));
            inner.tell_failing();
        });
    }

    /// Takes a node whose upkeep has failed out of placement. One that drains goes on draining, and
    /// one that starts hears of it when it has started.
    pub(crate) fn tell_failing(&self) {
        let placeable = matches!(self.phase(), NodePhase::Healthy | NodePhase::Standby);
        if self.failing.borrow().is_some()
            && placeable
            && let Err(error) = self.change(NodeRequest::Unhealthy, &Expected::default())
        {
            // A drain came in between.
            tracing::debug!(%error, "not told to be unhealthy");
        }
    }
}
