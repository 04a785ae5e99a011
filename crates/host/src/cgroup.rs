//! cgroups: where they are on this host, one per sandbox, limits, a complete kill.

mod files;
mod group;
mod layout;
mod limits;
mod usage;

pub use group::{Cgroup, Cgroups};
pub use layout::{Kind, Layout};
pub use limits::{Limits, Support};
pub use usage::{Peak, Usage};
