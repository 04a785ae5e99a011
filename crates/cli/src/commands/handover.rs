//! `cofferdam node handover`: has the service give its place to another program.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;

use crate::config::Config;
use crate::say;
use crate::sockets::handover::replace;

/// Waits until `binary`, or this program, serves in the place of the one that runs.
///
/// # Errors
/// None runs, or the service goes on as it was, or what took its place ended.
pub(crate) fn run(config: &Config, binary: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let program = match binary {
        Some(path) => path,
        None => std::env::current_exe().context("find out where this program is")?,
    };
    // Whoever serves may be in another directory.
    let program = std::path::absolute(&program)
        .with_context(|| format!("find out where {} is", program.display()))?;
    let version = replace(&config.data_dir, &program)?;
    say::answer(&format!("handed over to {} {version}", program.display()))?;
    Ok(ExitCode::SUCCESS)
}
