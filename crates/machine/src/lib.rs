//! Machines: the isolated things sandboxes run in, behind one trait, and their drivers.
//!
//! A driver makes a machine in a slot and a cgroup that it is given, and releases what it made
//! beside processes from a name alone. It does not decide when: that is the node's.
//!
//! The trait does not assume that a machine shares the host's kernel.

mod container;
mod driver;

pub use container::{Container, ContainerConfig, Runtime, RuntimeError};
pub use driver::{BootError, BootSpec, Driver, Held, Part, Stop, Stopped};
