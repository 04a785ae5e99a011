//! Files and directories of the sandbox: what they are, and making, moving, removing them.
//! Everything is done as root; the acting user decides what a path means and owns what is new.

mod directories;
mod entry;
mod list;
mod metadata;
mod service;

pub(crate) use directories::make_all;
pub(crate) use entry::{entry_at, path_text};
pub(crate) use metadata::Metadata;
pub(crate) use service::{FilesystemService, trim};
