//! `cargo xtask soak`: random work against a service that is killed again and again.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::command::{cargo, visible};
use crate::failure::Result;
use crate::packages::{self, Need};
use crate::{binaries, paths};

/// What is built and run, read from the arguments.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    release: bool,
    /// The service is built so that `--faults` has an effect.
    faults: bool,
    /// For the tool, as they came.
    rest: Vec<String>,
}

impl Plan {
    fn of(args: &[String]) -> Self {
        let is = |arg: &String, flag: &str| {
            arg.strip_prefix(flag).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
        };
        Self {
            release: args.iter().any(|arg| arg == "--release"),
            faults: args.iter().any(|arg| is(arg, "--faults")),
            rest: args.iter().filter(|arg| *arg != "--release").cloned().collect(),
        }
    }

    fn profile(&self) -> &'static str {
        if self.release { "release" } else { "dev" }
    }

    /// The build of the service.
    fn build(&self) -> Vec<&'static str> {
        let mut args = vec!["build", "--locked", "-p", "cli", "--profile", self.profile()];
        if self.faults {
            args.extend(["--features", "fault-injection"]);
        }
        args
    }
}

/// Builds the service and runs the soak of the crate `bench` against it with `args`.
///
/// # Errors
/// A build fails, or a promise was broken: the tool has said which.
pub(crate) fn soak(args: &[String]) -> Result<ExitCode> {
    let plan = Plan::of(args);
    run(&plan, plan.profile())
}

/// Runs the tool, built with a profile of its own.
fn run(plan: &Plan, tool_profile: &str) -> Result<ExitCode> {
    packages::ensure(&[Need::Build, Need::Serve])?;
    visible(&mut cargo(&plan.build()))?;
    let agent = binaries::agent()?;
    let folder = if plan.release { "release" } else { "debug" };
    let program = paths::target().join(folder).join("cofferdam");
    let tool = ["run", "--quiet", "--locked", "--profile", tool_profile, "-p", "bench", "--"];
    let given = ["soak".into(), "--program".into(), program.into_os_string()];
    let agent: [OsString; 2] = ["--envd".into(), agent.into_os_string()];
    visible(cargo(&tool).args(given).args(agent).args(&plan.rest))?;
    Ok(ExitCode::SUCCESS)
}

/// The part of it that is among the tests: the service as it is shipped, and a tool that takes no
/// minutes to be built, as what it asks for are counts and not times.
///
/// # Errors
/// As those of [`soak`].
pub(crate) fn short() -> Result<()> {
    let args = ["--release", "--minutes", "3", "--kills", "auto", "--pauses", "--measured", "50"];
    run(&Plan::of(&args.map(str::to_owned)), "dev").map(drop)
}

#[cfg(test)]
mod tests {
    use super::Plan;

    fn plan(args: &[&str]) -> Plan {
        Plan::of(&args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_profile_is_for_the_build_and_everything_else_for_the_tool() {
        let plan = plan(&["--release", "--churn", "10"]);
        assert_eq!(plan.rest, ["--churn", "10"]);
        assert_eq!(plan.build(), ["build", "--locked", "-p", "cli", "--profile", "release"]);
    }

    #[test]
    fn faults_are_built_in_only_when_they_are_asked_for() {
        for args in [&["--faults", "a=error"][..], &["--faults=a=error"]] {
            assert!(plan(args).build().ends_with(&["--features", "fault-injection"]));
            assert_eq!(plan(args).rest.len(), args.len());
        }
        assert!(!plan(&["--kills", "3"]).faults);
    }
}
