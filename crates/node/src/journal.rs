//! What guest agents have noted, for whoever keeps it.

use std::io;
use std::time::Duration;

use guest_wire::client::ClientError;
use lifecycle::{Budget, Expired};
use model::{SandboxId, SandboxPhase};
use node_wire::{Journal, JournalMark, NodeError};
use tokio::task::JoinError;

use crate::start::Inner;

/// A guest agent answers from memory: one that takes longer hangs, or is kept from running.
const LIMIT: Duration = Duration::from_secs(1);

/// Why the journal of a live sandbox could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    #[error("read its record")]
    Record(#[source] io::Error),
    #[error("it has no record")]
    NoRecord,
    #[error("a thread ended")]
    Thread(#[from] JoinError),
    #[error(transparent)]
    Agent(#[from] ClientError),
    #[error(transparent)]
    Expired(#[from] Expired),
}

impl Inner {
    /// As [`node_wire::NodeApi::journal`]. One that is halted after the look costs its caller the
    /// limit, and nobody else anything.
    pub(crate) async fn journal(
        &self,
        id: &SandboxId,
        mark: &JournalMark,
    ) -> Result<Option<Journal>, NodeError> {
        let not_found = || NodeError::NotFound(id.to_string());
        let entry = self.registry.get(id).filter(|entry| entry.phase() == SandboxPhase::Live);
        let entry = entry.ok_or_else(not_found)?;
        let address = entry.status().addr.ok_or_else(not_found)?;
        let read = self.backend.journal(&entry.lifecycle, address, mark);
        let read = Budget::within(LIMIT).run("guest agent", read).await;
        let read = read.unwrap_or_else(|expired| Err(expired.into()));
        read.map_err(|error| {
            let why = observe::chain(&error);
            NodeError::Internal(format!("the journal of sandbox {id} cannot be read: {why}"))
        })
    }
}
