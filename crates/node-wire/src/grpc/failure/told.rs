//! The way back: from a status to the error the node gave.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use buffa::Message as _;
use connectrpc::{ConnectError, ErrorCode};
use model::{BuildId, DrainIsFinal, NodePhase, SandboxId, TemplateId};

use super::{DETAIL, DOMAIN, Reason};
use crate::grpc::convert::word;
use crate::grpc::proto::google::rpc::ErrorInfo;
use crate::{BuildError, CreateError, NodeError, PauseError, RemoveError, StatusError};

/// A status as it arrived.
struct Told {
    code: ErrorCode,
    text: String,
    reason: Option<Reason>,
    facts: HashMap<String, String>,
}

impl Told {
    fn of(error: ConnectError) -> Self {
        let detail = error.details.iter().find(|detail| detail.type_url.ends_with(DETAIL));
        let info = detail
            .and_then(|detail| detail.value.as_deref())
            .and_then(|value| STANDARD_NO_PAD.decode(value.trim_end_matches('=')).ok())
            .and_then(|bytes| ErrorInfo::decode_from_slice(&bytes).ok())
            .filter(|info| info.domain == DOMAIN)
            .unwrap_or_default();
        Self {
            code: error.code,
            text: error.message.unwrap_or_else(|| error.code.as_str().to_owned()),
            reason: Reason::parse(&info.reason),
            facts: info.metadata.into_iter().collect(),
        }
    }

    fn fact(&self, name: &str) -> String {
        self.facts.get(name).cloned().unwrap_or_default()
    }

    /// Zero when it is missing: only the wording of the error depends on it.
    fn number<N: std::str::FromStr + Default>(&self, name: &str) -> N {
        self.facts.get(name).and_then(|text| text.parse().ok()).unwrap_or_default()
    }

    /// Whether nobody answered, or only someone who could not ask the node.
    fn is_unreachable(&self) -> bool {
        match self.reason {
            Some(Reason::NodeUnreachable | Reason::ServerStopping) => true,
            Some(_) => false,
            None => matches!(self.code, ErrorCode::Unavailable | ErrorCode::DeadlineExceeded),
        }
    }

    /// The text for a person: what the node said, or what its status did.
    fn message(self) -> String {
        self.facts.get("message").cloned().unwrap_or(self.text)
    }
}

pub(in crate::grpc) fn create_error(error: ConnectError) -> CreateError {
    let told = Told::of(error);
    match told.reason {
        Some(Reason::NodeDraining) => CreateError::Draining,
        Some(Reason::NodeStarting) => CreateError::Starting,
        Some(Reason::NodeFull) => CreateError::Full { limit: told.number("limit") },
        Some(Reason::TooManyStarting) => {
            CreateError::TooManyStarting { limit: told.number("limit") }
        }
        Some(Reason::DiskFull) => CreateError::DiskFull {
            free_mib: told.number("free_mib"),
            reserve_mib: told.number("reserve_mib"),
        },
        Some(Reason::AlreadyExists) => CreateError::AlreadyExists(told.fact("id")),
        Some(Reason::NotPaused) => CreateError::NotPaused(told.fact("id")),
        Some(Reason::UnknownTemplate) => CreateError::UnknownTemplate(told.fact("id")),
        Some(Reason::InvalidRequest) => CreateError::Invalid(told.message()),
        Some(Reason::StartFailed) => {
            CreateError::Failed { step: word(&told.fact("step")), message: told.message() }
        }
        Some(Reason::StartExpired) => CreateError::Expired {
            step: word(&told.fact("step")),
            limit_ms: told.number("limit_ms"),
        },
        Some(Reason::StartCancelled) => CreateError::Cancelled,
        _ if told.is_unreachable() => CreateError::Unreachable(told.message()),
        _ => CreateError::Failed { step: "call", message: told.message() },
    }
}

pub(in crate::grpc) fn node_error(error: ConnectError) -> NodeError {
    told_error(Told::of(error))
}

/// `asked` is the sandbox the call was about.
pub(in crate::grpc) fn sandbox_error(error: ConnectError, asked: &SandboxId) -> NodeError {
    let told = Told::of(error);
    match (told.reason, told.code) {
        // A server that gives no reasons.
        (None, ErrorCode::NotFound) => NodeError::NotFound(asked.to_string()),
        _ => told_error(told),
    }
}

