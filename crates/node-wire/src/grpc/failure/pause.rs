//! Why a sandbox was not paused, or a template not removed.

use connectrpc::ErrorCode;

use super::{Failure, Reason};
use crate::{CreateError, NodeError, PauseError, RemoveError};

impl From<PauseError> for Failure {
    /// E2B's control plane takes a sandbox for lost, and kills it, after every code of a checkpoint
    /// but FailedPrecondition and ResourceExhausted: whatever leaves it running has one of these.
    fn from(error: PauseError) -> Self {
        use ErrorCode as C;
        use Reason as R;
        let text = error.to_string();
        match error {
            PauseError::NotFound(id) => NodeError::NotFound(id).into(),
            PauseError::Paused(id) => {
                Self::new(C::FailedPrecondition, R::SandboxPaused, text).fact("id", id)
            }
            PauseError::Busy(id) => {
                Self::new(C::FailedPrecondition, R::SandboxBusy, text).fact("id", id)
            }
            PauseError::AgentSilent(id) => {
                Self::new(C::FailedPrecondition, R::AgentSilent, text).fact("id", id)
            }
            PauseError::DiskFull { free_mib, reserve_mib } => {
                CreateError::DiskFull { free_mib, reserve_mib }.into()
            }
            PauseError::Limit(why) => {
                Self::new(C::ResourceExhausted, R::LimitReached, text).fact("message", why)
            }
            PauseError::Failed(why) => {
                let text = format!("error snapshotting sandbox: {text}");
                Self::new(C::FailedPrecondition, R::PauseFailed, text).fact("message", why)
            }
            PauseError::Lost(why) => {
                let text = format!("error snapshotting sandbox: {text}");
                Self::new(C::Internal, R::SandboxLost, text).fact("message", why)
            }
            PauseError::Unreachable(why) => Self::unreachable(why),
        }
    }
}

impl From<RemoveError> for Failure {
    fn from(error: RemoveError) -> Self {
        let text = error.to_string();
        match error {
            RemoveError::NotFound(id) => {
                Self::new(ErrorCode::NotFound, Reason::TemplateNotFound, text).fact("id", id)
            }
            RemoveError::InUse(id) => {
                Self::new(ErrorCode::FailedPrecondition, Reason::TemplateInUse, text).fact("id", id)
            }
            RemoveError::Unreachable(why) => Self::unreachable(why),
            RemoveError::Internal(why) => Self::internal(why),
        }
    }
}
