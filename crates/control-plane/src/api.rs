//! The handlers: decode, call, encode.

pub(crate) mod admin;
pub(crate) mod explain;
pub(crate) mod health;
pub(crate) mod keys;
pub(crate) mod logs;
pub(crate) mod metrics;
pub(crate) mod network;
pub(crate) mod nodes;
pub(crate) mod pause;
pub(crate) mod sandboxes;
pub(crate) mod snapshots;
pub(crate) mod teams;
pub(crate) mod templates;