fn told_error(told: Told) -> NodeError {
    match told.reason {
        Some(Reason::SandboxNotFound) => NodeError::NotFound(told.fact("id")),
        Some(Reason::SandboxStuck) => {
            NodeError::Stuck { id: told.fact("id"), left: told.fact("left") }
        }
        _ if told.is_unreachable() => NodeError::Unreachable(told.message()),
        _ => NodeError::Internal(told.message()),
    }
}

pub(in crate::grpc) fn status_error(error: ConnectError) -> StatusError {
    let told = Told::of(error);
    match told.reason {
        Some(Reason::DrainIsFinal) => {
            let from = told.fact("from");
            let from = NodePhase::ALL.into_iter().find(|phase| phase.as_str() == from);
            // Which of the draining phases it was changes nothing for the caller.
            DrainIsFinal { from: from.unwrap_or(NodePhase::Draining) }.into()
        }
        Some(Reason::StatusIsStale) => StatusError::Stale(told.fact("difference")),
        None if told.code == ErrorCode::FailedPrecondition => {
            DrainIsFinal { from: NodePhase::Draining }.into()
        }
        _ if told.is_unreachable() => StatusError::Unreachable(told.message()),
        _ => StatusError::Internal(told.message()),
    }
}

/// `asked` is the build the call was about.
pub(in crate::grpc) fn build_error(error: ConnectError, asked: &BuildId) -> BuildError {
    let told = Told::of(error);
    match told.reason {
        Some(Reason::NodeDraining) => BuildError::Draining,
        Some(Reason::NodeStarting) => BuildError::Starting,
        Some(Reason::AlreadyExists) => BuildError::AlreadyExists(asked.clone()),
        Some(Reason::TooManyBuilds) => BuildError::TooMany { limit: told.number("limit") },
        Some(Reason::BuildNotFound) => BuildError::NotFound(asked.clone()),
        Some(Reason::Unsupported) => BuildError::Unsupported(told.fact("alias")),
        // There is no other word for a node that answers, but not with an answer.
        _ => BuildError::Unreachable(told.message()),
    }
}

/// `asked` is the sandbox the call was about.
pub(in crate::grpc) fn pause_error(error: ConnectError, asked: &SandboxId) -> PauseError {
    let told = Told::of(error);
    match told.reason {
        Some(Reason::SandboxNotFound) => PauseError::NotFound(told.fact("id")),
        Some(Reason::SandboxPaused) => PauseError::Paused(told.fact("id")),
        Some(Reason::SandboxBusy) => PauseError::Busy(told.fact("id")),
        Some(Reason::AgentSilent) => PauseError::AgentSilent(told.fact("id")),
        Some(Reason::DiskFull) => PauseError::DiskFull {
            free_mib: told.number("free_mib"),
            reserve_mib: told.number("reserve_mib"),
        },
        Some(Reason::LimitReached) => PauseError::Limit(told.message()),
        Some(Reason::PauseFailed) => PauseError::Failed(told.message()),
        Some(Reason::SandboxLost) => PauseError::Lost(told.message()),
        None if told.code == ErrorCode::NotFound => PauseError::NotFound(asked.to_string()),
        // A node of an older version knows no such call, and one that did not like the request has
        // not begun.
        None if told.code == ErrorCode::Unimplemented => {
            PauseError::Failed("the node is of a version that cannot pause".to_owned())
        }
        Some(Reason::InvalidRequest) => PauseError::Failed(told.message()),
        // Whether it has begun is not known.
        _ => PauseError::Unreachable(told.message()),
    }
}

/// `asked` is the template the call was about.
pub(in crate::grpc) fn remove_error(error: ConnectError, asked: &TemplateId) -> RemoveError {
    let told = Told::of(error);
    match told.reason {
        Some(Reason::TemplateNotFound) => RemoveError::NotFound(told.fact("id")),
        Some(Reason::TemplateInUse) => RemoveError::InUse(told.fact("id")),
        None if told.code == ErrorCode::NotFound => RemoveError::NotFound(asked.to_string()),
        None if told.code == ErrorCode::Unimplemented => RemoveError::Internal(
            "the node is of a version that cannot remove templates".to_owned(),
        ),
        _ if told.is_unreachable() => RemoveError::Unreachable(told.message()),
        _ => RemoveError::Internal(told.message()),
    }
}
