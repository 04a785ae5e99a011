//! The commands, one file each.

pub(crate) mod config;
pub(crate) mod doctor;
pub(crate) mod images;
pub(crate) mod leaks;
pub(crate) mod node;
pub(crate) mod up;
