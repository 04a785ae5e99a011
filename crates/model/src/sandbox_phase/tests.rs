use super::{Operation, SandboxEvent, SandboxPhase, Verdict};

use SandboxPhase::{
    Booting, Checkpointing, Live, Paused, Pausing, Reserved, Stopped, Stopping, Stuck, TearingDown,
};

/// Every pair, by hand: the table as a person reads it. An event that is not named is illegal.
#[test]
fn every_pair_of_phase_and_event_is_decided() {
    use SandboxEvent::{
        Acquire, Checkpoint, Confirm, End, Fail, Freeze, Pause, Ready, Release, Seal, Thaw,
    };
    let rows: [(SandboxPhase, &[(SandboxEvent, SandboxPhase)]); 10] = [
        (Reserved, &[(Acquire, Booting), (End, Stopping)]),
        (Booting, &[(Ready, Live), (End, Stopping)]),
        (Live, &[(Checkpoint, Checkpointing), (Pause, Pausing), (End, Stopping)]),
        (Checkpointing, &[(Seal, Live), (End, Stopping)]),
        (Pausing, &[(Freeze, Paused), (Thaw, Live), (End, Stopping)]),
        (Paused, &[(Thaw, Live), (End, Stopping)]),
        (Stopping, &[(End, Stopping), (Release, TearingDown)]),
        (TearingDown, &[(End, TearingDown), (Fail, Stuck), (Confirm, Stopped)]),
        (Stuck, &[(End, TearingDown), (Release, TearingDown)]),
        (Stopped, &[(End, Stopped)]),
    ];
    assert_eq!(rows.map(|(phase, _)| phase), SandboxPhase::ALL);
    for (phase, legal) in rows {
        for event in SandboxEvent::ALL {
            let next = legal.iter().find(|(legal, _)| *legal == event).map(|(_, next)| *next);
            assert_eq!(phase.on(event).ok(), next, "{phase:?} on {event:?}");
        }
    }
}

/// Every pair, by hand: rows are phases, columns are operations.
#[test]
fn every_pair_of_phase_and_operation_is_decided() {
    use Verdict::{Admit as A, AlreadyExists as X, Busy as B, Done as D, Join as J, NotFound as N};
    // create, update, pause, resume, checkpoint, delete, force
    let rows = [
        (Reserved, [X, N, N, X, N, A, A]),
        (Booting, [X, N, N, X, N, A, A]),
        (Live, [X, A, A, X, A, A, A]),
        (Checkpointing, [X, A, B, X, B, A, A]),
        (Pausing, [X, B, J, B, B, A, A]),
        (Paused, [X, N, D, A, N, A, A]),
        (Stopping, [X, N, N, N, N, J, J]),
        (TearingDown, [X, N, N, N, N, J, J]),
        (Stuck, [X, N, N, N, N, J, J]),
        (Stopped, [A, N, N, N, N, N, N]),
    ];
    assert_eq!(rows.map(|(phase, _)| phase), SandboxPhase::ALL);
    for (phase, verdicts) in rows {
        for (operation, verdict) in Operation::ALL.into_iter().zip(verdicts) {
            assert_eq!(phase.may(operation), verdict, "{operation:?} of {phase:?}");
        }
    }
}

#[test]
fn a_sandbox_is_routable_while_it_runs_and_only_a_stopped_one_holds_nothing() {
    for phase in SandboxPhase::ALL {
        assert_eq!(phase.is_routable(), matches!(phase, Live | Checkpointing));
        assert_eq!(phase.holds_resources(), phase != Stopped);
    }
}

/// What must hold between the two tables: what may be asked for can happen, and who is let in by
/// one is not told by the other that there is nothing.
#[test]
fn what_is_admitted_can_happen_and_every_sandbox_can_be_ended() {
    for phase in SandboxPhase::ALL {
        let admits = |operation| phase.may(operation) == Verdict::Admit;
        assert_eq!(admits(Operation::Checkpoint), phase.on(SandboxEvent::Checkpoint).is_ok());
        assert_eq!(admits(Operation::Pause), phase.on(SandboxEvent::Pause).is_ok());
        assert!(phase.on(SandboxEvent::End).is_ok(), "{phase:?} cannot be ended");
        assert_eq!(phase.may(Operation::Delete) == Verdict::NotFound, !phase.holds_resources());
        assert_eq!(admits(Operation::CreateSameId), !phase.holds_resources());
    }
}
