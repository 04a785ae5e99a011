use std::fmt;

use async_trait::async_trait;
use model::{SandboxId, Secret};

/// What a request shows that comes for a sandbox to which there is no route.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Knock {
    /// Whether it is for the guest agent and not for a program of the sandbox.
    pub for_agent: bool,
    pub agent_token: Option<Secret>,
    pub traffic_token: Option<Secret>,
}

/// Why a sandbox was not woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WakeError {
    /// There is none, or it is none that traffic wakes. Nobody learns which of the two.
    #[error("there is no sandbox to wake")]
    NotFound,
    /// It wakes for nobody who does not show its token; or its team may have nothing started.
    #[error("the sandbox may not be woken by this request")]
    Denied,
    #[error("the sandbox is still on its way to another state")]
    Transitioning,
    #[error("the team has as many sandboxes as it may")]
    AtLimit,
    #[error("the sandbox could not be started")]
    Failed,
}

/// Whoever can start paused sandboxes, as the edge sees it.
#[async_trait]
pub trait Waker: fmt::Debug + Send + Sync {
    /// Sees to it that a sandbox without a route has one, if it is paused and traffic wakes it.
    /// Who asks while it is being started waits for that start.
    ///
    /// Cancel safety: yes; a start goes on.
    ///
    /// # Errors
    /// See [`WakeError`].
    async fn wake(&self, sandbox: &SandboxId, knock: Knock) -> Result<(), WakeError>;
}
