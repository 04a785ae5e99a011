//! The one port in front of everything: sends sandbox traffic to its sandbox, hands every other
//! request to the API.
//!
//! Knows where running sandboxes are and under which terms ([`node_wire::Routes`]), and nothing else
//! of them: no phases, no owners, no store. Does not end the TLS of clients and does not look into the
//! traffic; to programs that speak nothing but TLS it speaks TLS. Of private sandboxes it asks clients
//! for the token; the guest agent asks for its own.
#![warn(clippy::indexing_slicing)]

mod answer;
mod body;
mod config;
mod control_path;
mod edge;
mod exchange;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod grpc;
mod headers;
mod private;
mod quiet;
mod request_body;
mod scratch;
mod seats;
mod serve;
mod signed;
mod streams;
mod tunnel;
mod upstream;
mod wake;

pub use body::{Body, BoxError};
pub use config::Config;
pub use edge::Edge;
pub use serve::{ServeError, serve};
