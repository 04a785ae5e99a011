//! Processes of the sandbox's users: starting them, feeding them, and handing out what they say.

mod backlog;
mod command;
mod end;
mod fork;
mod handover;
mod hub;
mod input;
mod launch;
mod notes;
mod output;
mod probe;
mod queue;
mod registry;
mod running;
mod service;
mod stdio;

pub(crate) use handover::{Frozen, HandedEnd, HandedProcess};
pub(crate) use probe::{ProbeError, ask};
pub(crate) use registry::Processes;
pub(crate) use service::ProcessService;
pub(crate) use service::feed::keepalive_interval;
