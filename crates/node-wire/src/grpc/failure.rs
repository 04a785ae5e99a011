//! Errors on the wire: a code and a text with E2B's wording, and a detail for programs.
//!
//! The detail is a `google.rpc.ErrorInfo` of the domain `cofferdam`; from it the client makes the
//! same value again that the node gave. Without one, only the code is known.

mod pause;
mod reason;
mod told;

use connectrpc::{ConnectError, ErrorCode, ErrorDetail};

use super::proto::google::rpc::ErrorInfo;
use crate::{BuildError, CreateError, NodeError, StatusError};

pub(super) use reason::Reason;
pub(super) use told::{
    build_error, create_error, node_error, pause_error, remove_error, sandbox_error, status_error,
};

const DOMAIN: &str = "cofferdam";
const DETAIL: &str = "google.rpc.ErrorInfo";

/// Text of an error beyond this is cut: all of it travels in trailers, which have a limit.
const MAX_TEXT_BYTES: usize = 2048;

/// E2B's texts, which its control plane shows or looks for.
const DRAINING: &str = "orchestrator is draining";
const NO_WAY_BACK: &str = "service drain cannot be reversed";

/// An error about to be told.
#[derive(Debug)]
pub(super) struct Failure {
    code: ErrorCode,
    reason: Reason,
    text: String,
    facts: Vec<(&'static str, String)>,
}

impl Failure {
    pub(super) fn new(code: ErrorCode, reason: Reason, text: impl Into<String>) -> Self {
        Self { code, reason, text: text.into(), facts: Vec::new() }
    }

    /// The same, as another of E2B's calls puts it.
    pub(super) fn told_as(self, code: ErrorCode, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), ..self }
    }

    pub(super) fn is_not_found(&self) -> bool {
        self.code == ErrorCode::NotFound
    }

    /// What is asked for is understood, and not to be had from this node.
    pub(super) fn unsupported(text: impl Into<String>) -> Self {
        Self::new(ErrorCode::Unimplemented, Reason::Unsupported, text)
    }

    pub(super) fn invalid(text: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidArgument, Reason::InvalidRequest, text)
    }

    /// A stream is ended because its listener is.
    pub(super) fn stopping() -> Self {
        Self::new(ErrorCode::Unavailable, Reason::ServerStopping, "the node stopped serving")
    }

    /// A stream of events is not whole any more.
    pub(super) fn missed(events: u64) -> Self {
        let text = format!("{events} events were missed; watch again, then list");
        Self::new(ErrorCode::DataLoss, Reason::EventsMissed, text)
    }

    fn fact(mut self, name: &'static str, value: impl ToString) -> Self {
        self.facts.push((name, value.to_string()));
        self
    }
}

impl From<Failure> for ConnectError {
    fn from(failure: Failure) -> Self {
        let Failure { code, reason, text, facts } = failure;
        let metadata = facts.into_iter().map(|(name, value)| (name.to_owned(), cut(value)));
        let info = ErrorInfo {
            reason: reason.as_str().to_owned(),
            domain: DOMAIN.to_owned(),
            metadata: metadata.collect(),
            ..ErrorInfo::default()
        };
        Self::new(code, cut(text)).with_detail(ErrorDetail::from_message(DETAIL, &info))
    }
}

fn cut(mut text: String) -> String {
    if text.len() > MAX_TEXT_BYTES {
        text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES));
        text.push('\u{2026}');
    }
    text
}

