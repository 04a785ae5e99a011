//! What a node takes on, by what it is and where the node stands.
//!
//! This says what is answered. What makes the answer to new work hold against a drain that begins at
//! the same moment is the node's gate. Changes of the node's own phase are [`NodePhase::on`]; what
//! is answered about one sandbox is [`SandboxPhase::may`](crate::SandboxPhase::may).

use crate::NodePhase;

/// What can be asked of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Work {
    /// Create or resume a sandbox.
    Start,
    /// Snapshot a sandbox that runs on.
    Checkpoint,
    /// Snapshot a sandbox and go on in a new one: the old one may be given up only when the new one
    /// was let in.
    CheckpointAfresh,
    /// Snapshot a sandbox and stop it: this is how a node empties.
    Pause,
    /// End a sandbox.
    Delete,
    /// Change a sandbox's end or network.
    Update,
    /// List, information, health, metrics.
    Read,
    /// Build a template.
    Build,
    /// How a build goes.
    BuildStatus,
    /// End a build.
    BuildDelete,
    /// Upload a file of a layer, for a build that was let in.
    Upload,
    /// Read what only this node has, for another node.
    PeerRead,
}

/// What a node answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Admission {
    Admit,
    /// What it asks for is being done already; it waits for that.
    Join,
    /// Not here and now: another node may.
    Refuse,
}

impl Work {
    pub const ALL: [Self; 12] = [
        Self::Start,
        Self::Checkpoint,
        Self::CheckpointAfresh,
        Self::Pause,
        Self::Delete,
        Self::Update,
        Self::Read,
        Self::Build,
        Self::BuildStatus,
        Self::BuildDelete,
        Self::Upload,
        Self::PeerRead,
    ];
}

/// What a node in `phase` answers to `work`.
#[must_use]
pub const fn may(work: Work, phase: NodePhase) -> Admission {
    use Admission as A;
    use NodePhase as P;
    use Work as W;
    match (phase, work) {
        // It does not know yet what it has: "there is none" would be a guess.
        (P::Starting, W::Read) => A::Admit,
        (P::Starting, _) => A::Refuse,
        (P::Healthy | P::Standby | P::Unhealthy, _) => A::Admit,
        (P::Draining, W::Start | W::Build) => A::Refuse,
        // Of a sandbox that was let in; what it needs is under that admission.
        (P::Draining, _) => A::Admit,
        // The same teardown, not a second one.
        (P::Forcing | P::ForceFailed, W::Delete) => A::Join,
        // It reduces work, or reads.
        (
            P::Forcing | P::ForceFailed,
            W::Pause | W::Read | W::BuildStatus | W::BuildDelete | W::PeerRead,
        ) => A::Admit,
        (
            P::Forcing | P::ForceFailed,
            W::Start | W::Checkpoint | W::CheckpointAfresh | W::Update | W::Build | W::Upload,
        ) => A::Refuse,
        // There is nothing: whoever wants to be rid of something is told that it is gone.
        (P::Stopped, W::Read | W::Delete | W::BuildStatus | W::BuildDelete) => A::Admit,
        (
            P::Stopped,
            W::Start
            | W::Checkpoint
            | W::CheckpointAfresh
            | W::Pause
            | W::Update
            | W::Build
            | W::Upload
            | W::PeerRead,
        ) => A::Refuse,
    }
}

#[cfg(test)]
mod tests {
    use super::{Admission, Work, may};
    use crate::NodePhase::{
        self, Draining, ForceFailed, Forcing, Healthy, Standby, Starting, Stopped, Unhealthy,
    };

    const PHASES: [NodePhase; 8] =
        [Starting, Healthy, Standby, Unhealthy, Draining, Forcing, ForceFailed, Stopped];

    /// Every pair, by hand: rows are work, columns are phases in the order of `PHASES`.
    #[test]
    fn every_pair_of_work_and_phase_is_decided() {
        use Admission::{Admit as A, Join as J, Refuse as R};
        let rows = [
            (Work::Start, [R, A, A, A, R, R, R, R]),
            (Work::Checkpoint, [R, A, A, A, A, R, R, R]),
            (Work::CheckpointAfresh, [R, A, A, A, A, R, R, R]),
            (Work::Pause, [R, A, A, A, A, A, A, R]),
            (Work::Delete, [R, A, A, A, A, J, J, A]),
            (Work::Update, [R, A, A, A, A, R, R, R]),
            (Work::Read, [A, A, A, A, A, A, A, A]),
            (Work::Build, [R, A, A, A, R, R, R, R]),
            (Work::BuildStatus, [R, A, A, A, A, A, A, A]),
            (Work::BuildDelete, [R, A, A, A, A, A, A, A]),
            (Work::Upload, [R, A, A, A, A, R, R, R]),
            (Work::PeerRead, [R, A, A, A, A, A, A, R]),
        ];
        assert_eq!(PHASES, NodePhase::ALL);
        assert_eq!(rows.map(|(work, _)| work), Work::ALL);
        for (work, answers) in rows {
            for (phase, answer) in PHASES.into_iter().zip(answers) {
                assert_eq!(may(work, phase), answer, "{work:?} on a node that is {phase:?}");
            }
        }
    }

    #[test]
    fn a_node_that_drains_takes_no_new_work_and_stays_open_to_what_ends_it() {
        for phase in NodePhase::ALL {
            let answers = |work| may(work, phase);
            if phase.is_draining() {
                assert_eq!([Work::Start, Work::Build].map(answers), [Admission::Refuse; 2]);
                assert_ne!(answers(Work::Delete), Admission::Refuse);
                assert_ne!(answers(Work::BuildDelete), Admission::Refuse);
            }
            assert_eq!(answers(Work::Read), Admission::Admit, "{phase:?}");
            assert!(!phase.is_eligible() || answers(Work::Start) == Admission::Admit);
        }
    }
}
