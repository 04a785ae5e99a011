//! Leaving a node to its next daemon: sandboxes run on, and nobody here holds them.

use std::sync::Arc;
use std::time::Duration;

use host::Faults;
use lifecycle::{Budget, Expired};
use model::{EndReason, SandboxPhase};
use node_wire::NodeError;
use tokio_util::sync::CancellationToken;

use crate::start::{Inner, Node};

/// What is done to leave a node, in order. All of it may be cut off at any instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeaveStep {
    /// Nothing new is let in.
    Refuse,
    /// Starts under way are finished, or undone.
    Starts,
    /// So are ends and builds.
    Begun,
    /// Rounds of teardowns are over.
    Rounds,
    /// Nobody watches sandboxes any more.
    Tasks,
    /// Nothing keeps the node going any more.
    Upkeep,
    /// Children that nobody waits for are reaped.
    Orphans,
    /// Slots that were made ahead are closed.
    Slots,
    Helpers,
    /// The table stays; it is nobody's here.
    Firewall,
    /// The next daemon may have the node.
    Claim,
}

impl LeaveStep {
    pub(crate) const ALL: [Self; 11] = [
        Self::Refuse,
        Self::Starts,
        Self::Begun,
        Self::Rounds,
        Self::Tasks,
        Self::Upkeep,
        Self::Orphans,
        Self::Slots,
        Self::Helpers,
        Self::Firewall,
        Self::Claim,
    ];

    /// The fault points before and after it.
    pub(crate) const fn points(self) -> [&'static str; 2] {
        macro_rules! points {
            ($name:literal) => {
                [concat!("leave.", $name, ".before"), concat!("leave.", $name, ".after")]
            };
        }
        match self {
            Self::Refuse => points!("refuse"),
            Self::Starts => points!("starts"),
            Self::Begun => points!("begun"),
            Self::Rounds => points!("rounds"),
            Self::Tasks => points!("tasks"),
            Self::Upkeep => points!("upkeep"),
            Self::Orphans => points!("orphans"),
            Self::Slots => points!("slots"),
            Self::Helpers => points!("helpers"),
            Self::Firewall => points!("firewall"),
            Self::Claim => points!("claim"),
        }
    }

    /// Does the step, with its fault points around it. A fault is told with what else goes wrong: the
    /// steps after it are done all the same.
    pub(crate) async fn run<T>(
        self,
        faults: &Faults,
        errors: &mut Vec<String>,
        work: impl Future<Output = T>,
    ) -> T {
        let [before, after] = self.points();
        let pause = || Budget::within(FAULT);
        errors.extend(faults.hit(before, pause()).await.err().map(|error| error.to_string()));
        let done = work.await;
        errors.extend(faults.hit(after, pause()).await.err().map(|error| error.to_string()));
        done
    }
}

const POINTS: usize = 2 * LeaveStep::ALL.len();

/// Every fault point of leaving a node, in order.
pub const LEAVE_POINTS: [&str; POINTS] = {
    let mut points = [""; POINTS];
    let mut at = 0;
    while at < LeaveStep::ALL.len() {
        let [before, after] = LeaveStep::ALL[at].points();
        points[2 * at] = before;
        points[2 * at + 1] = after;
        at += 1;
    }
    points
};

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
/// How long a fault that delays keeps a step up.
const FAULT: Duration = Duration::from_secs(10);

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
        let (faults, mut errors) = (&inner.config.faults, Vec::new());
        let refuse = async { inner.begin_to_leave() };
        LeaveStep::Refuse.run(faults, &mut errors, refuse).await;
        let finish = inner.wait("starts", starts, || inner.gate.inside() == 0);
        if LeaveStep::Starts.run(faults, &mut errors, finish).await.is_err() {
            inner.cancel_starts();
        }
        let over = || inner.gate.inside() == 0 && inner.builds.running() == 0 && !inner.is_ending();
        let finish = inner.wait("what was begun", undoing, over);
        let finished = LeaveStep::Begun.run(faults, &mut errors, finish).await;
        errors.extend(finished.err().map(|expired| expired.to_string()));
        errors.extend(inner.let_go(letting_go, closing).await);
        let live = |phase: SandboxPhase| phase.is_routable() || phase == SandboxPhase::Paused;
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

    /// Whether the first round of a teardown goes on, or is about to: an end that was asked for is
    /// done here, although its supervisor may not have seen it yet.
    fn is_ending(&self) -> bool {
        self.registry
            .all()
            .iter()
            .any(|entry| entry.end_reason().is_some() && entry.state().rounds == 0)
    }

    /// Lets go of everything, the claim last, and says what went wrong. What bears the node's mark
    /// stays.
    pub(crate) async fn let_go(self: &Arc<Self>, budget: Budget, closing: Budget) -> Vec<String> {
        let mut errors = Vec::new();
        self.handing.begun.cancel();
        self.gate.shut();
        self.handing.over.cancel();
        let [rounds, tasks, upkeep] = budget.split([2, 1, 1]);
        let faults = &self.config.faults;
        let held = LeaveStep::Rounds.run(faults, &mut errors, self.rounds.hold(rounds)).await;
        errors.extend(held.err().map(|expired| expired.to_string()));
        let closed = LeaveStep::Tasks.run(faults, &mut errors, self.tasks.close(tasks)).await;
        errors.extend(closed.err().map(|expired| format!("tasks of sandboxes: {expired}")));
        let closed = LeaveStep::Upkeep.run(faults, &mut errors, self.upkeep.close(upkeep)).await;
        errors.extend(closed.err().map(|expired| format!("upkeep: {expired}")));
        errors.extend(self.backend.leave(closing).await);
        let give = async { self.backend.hand_over() };
        LeaveStep::Claim.run(faults, &mut errors, give).await;
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
