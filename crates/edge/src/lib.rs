//! The one port in front of everything: sends sandbox traffic to its sandbox, hands every other
//! request to the API.
//!
//! Knows where running sandboxes are ([`node_wire::Routes`]) and nothing else of them: no phases,
//! no owners, no store. Does not end TLS, does not check who may reach a sandbox (the guest agent
//! asks for its own token), and does not look into the traffic.
#![warn(clippy::indexing_slicing)]

mod answer;
mod body;
mod config;
mod control_path;
mod edge;
mod exchange;
mod headers;
mod request_body;
mod serve;
mod tunnel;
mod upstream;

pub use body::{Body, BoxError};
pub use config::Config;
pub use edge::Edge;
pub use serve::{ServeError, serve};
