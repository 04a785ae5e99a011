//! One freeze or thaw at a time.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::rest::RestError;
use crate::tasks;

/// How long a request waits for those before it. The host gives up sooner.
const LIMIT: Duration = Duration::from_secs(30);

/// Given to one request after the other.
pub(super) struct Turn {
    one: Arc<Semaphore>,
    limit: Duration,
}

impl Default for Turn {
    fn default() -> Self {
        Self { one: Arc::new(Semaphore::new(1)), limit: LIMIT }
    }
}

impl Turn {
    /// Waits for the turn, which lasts until what is returned is dropped.
    ///
    /// # Errors
    /// 503 when it does not come. A client that leaves is out of the row at once.
    ///
    /// Cancel safety: yes, the place in the row is lost.
    pub(super) async fn take(&self) -> Result<OwnedSemaphorePermit, RestError> {
        let turn = tasks::within(self.limit, Arc::clone(&self.one).acquire_owned()).await;
        turn.and_then(Result::ok).ok_or_else(|| {
            RestError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "another freeze or thaw is being done and has not ended: ask again",
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_turn_that_does_not_come_is_told_and_one_that_is_given_back_comes() {
        let turn = Turn { limit: Duration::from_millis(1), ..Turn::default() };
        let first = turn.take().await.unwrap();
        let refused = turn.take().await.unwrap_err();
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
        drop(first);
        drop(turn.take().await.unwrap());
        drop(turn.take().await.unwrap());
    }

    #[tokio::test]
    async fn who_stops_waiting_takes_no_turn() {
        let turn = Turn::default();
        let first = turn.take().await.unwrap();
        let mut waiting = Box::pin(turn.take());
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(waiting);
        drop(first);
        drop(turn.take().await.unwrap());
    }
}
