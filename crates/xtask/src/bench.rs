//! `cargo xtask bench`: the benchmarks, always against release binaries.

use std::process::{Command, ExitCode};

use crate::binaries;
use crate::command::{self, cargo};
use crate::failure::Result;
use crate::packages::{self, Need};
use crate::paths;

/// Builds both binaries, then runs the `bench` crate with `args`.
pub(crate) fn bench(args: &[String]) -> Result<ExitCode> {
    packages::ensure(&[Need::Build, Need::Serve])?;
    if args.first().is_some_and(|what| what == "traffic") {
        packages::ensure(&[Need::Traffic])?;
    }
    binaries::build()?;
    // Static: a benchmark runs this program inside a sandbox, too, whatever is installed there.
    let build = ["rustc", "--quiet", "--release", "--locked", "-p", "bench", "--"];
    command::visible(cargo(&build).args(["-C", "target-feature=+crt-static"]))?;
    command::visible(Command::new(paths::release().join("bench")).args(args))?;
    Ok(ExitCode::SUCCESS)
}
