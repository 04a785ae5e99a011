//! The protocol of the guest agent `envd`: what travels between it and its callers.
//!
//! Holds the Connect messages and service traits, the bodies of the REST surface, the signature
//! of file addresses, and the few calls the node makes. It serves nothing and keeps no state:
//! the agent is the crate `guest-agent`. Names, numbers and texts are E2B's wire contract.

pub mod client;
pub mod proto;
pub mod rest;
pub mod signature;

/// The TCP port every agent listens on.
pub const ENVD_PORT: u16 = 49983;

/// The agent version announced to clients, which switch features on by it.
///
/// 0.6.4 is the highest that still promises only what clients use; from 0.6.5 on a version also
/// promises control endpoints for the host, which this agent does not have.
pub const ENVD_VERSION: &str = "0.6.4";
