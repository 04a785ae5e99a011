//! Logging set-up, the fixed names of span fields, error chains, and metrics.

mod chain;
pub mod metrics;
mod setup;

pub use chain::{Chain, chain};
pub use setup::{LogFormat, SetupError, init};

/// Field names; used in every span and event that has the thing (R35).
pub mod field {
    pub const SANDBOX: &str = "sandbox.id";
    pub const LIFECYCLE: &str = "lifecycle.id";
    pub const NODE: &str = "node.id";
    pub const TEMPLATE: &str = "template.id";
    pub const TEAM: &str = "team.id";
    pub const STEP: &str = "step";
}
