//! The handlers: decode, call, encode.

pub(crate) mod explain;
pub(crate) mod health;
pub(crate) mod metrics;
pub(crate) mod network;
pub(crate) mod nodes;
pub(crate) mod sandboxes;
pub(crate) mod templates;
