/// Why, for programs. Names are part of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::grpc) enum Reason {
    NodeDraining,
    NodeStarting,
    NodeFull,
    TooManyStarting,
    DiskFull,
    AlreadyExists,
    NotPaused,
    UnknownTemplate,
    InvalidRequest,
    StartFailed,
    StartExpired,
    StartCancelled,
    SandboxNotFound,
    SandboxStuck,
    SandboxPaused,
    SandboxBusy,
    AgentSilent,
    LimitReached,
    PauseFailed,
    SandboxLost,
    DrainIsFinal,
    StatusIsStale,
    BuildNotFound,
    TooManyBuilds,
    TemplateNotFound,
    TemplateInUse,
    Unsupported,
    NodeUnreachable,
    NodeFailed,
    ServerStopping,
    EventsMissed,
}

impl Reason {
    const ALL: [Self; 31] = [
        Self::NodeDraining,
        Self::NodeStarting,
        Self::NodeFull,
        Self::TooManyStarting,
        Self::DiskFull,
        Self::AlreadyExists,
        Self::NotPaused,
        Self::UnknownTemplate,
        Self::InvalidRequest,
        Self::StartFailed,
        Self::StartExpired,
        Self::StartCancelled,
        Self::SandboxNotFound,
        Self::SandboxStuck,
        Self::SandboxPaused,
        Self::SandboxBusy,
        Self::AgentSilent,
        Self::LimitReached,
        Self::PauseFailed,
        Self::SandboxLost,
        Self::DrainIsFinal,
        Self::StatusIsStale,
        Self::BuildNotFound,
        Self::TooManyBuilds,
        Self::TemplateNotFound,
        Self::TemplateInUse,
        Self::Unsupported,
        Self::NodeUnreachable,
        Self::NodeFailed,
        Self::ServerStopping,
        Self::EventsMissed,
    ];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::NodeDraining => "NODE_DRAINING",
            Self::NodeStarting => "NODE_STARTING",
            Self::NodeFull => "NODE_FULL",
            Self::TooManyStarting => "TOO_MANY_STARTING",
            Self::DiskFull => "DISK_FULL",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::NotPaused => "NOT_PAUSED",
            Self::UnknownTemplate => "UNKNOWN_TEMPLATE",
            Self::InvalidRequest => "INVALID_REQUEST",
            Self::StartFailed => "START_FAILED",
            Self::StartExpired => "START_EXPIRED",
            Self::StartCancelled => "START_CANCELLED",
            Self::SandboxNotFound => "SANDBOX_NOT_FOUND",
            Self::SandboxStuck => "SANDBOX_STUCK",
            Self::SandboxPaused => "SANDBOX_PAUSED",
            Self::SandboxBusy => "SANDBOX_BUSY",
            Self::AgentSilent => "AGENT_SILENT",
            Self::LimitReached => "LIMIT_REACHED",
            Self::PauseFailed => "PAUSE_FAILED",
            Self::SandboxLost => "SANDBOX_LOST",
            Self::DrainIsFinal => "DRAIN_IS_FINAL",
            Self::StatusIsStale => "STATUS_IS_STALE",
            Self::BuildNotFound => "BUILD_NOT_FOUND",
            Self::TooManyBuilds => "TOO_MANY_BUILDS",
            Self::TemplateNotFound => "TEMPLATE_NOT_FOUND",
            Self::TemplateInUse => "TEMPLATE_IN_USE",
            Self::Unsupported => "UNSUPPORTED",
            Self::NodeUnreachable => "NODE_UNREACHABLE",
            Self::NodeFailed => "NODE_FAILED",
            Self::ServerStopping => "SERVER_STOPPING",
            Self::EventsMissed => "EVENTS_MISSED",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }
}

#[cfg(test)]
mod tests {
    use super::Reason;

    #[test]
    fn every_reason_is_found_by_its_own_word() {
        for reason in Reason::ALL {
            assert_eq!(Reason::parse(reason.as_str()), Some(reason));
        }
        assert_eq!(Reason::parse("ANOTHER"), None);
    }
}
