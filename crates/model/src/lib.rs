//! The words of Cofferdam: ids, phases and their legal transitions, sizes, specs, policies.
//!
//! Pure: no clock, no I/O, no Linux, no wire format. Other crates convert at their edges.

pub mod admission;
mod egress;
mod id;
mod node_phase;
mod sandbox_phase;
mod secret;
mod spec;

pub use egress::{
    ALWAYS_DENIED, AUTHORITIES_MAX, Credentials, DomainError, DomainPattern, Egress, HeaderRule,
    HostName, Ipv4Range, ProxyError, ProxyTls, RangeError, RequestPattern, Scheme, SocksProxy,
};
pub use id::{BuildId, IdError, LifecycleId, NodeId, SandboxId, TeamId, TemplateId};
pub use node_phase::{Change, DrainIsFinal, NodePhase, NodeRequest};
pub use sandbox_phase::{Operation, SandboxEvent, SandboxPhase, Verdict};
pub use secret::Secret;
pub use spec::{EndReason, Keep, OnTimeout, Resources, SandboxSpec};
