//! `cargo xtask bench`: how fast and how large, beside a floor measured in the same run.
//!
//! The floor is the OCI runtime alone on the same bundle in a slot that is ready: what is above it
//! is ours.
#![expect(clippy::print_stdout, reason = "the report is its output")]

mod client;
mod create;
mod drain;
mod floor;
mod numbers;
mod pause;
mod recover;
mod service;
mod soak;
mod traffic;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "bench", about = "Benchmarks of Cofferdam against floors of the same run")]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Create, kill and command latency, memory, and how they hold up with many sandboxes.
    Create(create::Options),
    /// Force stop of many sandboxes to an empty census, idle and busy; drain and stop of an empty node.
    Drain(drain::Options),
    /// Pause, resume and snapshot of a sandbox that has written 10 MB.
    Pause(pause::Options),
    /// How soon the sandboxes of a killed daemon are served by the next, and what is left removed.
    Recover(recover::Options),
    /// Requests, WebSockets and files through the edge beside nginx; listing and watching.
    Traffic(traffic::Options),
    /// The plain server that `traffic` runs in a sandbox.
    #[command(hide = true)]
    Inside(traffic::Program),
    /// Random work against a daemon that is killed again and again; `cargo xtask soak`.
    Soak(soak::Options),
    /// The containers without a service that `soak` compares with.
    #[command(hide = true)]
    Bare(soak::Program),
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    match args.what {
        What::Create(options) => create::run(&options)?,
        What::Drain(options) => drain::run(&options)?,
        What::Pause(options) => pause::run(&options)?,
        What::Recover(options) => recover::run(&options)?,
        What::Traffic(options) => traffic::run(&options)?,
        What::Inside(program) => traffic::run_inside(&program)?,
        What::Soak(options) => return soak::run(&options),
        What::Bare(program) => soak::run_bare(&program)?,
    }
    Ok(ExitCode::SUCCESS)
}
