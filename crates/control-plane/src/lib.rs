//! The control plane: E2B's REST API, authentication, and the record of which sandboxes exist.
//!
//! Decides who may have a sandbox and asks a node for it. Does not run sandboxes, does not carry
//! their traffic, and does not time them out: the node does. It meets the node and the edge only
//! through the traits of `node-wire`.

mod app;
mod config;
mod service;

mod api;
mod auth;
mod http;

mod catalog;
mod connect;
mod create;
mod create_request;
mod fork;
mod idempotency;
mod journals;
mod kill;
mod listing;
mod network;
mod node_answers;
mod nodes;
mod openapi;
mod pause;
mod placement;
mod reconcile;
mod resume;
mod samples;
mod snapshots;
mod store;
mod team_metrics;
mod teams;
mod transitions;
mod wake;
mod watch;

pub use config::{Config, Limits, Quota, Rate, Standing, Team, UnknownSandboxes};
pub use service::{CloseError, ControlPlane, StartError};
pub use store::StoreError;
