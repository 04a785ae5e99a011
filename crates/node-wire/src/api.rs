use std::fmt;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures::stream::BoxStream;
use model::{
    BuildId, Egress, EndReason, Keep, LifecycleId, NodeRequest, SandboxId, SandboxSpec, TemplateId,
};
use tokio::sync::broadcast;

use crate::{
    AdoptReport, BuildError, BuildRequest, BuildStatus, CreateError, DrainStatus, Ending, Expected,
    Explanation, Journal, JournalMark, Leaks, NewSnapshot, NodeError, NodeEvent, NodeInfo,
    PauseError, PauseOrder, PausedStatus, RemoveError, Resumed, Route, Sample, SandboxStatus,
    SnapshotStatus, StatusError,
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
    /// under way. One that is paused goes with what was kept of it.
    ///
    /// # Errors
    /// [`NodeError::NotFound`] when the node does not have it, [`NodeError::Stuck`] when a
    /// release step failed; calling again tries again.
    async fn kill(&self, id: &SandboxId, reason: EndReason) -> Result<(), NodeError>;

    /// Pauses a live sandbox and answers when what is to be kept of it is safe: a restart of the
    /// daemon loses nothing of it, one of the host nothing of its files. Joins a pause that is under
    /// way. Accepted by a node that drains; there it keeps the files only.
    ///
    /// The guest agent is asked for a sign of life first. Of one that gives none the memory is kept
    /// all the same, which is said of it, unless the order says otherwise.
    ///
    /// [`NodeEvent::Pausing`] is announced when it is not routable any more, and
    /// [`NodeEvent::Paused`] before the answer.
    ///
    /// # Errors
    /// See [`PauseError`].
    async fn pause_by(&self, id: &SandboxId, order: PauseOrder)
    -> Result<PausedStatus, PauseError>;

    /// As [`NodeApi::pause_by`], whether its guest agent answers or not where its memory is kept.
    ///
    /// # Errors
    /// See [`PauseError`].
    async fn pause(&self, id: &SandboxId, keep: Keep) -> Result<PausedStatus, PauseError> {
        self.pause_by(id, keep.into()).await
    }

    /// Lets a paused sandbox go on, under the clock and the rules of `spec`; its environment,
    /// metadata and token stay what they were where its memory is there. `keep` is
    /// [`Keep::Files`] to start it anew from its files whatever else is there.
    ///
    /// # Errors
    /// As [`NodeApi::create`]; [`CreateError::NotPaused`] when the node has no such paused
    /// sandbox, [`CreateError::AlreadyExists`] when it runs, or is on its way to or from it. It is
    /// as paused as before then.
    async fn resume(
        &self,
        spec: SandboxSpec,
        keep: Keep,
        limit: Duration,
    ) -> Result<Resumed, CreateError>;

    /// Every paused sandbox the node has. Those whose memory is there are in [`NodeApi::list`],
    /// too.
    async fn paused(&self) -> Result<Vec<PausedStatus>, NodeError>;

    /// Makes a template of the files of a live sandbox, which halts for that moment.
    ///
    /// # Errors
    /// See [`PauseError`]; nothing of the snapshot is left then.
    async fn snapshot(
        &self,
        id: &SandboxId,
        new: NewSnapshot,
    ) -> Result<SnapshotStatus, PauseError>;

    /// Removes every build of a template or snapshot.
    ///
    /// # Errors
    /// See [`RemoveError`].
    async fn remove_template(&self, id: &TemplateId) -> Result<(), RemoveError>;

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

    /// What the guest agent of a live sandbox has noted after `mark`, the oldest first, as much as one
    /// answer holds. `None` of an agent that keeps no journal, and from a node of a version that does
    /// not tell. An agent that is silent is given up soon.
    ///
    /// # Errors
    /// [`NodeError::NotFound`] when it does not run, or stands still; [`NodeError::Internal`] when its
    /// agent does not answer, or not as an agent does.
    async fn journal(
        &self,
        _id: &SandboxId,
        _mark: &JournalMark,
    ) -> Result<Option<Journal>, NodeError> {
        Ok(None)
    }

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
