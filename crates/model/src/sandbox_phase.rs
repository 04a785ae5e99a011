//! The life of one run of a sandbox (a lifecycle), as pure tables: what happens to it, and what may be
//! asked of it.

/// Where a lifecycle stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SandboxPhase {
    /// Admitted and named; nothing has been acquired.
    Reserved,
    /// Resources are being acquired and the machine is being made.
    Booting,
    /// The guest agent answered; the sandbox is routable.
    Live,
    /// A snapshot is taken in place; the machine halts for a moment and stays routable.
    Checkpointing,
    /// It is being paused; not routable any more.
    Pausing,
    /// Its machine stands still with everything it has, until somebody lets it go on.
    Paused,
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
    /// A snapshot begins after which the machine runs on.
    Checkpoint,
    /// A pause begins.
    Pause,
    /// What it keeps is safe and its machine stands still.
    Freeze,
    /// It runs again: it was paused long enough, or a pause has failed.
    Thaw,
    /// The snapshot is complete.
    Seal,
    /// Somebody or something wants it to end: a request, the time limit, a crash, a failed start
    /// or snapshot.
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
    pub const ALL: [Self; 11] = [
        Self::Acquire,
        Self::Ready,
        Self::Checkpoint,
        Self::Pause,
        Self::Freeze,
        Self::Thaw,
        Self::Seal,
        Self::End,
        Self::Release,
        Self::Fail,
        Self::Confirm,
    ];
}

impl SandboxPhase {
    pub const ALL: [Self; 10] = [
        Self::Reserved,
        Self::Booting,
        Self::Live,
        Self::Checkpointing,
        Self::Pausing,
        Self::Paused,
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
            (P::Booting, E::Ready)
            | (P::Checkpointing, E::Seal)
            | (P::Pausing | P::Paused, E::Thaw) => Ok(P::Live),
            (P::Live, E::Checkpoint) => Ok(P::Checkpointing),
            (P::Live, E::Pause) => Ok(P::Pausing),
            (P::Pausing, E::Freeze) => Ok(P::Paused),
            (
                P::Reserved
                | P::Booting
                | P::Live
                | P::Checkpointing
                | P::Pausing
                | P::Paused
                | P::Stopping,
                E::End,
            ) => Ok(P::Stopping),
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
        matches!(self, Self::Live | Self::Checkpointing)
    }

    /// Whether it may still hold something on the host.
    #[must_use]
    pub const fn holds_resources(self) -> bool {
        !matches!(self, Self::Stopped)
    }

    /// The answer to `operation` on a sandbox whose lifecycle is in this phase. One that is not
    /// there is [`SandboxPhase::Stopped`].
    #[must_use]
    pub const fn may(self, operation: Operation) -> Verdict {
        use Operation as O;
        use SandboxPhase as P;
        use Verdict as V;
        match (self, operation) {
            (P::Stopped, O::CreateSameId) => V::Admit,
            // Two lifecycles of one id would be two holders of what is named after it.
            (_, O::CreateSameId) => V::AlreadyExists,
            (P::Live | P::Checkpointing, O::Update)
            | (P::Live, O::Pause | O::Checkpoint)
            // Ends a start as well as a snapshot: nobody has to wait to be rid of a sandbox.
            | (
                P::Reserved | P::Booting | P::Live | P::Checkpointing | P::Pausing | P::Paused,
                O::Delete | O::Force,
            )
            | (P::Paused, O::Resume) => V::Admit,
            (P::Pausing, O::Update | O::Checkpoint | O::Resume)
            // Two snapshots of one moment would have to share what each may delete.
            | (P::Checkpointing, O::Pause | O::Checkpoint) => V::Busy,
            (P::Reserved | P::Booting | P::Live | P::Checkpointing, O::Resume) => V::AlreadyExists,
            (P::Paused, O::Pause) => V::Done,
            (P::Pausing, O::Pause)
            | (P::Stopping | P::TearingDown | P::Stuck, O::Delete | O::Force) => V::Join,
            (P::Reserved | P::Booting, O::Update | O::Pause | O::Checkpoint)
            | (P::Paused, O::Update | O::Checkpoint)
            | (
                P::Stopping | P::TearingDown | P::Stuck,
                O::Update | O::Pause | O::Resume | O::Checkpoint,
            )
            | (
                P::Stopped,
                O::Update | O::Pause | O::Resume | O::Checkpoint | O::Delete | O::Force,
            ) => V::NotFound,
        }
    }
}

/// What is asked of a sandbox by its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A new sandbox under the same id.
    CreateSameId,
    /// Its end or its network is changed.
    Update,
    /// Halt it.
    Pause,
    /// Let it go on.
    Resume,
    /// Snapshot it and run on.
    Checkpoint,
    Delete,
    /// The node ends everything.
    Force,
}

/// What becomes of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It begins.
    Admit,
    /// The same is under way: it waits for that and has its outcome. A teardown that is stuck is
    /// tried again.
    Join,
    /// There is no such sandbox to its caller.
    NotFound,
    AlreadyExists,
    /// It is as it is asked to be.
    Done,
    /// Something that excludes it is under way.
    Busy,
}

impl Operation {
    pub const ALL: [Self; 7] = [
        Self::CreateSameId,
        Self::Update,
        Self::Pause,
        Self::Resume,
        Self::Checkpoint,
        Self::Delete,
        Self::Force,
    ];
}

#[cfg(test)]
mod tests;
