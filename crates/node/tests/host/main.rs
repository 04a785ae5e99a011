//! The node on the real kernel: namespaces, cgroups, links, firewall, the OCI runtime, the agent.
#![cfg(test)]
#![expect(clippy::print_stdout, reason = "a test that cannot run says so")]

mod adopt;
mod agent_upgrade;
mod create;
mod drain;
mod egress;
mod faults;
mod guest;
mod holders;
mod hostile;
mod journal;
mod layouts;
mod network;
mod pause;
mod requirements;
mod runtimes;
mod silent;
mod slots;
mod upstream;
