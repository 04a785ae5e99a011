//! The node on the real kernel: namespaces, cgroups, links, firewall, the OCI runtime, the agent.

mod create;
mod faults;
mod guest;
