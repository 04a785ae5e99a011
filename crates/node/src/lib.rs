//! The node daemon: runs sandboxes on one host.
//!
//! Admission, provision, supervision, teardown, reclaim, status. It does not choose hosts, does not
//! speak E2B's wire, and proxies no traffic.

mod admission;
mod api;
mod builds;
mod config;
mod drain;
mod entry;
mod gauges;
mod leaks;
mod ledger;
mod metrics;
mod pool;
mod processor;
mod provision;
mod pulse;
mod reclaim;
mod registry;
mod shutdown;
mod start;
mod status;
mod supervise;
mod sync;
mod teardown;

pub use config::{Config, LimitsPolicy};
pub use gauges::{Gauges, Slots};
pub use leaks::{LeakReport, LeaksError, leaks};
pub use provision::CREATE_POINTS;
pub use shutdown::{Escalation, ShutdownReport, StopPlan};
pub use start::{Node, StartError};
pub use teardown::Step;
