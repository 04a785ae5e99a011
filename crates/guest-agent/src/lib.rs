//! The guest agent: what runs inside a sandbox and does there what clients ask for.
//!
//! Serves processes and the file system by Connect RPC, file contents by plain HTTP, and is the
//! first process of its sandbox: it reaps orphans and ends everything when it is told to. It
//! knows nothing of nodes, templates or other sandboxes; what it must know it is told once by
//! `POST /init`. The wire is in the crate `guest-wire`.

pub mod cli;
pub mod run;

pub use upgrade::FORMAT as HANDOVER_FORMAT;

#[cfg(feature = "fuzz")]
pub use files::fuzz;

mod accounts;
mod agent;
mod cgroups;
mod control;
mod cors;
mod files;
mod filesystem;
mod forward;
mod gatekeeper;
mod hold;
mod journal;
mod log;
mod open_files;
mod paths;
mod pollable;
mod process;
mod reaper;
mod rest;
mod server;
mod settings;
mod streams;
mod tasks;
mod unread;
mod upgrade;
mod watch;
