//! Removing templates that were replaced, once no sandbox runs from them any more.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::start::Inner;

/// How often it is looked for what can go, if nobody is short of room.
const EVERY: Duration = Duration::from_secs(3600);
/// Who is short of room is so again and again: it is looked at most this often.
const PAUSE: Duration = Duration::from_secs(10);

/// Collects now and then, and as soon as work was refused for want of room, until `stop`.
///
/// To be begun when what an earlier daemon left has been taken over: every sandbox has its lease.
pub(crate) async fn collect(inner: Arc<Inner>, stop: CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = inner.room_wanted.notified() => {}
            () = tokio::time::sleep(EVERY) => {}
        }
        let images = Arc::clone(&inner.images);
        // It has an end: a removal that the stop does not wait for goes on without it.
        let collected = tokio::task::spawn_blocking(move || images.collect()).await;
        match collected.map_err(|ended| ended.to_string()) {
            Ok(Ok(0)) => {}
            Ok(Ok(removed)) => tracing::info!(removed, "removed templates that were replaced"),
            Ok(Err(error)) => {
                let error = observe::chain(&error).to_string();
                tracing::warn!(error, "a replaced template is still there; will try again");
            }
            Err(ended) => tracing::error!(error = ended, "replaced templates were not looked for"),
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}
