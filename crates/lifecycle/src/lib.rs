//! Time, admission, tasks and teardown: the vocabulary every daemon uses to stop cleanly.
//!
//! Knows nothing about sandboxes, Linux objects or the wire.

mod attempt;
mod budget;
mod gate;
mod owned;
mod sync;
mod task_group;
mod teardown;

pub use attempt::{Attempts, Ended, Joined};
pub use budget::{Budget, Expired};
pub use gate::{Gate, GateClosed, Pass};
pub use owned::{Closed, Owned, Release, close_in};
pub use task_group::TaskGroup;
pub use teardown::{Plan, StepFailure, StepName};
