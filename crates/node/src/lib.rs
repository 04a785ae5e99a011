//! The node daemon: runs sandboxes on one host.
//!
//! Admission, provision, supervision, teardown, reclaim, status. It does not choose hosts, does not
//! speak E2B's wire, and proxies no traffic.

mod admission;
mod adopt;
mod api;
mod backend;
mod builds;
mod closers;
mod config;
mod drain;
mod entry;
#[cfg(test)]
#[cfg(feature = "fault-injection")]
mod fake;
mod finish;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod gauges;
mod history;
mod janitor;
mod journal;
mod leaks;
mod leave;
mod ledger;
mod metrics;
mod pause;
mod pool;
mod processor;
mod provision;
mod pulse;
mod reclaim;
mod registry;
mod relief;
mod resume;
mod rounds;
mod shutdown;
mod start;
mod status;
mod supervise;
mod sync;
mod teardown;
#[cfg(test)]
#[cfg(feature = "fault-injection")]
mod tests;
mod upkeep;

pub use adopt::{ADOPT_POINTS, AdoptError};
pub use backend::CREATE_POINTS;
pub use config::{Config, LimitsPolicy};
pub use gauges::{Gauges, Slots};
pub use leaks::{LeakReport, LeaksError, leaks};
pub use leave::{LEAVE_POINTS, LeaveReport};
pub use pause::HALT_POINTS;
pub use shutdown::{Escalation, ShutdownReport, StopPlan};
pub use start::{Node, StartError, find};
pub use teardown::{SEAL_POINT, Step};
