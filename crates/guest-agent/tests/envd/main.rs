//! Starts the real program and talks to it as clients do: HTTP/1.1, Connect in JSON and binary.
#![expect(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test fails by panicking, says when it skips, and starts programs"
)]

mod cgroup;
mod connect;
mod control;
mod files;
mod filesystem;
mod first_process;
mod forwarding;
mod freeze;
mod fsfreeze;
mod init;
mod input;
mod journal;
mod limits;
mod process;
mod program;
mod reconnect;
mod terminal;
mod upgrade;
mod upgrade_refused;
mod upgraded;
mod wire;
