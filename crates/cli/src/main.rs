//! `cofferdam`: the one binary, and the only place that reads the environment.
//!
//! Reads the configuration, starts what the command names, and turns the outcome into an exit
//! code. What the services do is in their crates.

mod agent;
mod args;
mod client;
mod commands;
mod config;
mod credentials;
mod data_dir;
mod progress;
mod say;
mod signals;
mod sockets;
mod supervisor;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use args::{Cli, Command};
use clap::Parser;
use commands::up::{Again, Ended};
use config::{Config, Loaded};
use host::Faults;
use host::view::Home;
use sockets::Passed;
use supervisor::Supervisor;

/// How long threads that block may take after everything else has ended. One that hangs, as on a
/// file system that does not answer, ends with the process.
const LATE_THREADS: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            say::remark(&format!("cofferdam: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let env: Vec<_> = std::env::vars_os().collect();
    // Before anything else can open what has their numbers.
    let passed = sockets::take(&env).context("take the sockets that were passed on")?;
    let flags = cli.settings.to_flags();
    let inputs = cli.settings.into_inputs(env.clone());
    let loaded = Config::load(&inputs)?;
    match cli.command {
        Command::Config(options) => commands::config::run(&loaded, options),
        Command::Up(options) => up(loaded, Again { flags, env }, passed, options.succeeds()),
        Command::Doctor(output) => block_on(commands::doctor::run(&logged(loaded)?, output)),
        Command::Leaks(output) => block_on(commands::leaks::run(&logged(loaded)?, output)),
        Command::Node(options) => match options.into_command().map_err(anyhow::Error::msg)? {
            args::Node::Handover { binary } => commands::handover::run(&logged(loaded)?, binary),
            args::Node::Asking(command) => {
                let api = client::Api::find(&env, &logged(loaded)?.data_dir)?;
                block_on(commands::node::run(&api, command))
            }
        },
        Command::Sandbox { command } => {
            let api = client::Api::find(&env, &logged(loaded)?.data_dir)?;
            let term = said(&env, "TERM");
            block_on(commands::sandbox::run(&api, command, term))
        }
        Command::Team { command } => {
            let api = client::Api::find(&env, &logged(loaded)?.data_dir)?;
            block_on(commands::team::run(&api, command))
        }
        Command::Key { command } => {
            let api = client::Api::find(&env, &logged(loaded)?.data_dir)?;
            block_on(commands::key::run(&api, command))
        }
        Command::Uninstall(options) => commands::uninstall::run(&logged(loaded)?, options),
        Command::Images { command } => block_on(commands::images::run(&logged(loaded)?, command)),
    }
}

/// A variable of the environment that is text.
fn said(env: &[(OsString, OsString)], name: &str) -> Option<String> {
    let (_, value) = env.iter().find(|(key, _)| key == name)?;
    value.to_str().map(str::to_owned)
}

/// Becomes a service, and after that perhaps another program.
fn up(loaded: Loaded, again: Again, passed: Passed, succeeds: bool) -> anyhow::Result<ExitCode> {
    let config = logged(loaded)?;
    let driver = commands::up::choose_driver(&config)?;
    tracing::debug!(driver = driver.as_str(), "driver chosen");
    let home = Home::here().context("remember the view of the file system")?;
    // Threads that exist already would stay outside, so before there are any.
    let view = host::view::enter().context("make a private view of the file system")?;
    let given = commands::up::Given {
        supervisor: Supervisor::from_env(&again.env),
        passed,
        faults: faults(&again.env)?,
        succeeds,
        again,
    };
    match block_on(commands::up::run(config, view, given))? {
        Ended::Stopped(code) => Ok(code),
        Ended::Replaced(next) => Err(next.begin(home)),
    }
}

/// Where a service that was built for tests is to fail.
#[cfg_attr(
    not(feature = "fault-injection"),
    expect(unused_variables, reason = "only a service that was built for tests is told to fail")
)]
fn faults(env: &[(OsString, OsString)]) -> anyhow::Result<Faults> {
    #[cfg(feature = "fault-injection")]
    if let Some((_, text)) = env.iter().find(|(name, _)| name == "COFFERDAM_FAULTS") {
        let text = text.to_string_lossy();
        return Faults::from_text(&text)
            .map_err(|word| anyhow::anyhow!("COFFERDAM_FAULTS: {word} is no fault"));
    }
    Ok(Faults::default())
}

/// Sets up the log, and begins it with what is odd about the configuration.
fn logged(loaded: Loaded) -> anyhow::Result<Config> {
    observe::init(&loaded.config.log, loaded.config.log_format)?;
    for unknown in loaded.unknown {
        tracing::warn!(%unknown, "ignored a setting nobody knows");
    }
    Ok(loaded.config)
}

/// Runs `command` with threads of its own, which are where this one is.
fn block_on<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the threads of the program")?;
    let ended = runtime.block_on(command);
    runtime.shutdown_timeout(LATE_THREADS);
    ended
}
