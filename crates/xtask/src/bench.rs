//! `cargo xtask bench`: the benchmarks, always against release binaries.

use std::process::{Command, ExitCode};

use crate::binaries;
use crate::command::{self, cargo};
use crate::failure::Result;
use crate::packages::{self, Need};
use crate::paths;

/// Creates and kills before, beside and after a light load and kills of the daemon.
const BESIDE_RESTARTS: [&str; 7] =
    ["soak", "--load", "light", "--minutes", "2", "--measured", "100"];

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
    let bench = paths::release().join("bench");
    command::visible(Command::new(&bench).args(args))?;
    if args == ["recover"] {
        // What restarts cost those who use the service meanwhile, and afterwards.
        command::visible(Command::new(&bench).args(BESIDE_RESTARTS))?;
    }
    Ok(ExitCode::SUCCESS)
}