impl From<CreateError> for Failure {
    fn from(error: CreateError) -> Self {
        use ErrorCode as C;
        use Reason as R;
        match error {
            CreateError::Draining => Self::new(C::Unavailable, R::NodeDraining, DRAINING),
            CreateError::Starting => {
                Self::new(C::Unavailable, R::NodeStarting, "orchestrator is starting")
            }
            CreateError::Full { limit } => {
                let text = format!(
                    "max number of running sandboxes on node reached ({limit}), please retry"
                );
                Self::new(C::ResourceExhausted, R::NodeFull, text).fact("limit", limit)
            }
            CreateError::TooManyStarting { limit } => {
                let text = "too many sandboxes starting on this node, please retry";
                Self::new(C::ResourceExhausted, R::TooManyStarting, text).fact("limit", limit)
            }
            CreateError::DiskFull { free_mib, reserve_mib } => {
                let text = CreateError::DiskFull { free_mib, reserve_mib }.to_string();
                Self::new(C::ResourceExhausted, R::DiskFull, text)
                    .fact("free_mib", free_mib)
                    .fact("reserve_mib", reserve_mib)
            }
            CreateError::AlreadyExists(id) => {
                let text = format!("sandbox '{id}' already exists");
                Self::new(C::AlreadyExists, R::AlreadyExists, text).fact("id", id)
            }
            CreateError::NotPaused(id) => {
                let text = format!("sandbox files for '{id}' not found");
                Self::new(C::FailedPrecondition, R::NotPaused, text).fact("id", id)
            }
            CreateError::UnknownTemplate(id) => {
                let text = format!("sandbox files for '{id}' not found");
                Self::new(C::FailedPrecondition, R::UnknownTemplate, text).fact("id", id)
            }
            CreateError::Invalid(why) => {
                Self::new(C::InvalidArgument, R::InvalidRequest, why.clone()).fact("message", why)
            }
            CreateError::Failed { step, message } => {
                let text = format!("failed to create sandbox: {step}: {message}");
                Self::new(C::Internal, R::StartFailed, text)
                    .fact("step", step)
                    .fact("message", message)
            }
            CreateError::Expired { step, limit_ms } => {
                let text = format!("failed to create sandbox: {step} ran past {limit_ms} ms");
                Self::new(C::Internal, R::StartExpired, text)
                    .fact("step", step)
                    .fact("limit_ms", limit_ms)
            }
            CreateError::Cancelled => {
                let text = "failed to create sandbox: it was ended while it started";
                Self::new(C::Aborted, R::StartCancelled, text)
            }
            CreateError::Unreachable(why) => Self::unreachable(why),
        }
    }
}

impl From<NodeError> for Failure {
    fn from(error: NodeError) -> Self {
        match error {
            NodeError::NotFound(id) => {
                let text = format!("sandbox '{id}' not found");
                Self::new(ErrorCode::NotFound, Reason::SandboxNotFound, text).fact("id", id)
            }
            NodeError::Stuck { id, left } => {
                let text = format!("failed to delete sandbox '{id}'");
                Self::new(ErrorCode::Internal, Reason::SandboxStuck, text)
                    .fact("id", id)
                    .fact("left", left)
            }
            NodeError::Unreachable(why) => Self::unreachable(why),
            NodeError::Internal(why) => Self::internal(why),
        }
    }
}

impl From<StatusError> for Failure {
    fn from(error: StatusError) -> Self {
        match error {
            StatusError::DrainIsFinal(is_final) => {
                Self::new(ErrorCode::FailedPrecondition, Reason::DrainIsFinal, NO_WAY_BACK)
                    .fact("from", is_final.from.as_str())
            }
            StatusError::Stale(difference) => {
                let text = format!("the node {difference}");
                Self::new(ErrorCode::Aborted, Reason::StatusIsStale, text)
                    .fact("difference", difference)
            }
            StatusError::Unreachable(why) => Self::unreachable(why),
            StatusError::Internal(why) => Self::internal(why),
        }
    }
}

impl From<BuildError> for Failure {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::Draining => CreateError::Draining.into(),
            BuildError::Starting => CreateError::Starting.into(),
            BuildError::AlreadyExists(id) => {
                let text = format!("build {id} already exists");
                Self::new(ErrorCode::AlreadyExists, Reason::AlreadyExists, text).fact("id", id)
            }
            BuildError::TooMany { limit } => {
                let text = BuildError::TooMany { limit }.to_string();
                Self::new(ErrorCode::ResourceExhausted, Reason::TooManyBuilds, text)
                    .fact("limit", limit)
            }
            BuildError::NotFound(id) => {
                let text = format!("build {id} not found");
                Self::new(ErrorCode::NotFound, Reason::BuildNotFound, text).fact("id", id)
            }
            BuildError::Unsupported(alias) => {
                let text = BuildError::Unsupported(alias.clone()).to_string();
                Self::unsupported(text).fact("alias", alias)
            }
            BuildError::Unreachable(why) => Self::unreachable(why),
        }
    }
}

impl Failure {
    fn unreachable(why: String) -> Self {
        let text = format!("the node cannot be reached: {why}");
        Self::new(ErrorCode::Unavailable, Reason::NodeUnreachable, text).fact("message", why)
    }

    fn internal(why: String) -> Self {
        Self::new(ErrorCode::Internal, Reason::NodeFailed, why.clone()).fact("message", why)
    }
}
