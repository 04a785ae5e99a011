//! A node's calls on the network: E2B's services as they are on the wire, and
//! `cofferdam.node.v1` for what these have no words for.
//!
//! [`server`] puts a [`NodeApi`](crate::NodeApi) on a listener of its own ([`serve`]), and
//! [`Client`] is a `NodeApi` whose node is elsewhere. Every call needs the node's token; the
//! transport is plain HTTP/2, so a listener that is not on loopback belongs into a private network.
//!
//! `SandboxService`, `InfoService` and `TemplateService` are there for E2B's own control plane.
//! What their messages can say whole (delete, update, change of status) is asked through them by
//! our client, too; everything else through `NodeService`.

mod client;
mod convert;
mod failure;
mod health_service;
mod info_service;
mod node_service;
mod proto;
mod sandbox_service;
mod serve;
mod server;
mod template_service;

pub use client::{BadAddress, Client};
pub use serve::{ServeError, serve};
pub use server::{Auth, Server, server};

/// The largest message a node takes: what gRPC libraries allow by default.
const MAX_REQUEST_BYTES: usize = 4 * 1024 * 1024;
/// The largest message a client takes. What grows with the number of sandboxes is streamed one by
/// one; only the census is one message.
const MAX_RESPONSE_BYTES: usize = 16 * 1024 * 1024;
/// All headers, or all trailers, of one call.
const MAX_HEADER_BYTES: u32 = 32 * 1024;
