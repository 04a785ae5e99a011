//! Templates on disk: where a sandbox's read-only root file system comes from.
//!
//! A [`Store`] is a directory of templates; [`base::build`] makes the first one. A template that
//! can be seen is whole: it is made under another name and renamed when it is on disk.
//!
//! This crate does not mount anything, does not run sandboxes, and knows no wire format.

mod command;
mod copy;
mod lease;
mod manifest;
mod store;
mod template;
mod tree;

pub mod base;

pub use command::CommandError;
pub use copy::{CopyError, copy_layer};
pub use lease::{Lease, LeaseError};
pub use store::{Draft, OpenError, PublishError, RemoveError, Store};
pub use template::{NewTemplate, Origin, Package, Template};
