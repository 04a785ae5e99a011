use std::fmt;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures::stream::BoxStream;
use model::{BuildId, Egress, EndReason, LifecycleId, NodeRequest, SandboxId, SandboxSpec};
use tokio::sync::broadcast;

use crate::{
    AdoptReport, BuildError, BuildRequest, BuildStatus, CreateError, DrainStatus, Ending, Expected,
    Explanation, Leaks, NodeError, NodeEvent, NodeInfo, Route, Sample, SandboxStatus, StatusError,
};

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

    /// Replaces the rules of a live sandbox for connections to the outside. In force with the answer,
    /// for connections that are open, too.
    ///
    /// # Errors
    /// [`NodeError::NotFound`].
    async fn set_egress(&self, id: &SandboxId, egress: Egress) -> Result<(), NodeError>;

    /// Every sandbox that may still hold something.
    async fn list(&self) -> Result<Vec<SandboxStatus>, NodeError>;

    /// What the node remembers of runs of these sandboxes that have ended, over restarts of its
    /// daemon, too. Of a sandbox that had several runs every one that is remembered; nothing of a
    /// run that goes on, and of what the node has forgotten or never had.
    ///
    /// A run is remembered from the moment [`NodeApi::list`] does not show it as live any more.
    async fn ended(&self, _ids: &[SandboxId]) -> Result<Vec<Ending>, NodeError> {
        Ok(Vec::new())
    }

    /// What the node remembers of a run, whether it goes on or has ended: of this one, or of the
    /// sandbox's last. `None` when it remembers nothing.
    async fn explain(
        &self,
        _id: &SandboxId,
        _lifecycle: Option<&LifecycleId>,
    ) -> Result<Option<Explanation>, NodeError> {
        Ok(None)
    }

    /// What this daemon of the node found of the one before. `None` before it has looked, and from
    /// a node of a version that does not tell.
    async fn adopt_report(&self) -> Result<Option<AdoptReport>, NodeError> {
        Ok(None)
    }

    /// Samples of a live sandbox, oldest first; the node keeps a bounded number.
    ///
    /// # Errors
    /// [`NodeError::NotFound`].
    async fn samples(&self, id: &SandboxId) -> Result<Vec<Sample>, NodeError>;

    /// Changes as they happen, from before the next [`NodeApi::list`] on. A receiver that lags must
    /// list again; one that is closed has lost the node's events, and must ask for new ones first.
    fn events(&self) -> broadcast::Receiver<NodeEvent>;

    /// As [`NodeApi::request_if`], whatever the node is.
    ///
    /// # Errors
    /// [`StatusError::DrainIsFinal`] for a way back from a drain.
    async fn request(&self, request: NodeRequest) -> Result<(), StatusError> {
        self.request_if(request, Expected::default()).await
    }

    /// Asks for another status. Answers when the change is in force: admission is closed before a
    /// drain is visible to anybody. Forcing goes on after the answer; see
    /// [`NodeApi::drain_status`].
    ///
    /// # Errors
    /// [`StatusError::DrainIsFinal`] for a way back from a drain, [`StatusError::Stale`] when the
    /// node is not what is expected; nothing has changed then.
    async fn request_if(&self, request: NodeRequest, expected: Expected)
    -> Result<(), StatusError>;

    /// The node's drain as it is now. Answered in every phase.
    async fn drain_status(&self) -> Result<DrainStatus, NodeError>;

    /// The node's drain, now and whenever it changes, at most some ten times a second. Ends when
    /// the node cannot be reached any more.
    async fn drain_updates(&self) -> Result<BoxStream<'static, DrainStatus>, NodeError>;

    /// A census of the node's host.
    async fn leaks(&self) -> Result<Leaks, NodeError>;

    /// Starts a template build; it goes on without its caller.
    ///
    /// # Errors
    /// See [`BuildError`]; nothing has been started then.
    async fn build(&self, request: BuildRequest) -> Result<(), BuildError>;

    /// Where a build stands.
    ///
    /// # Errors
    /// [`BuildError::NotFound`].
    async fn build_status(&self, id: &BuildId) -> Result<BuildStatus, BuildError>;

    /// Cancels a build that runs, waits until it has ended, and removes what it made. Accepted in
    /// every phase: it makes work less.
    ///
    /// # Errors
    /// [`BuildError::NotFound`].
    async fn build_delete(&self, id: &BuildId) -> Result<(), BuildError>;

    /// Every build the node knows.
    async fn builds(&self) -> Result<Vec<BuildStatus>, NodeError>;
}
