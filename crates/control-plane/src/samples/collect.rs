//! Keeping what nodes tell of their sandboxes longer than they do.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::app::{App, now};
use crate::store::{Kept, RowState, last_of_minutes};

/// How long a node may take to tell the samples of one sandbox.
const CALL_LIMIT: Duration = Duration::from_secs(5);

/// Keeps a sample of every running sandbox for each minute, and what its guest agent has noted, until the control plane closes.
pub(crate) async fn collect(app: Arc<App>) {
    let mut since = 0;
    loop {
        tokio::select! {
            biased;
            () = app.tasks.stop_token().cancelled() => return,
            () = sleep(app.config.limits.sample_every) => {}
        }
        // A round that began is finished, also by a stop: it is the last one of this process.
        let begun = now().seconds();
        match app.collect(since, begun).await {
            Ok(()) => since = begun,
            Err(error) => {
                let error = observe::chain(&error).to_string();
                tracing::warn!(error, "samples were not kept; the next round tries again");
            }
        }
        if let Err(error) = app.collect_journals().await {
            let error = observe::chain(&error).to_string();
            tracing::warn!(error, "journals were not kept; the next round tries again");
        }
    }
}

impl App {
    async fn collect(&self, since: i64, now: i64) -> Result<(), crate::StoreError> {
        let mut kept: Vec<Kept> = Vec::new();
        let rows = self.store.live_sandboxes().await?;
        for row in rows.iter().filter(|row| row.state == RowState::Running) {
            if self.tasks.stop_token().is_cancelled() {
                break;
            }
            let Ok(node) = self.node_of(row) else { continue };
            // One that is away, or has ended it just now, has nothing to tell.
            if let Ok(samples) = node.within(CALL_LIMIT, node.api().samples(&row.id)).await {
                kept.extend(last_of_minutes(&row.id, &samples, since, now));
            }
        }
        if kept.is_empty() {
            return Ok(());
        }
        self.store.keep_samples(&kept, self.config.limits.sample_rows).await
    }
}
