//! Leaving a node to its next daemon: sandboxes run on, and nobody here holds them.

use std::sync::Arc;
use std::time::Duration;

use lifecycle::{Budget, Expired};
use model::{EndReason, SandboxPhase};
use node_wire::NodeError;
use tokio_util::sync::CancellationToken;

use crate::start::{Inner, Node};

/// How far a node is given to its next daemon.
#[derive(Debug, Default)]
pub(crate) struct Handing {
    /// Nothing new begins.
    pub begun: CancellationToken,
    /// What is held is let go of.
    pub over: CancellationToken,
    /// Nobody here answers for it any more.
    pub done: CancellationToken,
}

/// What was left to the next daemon.
#[derive(Debug)]
pub struct LeaveReport {
    /// Sandboxes that run on.
    pub left: usize,
    /// What went wrong on the way, in order. The next daemon finds what is left of it by name.
    pub errors: Vec<String>,
}

/// What starts and teardowns that go on have of the time: the rest is for letting go.
const STARTS: u32 = 3;
const UNDOING: u32 = 3;
const LETTING_GO: u32 = 2;
const CLOSING: u32 = 2;

impl Node {
    /// Leaves every live sandbox running for the next daemon of this node, which may start as soon as
    /// this returns. What has begun is ended or undone within `budget`; what is not done by then, and
    /// what is stuck, is left by name.
    ///
    /// The node cannot be used again.
    ///
    /// Cancel safety: no.
    pub async fn leave(&self, budget: Budget) -> LeaveReport {
        let inner = &self.inner;
        let [starts, undoing, letting_go, closing] =
            budget.split([STARTS, UNDOING, LETTING_GO, CLOSING]);
        inner.begin_to_leave();
        let mut errors = Vec::new();
        if inner.wait("starts", starts, || inner.gate.inside() == 0).await.is_err() {
            inner.cancel_starts();
        }
        let over = || inner.gate.inside() == 0 && inner.builds.running() == 0 && !inner.is_ending();
        if let Err(expired) = inner.wait("what was begun", undoing, over).await {
            errors.push(expired.to_string());
        }
        errors.extend(inner.let_go(letting_go, closing).await);
        let live = |phase| matches!(phase, SandboxPhase::Live | SandboxPhase::Checkpointing);
        let left = inner.registry.all().iter().filter(|entry| live(entry.phase())).count();
        tracing::info!(left, failed = errors.len(), "the node is left to its next daemon");
        LeaveReport { left, errors }
    }
}

impl Inner {
    fn begin_to_leave(&self) {
        // In this order: who is refused finds out why.
        self.handing.begun.cancel();
        self.gate.shut();
        self.builds.cancel_all();
        self.pulse.beat();
        tracing::info!(sandboxes = self.registry.len(), "leaving the node to its next daemon");
    }

    async fn wait(
        &self,
        what: &'static str,
        budget: Budget,
        done: impl FnMut() -> bool,
    ) -> Result<(), Expired> {
        let mut beats = self.pulse.listen();
        budget.run(what, beats.until(done)).await
    }

    /// Starts that took too long are undone.
    fn cancel_starts(&self) {
        let starting = |phase| matches!(phase, SandboxPhase::Reserved | SandboxPhase::Booting);
        for entry in self.registry.all().iter().filter(|entry| starting(entry.phase())) {
            entry.end(EndReason::NodeStop);
        }
    }

    /// Whether the first round of a teardown goes on.
    fn is_ending(&self) -> bool {
        let ending = |phase| matches!(phase, SandboxPhase::Stopping | SandboxPhase::TearingDown);
        self.registry.all().iter().any(|entry| {
            let state = entry.state();
            ending(state.phase) && state.rounds == 0
        })
    }

    /// Lets go of everything, the claim last, and says what went wrong. What bears the node's mark
    /// stays.
    pub(crate) async fn let_go(self: &Arc<Self>, budget: Budget, closing: Budget) -> Vec<String> {
        let mut errors = Vec::new();
        self.handing.begun.cancel();
        self.gate.shut();
        self.handing.over.cancel();
        let [rounds, tasks, upkeep] = budget.split([2, 1, 1]);
        errors.extend(self.rounds.hold(rounds).await.err().map(|expired| expired.to_string()));
        if let Err(expired) = self.tasks.close(tasks).await {
            errors.push(format!("tasks of sandboxes: {expired}"));
        }
        if let Err(expired) = self.upkeep.close(upkeep).await {
            errors.push(format!("upkeep: {expired}"));
        }
        errors.extend(self.backend.leave(closing).await);
        self.backend.hand_over();
        self.handing.done.cancel();
        self.pulse.beat();
        errors
    }
}

/// The answer to who asks for something of a sandbox that is left to the next daemon.
pub(crate) fn handed_over() -> NodeError {
    NodeError::Unreachable("it is being restarted".into())
}

/// The budget of letting go after a start that failed.
pub(crate) const FAILED_START: Duration = Duration::from_secs(10);
