//! Owners of Linux objects: processes, cgroups, network slots, mounts, firewall tables; and the
//! census that lists every one of them that is ours.
//!
//! Knows Linux and no phases: what a sandbox is, and when it may be torn down, is not decided
//! here. The only crate with `unsafe`, and only in the modules that say so.

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!("Cofferdam's host layer is written for x86_64 Linux (clone3 entry, seccomp policy)");

pub mod census;
pub mod cgroup;
pub mod fault;
pub mod files;
pub mod identity;
pub mod inherited;
pub mod mount;
pub mod net;
pub mod probe;
pub mod process;
pub mod view;

mod error;
mod proc;
mod ready;
mod thread;

pub use error::HostError;
pub use fault::{Fault, Faults};
pub use identity::{Claim, Mark};
pub use thread::blocking;
