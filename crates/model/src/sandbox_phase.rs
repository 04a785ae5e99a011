//! The life of one run of a sandbox (a lifecycle), as a pure table.

/// Where a lifecycle stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SandboxPhase {
    /// Admitted and named; nothing has been acquired.
    Reserved,
    /// Resources are being acquired and the machine is being made.
    Booting,
    /// The guest agent answered; the sandbox is routable.
    Live,
    /// Its end was decided; the machine is being killed.
    Stopping,
    /// The release steps run.
    TearingDown,
    /// A release step failed; it is kept and retried.
    Stuck,
    /// Everything is confirmed gone.
    Stopped,
}

/// What can happen to a lifecycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SandboxEvent {
    /// The first resource is about to be acquired.
    Acquire,
    /// The guest agent answered.
    Ready,
    /// Somebody or something wants it to end: a request, the time limit, a crash, a failed start.
    End,
    /// The machine is dead; releasing begins.
    Release,
    /// A release round ended with steps left.
    Fail,
    /// The last step was confirmed.
    Confirm,
}

/// An event that has no meaning in a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{event:?} cannot happen in phase {from:?}")]
pub struct Illegal {
    pub from: SandboxPhase,
    pub event: SandboxEvent,
}

impl SandboxEvent {
    pub const ALL: [Self; 6] =
        [Self::Acquire, Self::Ready, Self::End, Self::Release, Self::Fail, Self::Confirm];
}

impl SandboxPhase {
    pub const ALL: [Self; 7] = [
        Self::Reserved,
        Self::Booting,
        Self::Live,
        Self::Stopping,
        Self::TearingDown,
        Self::Stuck,
        Self::Stopped,
    ];

    /// The phase after `event`.
    ///
    /// # Errors
    /// [`Illegal`] when the event has no meaning here; the phase is unchanged then.
    pub const fn on(self, event: SandboxEvent) -> Result<Self, Illegal> {
        use SandboxEvent as E;
        use SandboxPhase as P;
        match (self, event) {
            (P::Reserved, E::Acquire) => Ok(P::Booting),
            (P::Booting, E::Ready) => Ok(P::Live),
            (P::Reserved | P::Booting | P::Live | P::Stopping, E::End) => Ok(P::Stopping),
            // Asking again for the end of what is going already changes nothing.
            (P::TearingDown, E::End) => Ok(P::TearingDown),
            (P::Stopped, E::End) => Ok(P::Stopped),
            (P::Stopping | P::Stuck, E::Release) | (P::Stuck, E::End) => Ok(P::TearingDown),
            (P::TearingDown, E::Fail) => Ok(P::Stuck),
            (P::TearingDown, E::Confirm) => Ok(P::Stopped),
            (from, event) => Err(Illegal { from, event }),
        }
    }

    /// Whether traffic may be sent to it.
    #[must_use]
    pub const fn is_routable(self) -> bool {
        matches!(self, Self::Live)
    }

    /// Whether it may still hold something on the host.
    #[must_use]
    pub const fn holds_resources(self) -> bool {
        !matches!(self, Self::Stopped)
    }
}

#[cfg(test)]
mod tests {
    use super::{SandboxEvent, SandboxPhase};

    /// Every pair, by hand: the table as a person reads it.
    #[test]
    fn every_pair_of_phase_and_event_is_decided() {
        use SandboxPhase::{Booting, Live, Reserved, Stopped, Stopping, Stuck, TearingDown};
        let rows: [(SandboxPhase, [Option<SandboxPhase>; 6]); 7] = [
            //             Acquire        Ready       End                Release            Fail         Confirm
            (Reserved, [Some(Booting), None, Some(Stopping), None, None, None]),
            (Booting, [None, Some(Live), Some(Stopping), None, None, None]),
            (Live, [None, None, Some(Stopping), None, None, None]),
            (Stopping, [None, None, Some(Stopping), Some(TearingDown), None, None]),
            (TearingDown, [None, None, Some(TearingDown), None, Some(Stuck), Some(Stopped)]),
            (Stuck, [None, None, Some(TearingDown), Some(TearingDown), None, None]),
            (Stopped, [None, None, Some(Stopped), None, None, None]),
        ];
        for (phase, nexts) in rows {
            for (event, next) in SandboxEvent::ALL.into_iter().zip(nexts) {
                assert_eq!(phase.on(event).ok(), next, "{phase:?} on {event:?}");
            }
        }
        assert_eq!(rows.map(|(phase, _)| phase), SandboxPhase::ALL);
    }

    #[test]
    fn only_a_live_sandbox_is_routable_and_only_a_stopped_one_holds_nothing() {
        for phase in SandboxPhase::ALL {
            assert_eq!(phase.is_routable(), phase == SandboxPhase::Live);
            assert_eq!(phase.holds_resources(), phase != SandboxPhase::Stopped);
        }
    }
}
