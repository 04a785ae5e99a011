//! What a node is to the control plane and to the edge: calls, answers, events, routes.
//!
//! The services never depend on each other; they meet here. In one process the trait objects are
//! the node and the edge themselves, in a cluster they are clients.

mod api;
mod build;
mod drain;
mod error;
pub mod grpc;
mod history;
mod journal;
mod pause;
mod route;
mod status;
mod wake;

pub use api::{NodeApi, Started};
pub use build::{BuildError, BuildId, BuildRequest, BuildState, BuildStatus};
pub use drain::{
    AttemptStatus, Blocker, Class, ClassCount, DrainStatus, Expected, LeakItem, Leaks, StatusError,
};
pub use error::{CreateError, NodeError};
pub use history::{AdoptEnd, AdoptReport, Ending, ExplainedStep, Explanation};
pub use journal::{Journal, JournalLevel, JournalLine, JournalMark};
pub use pause::{
    NewSnapshot, PauseError, PauseOrder, PausedStatus, RemoveError, Resumed, SnapshotStatus,
};
pub use route::{Ingress, Route, Routes};
pub use status::{
    Enforcement, NodeEvent, NodeInfo, NodeMetrics, Processor, Sample, SandboxStatus, TemplateInfo,
};
pub use wake::{Knock, WakeError, Waker};
