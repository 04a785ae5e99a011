//! The commands, one file each.

pub(crate) mod config;
pub(crate) mod doctor;
pub(crate) mod handover;
pub(crate) mod images;
pub(crate) mod key;
pub(crate) mod leaks;
pub(crate) mod node;
pub(crate) mod sandbox;
pub(crate) mod team;
pub(crate) mod uninstall;
pub(crate) mod up;
