//! Ends that could not be written down: a full disk does not keep a sandbox from ending.
//!
//! To whoever asks they are in the records. They are written when that works again; if the program
//! ends before, the comparison with the node finds what has ended.

use std::collections::HashMap;
use std::sync::Arc;

use model::SandboxId;
use parking_lot::Mutex;

use super::row::SandboxRow;
use super::sandboxes::End;
use super::{Store, StoreError};

/// Not more than there are open records: a sandbox ends once.
#[derive(Debug, Clone, Default)]
pub(super) struct Overdue(Arc<Mutex<HashMap<SandboxId, End>>>);

const CLOSE: &str = "UPDATE sandboxes SET state = 'ended', ended_at = $2, end_reason = $3, \
    end_detail = $4, released_at = $5, env = NULL, \
    idempotency_key = CASE WHEN lifecycle IS NULL THEN NULL ELSE idempotency_key END \
    WHERE id = $1 AND ended_at IS NULL";

impl Overdue {
    pub(super) fn end_of(&self, id: &SandboxId) -> Option<End> {
        self.0.lock().get(id).cloned()
    }

    pub(super) fn has(&self, id: &SandboxId) -> bool {
        self.0.lock().contains_key(id)
    }

    /// Of rows that were read as open, those that are.
    pub(super) fn open_of(&self, mut rows: Vec<SandboxRow>) -> Vec<SandboxRow> {
        rows.retain(|row| !self.has(&row.id));
        rows
    }

    /// Keeps an end that was not written because of `why`.
    pub(super) fn keep(&self, id: &SandboxId, end: End, why: &StoreError) {
        let why = observe::chain(why).to_string();
        tracing::error!(sandbox.id = %id, why, "the end of a sandbox is not written down yet");
        self.0.lock().insert(id.clone(), end);
    }

    fn all(&self) -> Vec<(SandboxId, End)> {
        self.0.lock().iter().map(|(id, end)| (id.clone(), end.clone())).collect()
    }
}

impl Store {
    /// Whether there are ends that could not be written down.
    pub(crate) fn is_behind(&self) -> bool {
        !self.overdue.0.lock().is_empty()
    }

    /// Writes down what could not be written before, and keeps some room on the disk.
    ///
    /// # Errors
    /// It still cannot be written; what was not is tried again by the next call.
    pub(crate) async fn catch_up(&self) -> Result<(), StoreError> {
        self.balance().await;
        for (id, end) in self.overdue.all() {
            let closed = sqlx::query(CLOSE)
                .bind(id.as_str())
                .bind(end.at.micros())
                .bind(&*end.reason)
                .bind(end.detail.as_deref())
                .bind(end.released.then(|| crate::app::now().micros()))
                .execute(&self.writer);
            closed.await.map_err(StoreError::query("write down an end that is overdue"))?;
            self.overdue.0.lock().remove(&id);
            tracing::info!(sandbox.id = %id, "the end of a sandbox is written down now");
        }
        Ok(())
    }

    pub(super) async fn balance(&self) {
        let spare = self.spare.clone();
        let balanced = tokio::task::spawn_blocking(move || spare.balance()).await;
        if let Err(error) = balanced {
            tracing::debug!(%error, "the room kept for the records was not looked at");
        }
    }
}

#[cfg(test)]
mod tests;
