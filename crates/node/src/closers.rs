//! What is left to do when the sandboxes are gone: in one order, each with its own time, each done
//! whatever became of those before.

use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use lifecycle::Budget;
use tokio::time::Instant;

use crate::backend::{CloseError, Closer};
use crate::start::Inner;
use crate::teardown::words_of;

impl Inner {
    /// Runs every closer within `budget`, and says in order what went wrong. What one does not use
    /// of its share is there for those after it. May be repeated.
    ///
    /// Rounds of teardowns stay held back afterwards.
    pub(crate) async fn close_all(&self, budget: Budget) -> Vec<String> {
        let shares = budget.split(Closer::ALL.map(Closer::weight));
        let mut failed: Vec<(Closer, String)> = Vec::new();
        for (closer, share) in Closer::ALL.into_iter().zip(shares) {
            let began = Instant::now();
            let links_left = failed.iter().any(|(closer, _)| *closer == Closer::Slots);
            let closing = AssertUnwindSafe(self.close(closer, links_left, share)).catch_unwind();
            let error = match share.run(closer.name(), closing).await {
                Ok(Ok(Ok(()))) => None,
                Ok(Ok(Err(error))) => Some(observe::chain(&error).to_string()),
                Ok(Err(panic)) => Some(format!("it panicked: {}", words_of(&*panic))),
                Err(expired) => Some(expired.to_string()),
            };
            let error_text = error.as_deref().unwrap_or_default();
            let took_ms = began.elapsed().as_millis();
            tracing::debug!(closer = closer.name(), took_ms, error = error_text, "closed");
            failed.extend(error.map(|error| (closer, error)));
        }
        failed.iter().map(|(closer, error)| format!("{}: {error}", closer.name())).collect()
    }

    async fn close(
        &self,
        closer: Closer,
        links_left: bool,
        share: Budget,
    ) -> Result<(), CloseError> {
        self.config.faults.hit(closer.point(), share).await?;
        match closer {
            Closer::Rounds => Ok(self.rounds.hold(share).await?),
            Closer::Upkeep => Ok(self.upkeep.close(share).await?),
            // What still runs would be free to reach the host and its networks.
            Closer::Firewall if links_left || self.registry.len() > 0 => Err(CloseError::Kept),
            closer => self.backend.close(closer, share).await,
        }
    }
}
