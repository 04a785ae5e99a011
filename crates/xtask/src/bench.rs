//! `cargo xtask bench`: the benchmarks, always against release binaries.

use std::process::ExitCode;

use crate::binaries;
use crate::command::{self, cargo};
use crate::failure::Result;
use crate::packages::{self, Need};

/// Builds both binaries, then runs the `bench` crate with `args`.
pub(crate) fn bench(args: &[String]) -> Result<ExitCode> {
    packages::ensure(&[Need::Build, Need::Serve])?;
    binaries::build()?;
    command::visible(
        cargo(&["run", "--quiet", "--release", "--locked", "-p", "bench", "--"]).args(args),
    )?;
    Ok(ExitCode::SUCCESS)
}
