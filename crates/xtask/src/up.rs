//! `cargo xtask up`: from a bare machine to a running service.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use crate::binaries;
use crate::failure::{Failure, Result};
use crate::packages::{self, Need};

/// Prepares the host, builds, and becomes `cofferdam up`, so that signals and the exit code are
/// the service's own.
pub(crate) fn up(args: &[String]) -> Result<ExitCode> {
    packages::ensure(&[Need::Build, Need::Serve])?;
    let binaries = binaries::build()?;
    let err = Command::new(&binaries.cofferdam).arg(OsStr::new("up")).args(args).exec();
    Err(Failure::because(format!("start {}", binaries.cofferdam.display()))(err))
}
