use std::fmt;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use model::{EndReason, SandboxId, SandboxSpec};
use tokio::sync::broadcast;

use crate::{CreateError, NodeError, NodeEvent, NodeInfo, Route, Sample, SandboxStatus};

/// A sandbox that was just started.
#[derive(Debug, Clone)]
pub struct Started {
    pub status: SandboxStatus,
    /// How to reach it, for the edge.
    pub route: Route,
}

/// The calls a control plane makes to a node.
///
/// Work belongs to the node, not to the call: a dropped future loses the answer, never the
/// clean-up (R21). Every call may be repeated.
#[async_trait]
pub trait NodeApi: fmt::Debug + Send + Sync {
    /// Who the node is, how it is, what it has. Cheap.
    async fn info(&self) -> Result<NodeInfo, NodeError>;

    /// Starts a sandbox and answers when its guest agent does. On an error nothing of it is
    /// left, or what could not be removed is visible as stuck.
    ///
    /// `limit` is the time the caller gives the start; a failed start's clean-up has its own.
    ///
    /// # Errors
    /// See [`CreateError`]; [`CreateError::retry_elsewhere`] says what to do.
    async fn create(&self, spec: SandboxSpec, limit: Duration) -> Result<Started, CreateError>;

    /// Ends a sandbox and answers when everything it held is released. Joins an end that is
    /// under way.
    ///
    /// # Errors
    /// [`NodeError::NotFound`] when the node does not have it, [`NodeError::Stuck`] when a
    /// release step failed; calling again tries again.
    async fn kill(&self, id: &SandboxId, reason: EndReason) -> Result<(), NodeError>;

    /// Moves the end of a live sandbox; a time in the past ends it now.
    ///
    /// # Errors
    /// [`NodeError::NotFound`].
    async fn set_end(&self, id: &SandboxId, ends_at: SystemTime) -> Result<(), NodeError>;

    /// Every sandbox that may still hold something.
    async fn list(&self) -> Result<Vec<SandboxStatus>, NodeError>;

    /// Samples of a live sandbox, oldest first; the node keeps a bounded number.
    ///
    /// # Errors
    /// [`NodeError::NotFound`].
    async fn samples(&self, id: &SandboxId) -> Result<Vec<Sample>, NodeError>;

    /// Changes as they happen. A receiver that lags must call [`NodeApi::list`].
    fn events(&self) -> broadcast::Receiver<NodeEvent>;
}
