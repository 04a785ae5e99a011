//! The Python SDK: one virtual environment per release, pytest as the runner.

use std::process::Command;

use super::{Release, SUITE_LIMIT, Service, once, suite_environment};
use crate::command;
use crate::failure::{Failure, Result};
use crate::paths;
use crate::test::Tally;

/// The runner. Its releases have nothing to do with the SDK's.
const RUNNER: [&str; 2] = ["pytest==9.2.0", "pytest-timeout==2.4.0"];

/// Makes the environment of `release`, unless it is there.
///
/// # Errors
/// `venv` or `pip` fails.
pub(super) fn install(release: &Release) -> Result<()> {
    let sdk = format!("e2b=={}", release.version);
    let packages = format!("{sdk} {}", RUNNER.join(" "));
    once(release, &packages, || {
        let mut venv = Command::new("python3");
        venv.args(["-m", "venv", "--clear"]).arg(release.folder());
        command::quiet("make a Python environment", &mut venv, SUITE_LIMIT)?;
        let mut pip = Command::new(release.folder().join("bin/pip"));
        pip.args(["install", "--quiet", "--disable-pip-version-check", &sdk]).args(RUNNER);
        command::quiet(&format!("install {packages}"), &mut pip, SUITE_LIMIT)
    })
}

/// Runs the suite.
///
/// # Errors
/// The runner itself did not work; failed tests are in the tally.
pub(super) fn test(release: &Release, service: &Service, tally: &mut Tally) -> Result<()> {
    run(release, service, &[], "python", tally)
}

/// Runs the one test that ends the node of `service`.
///
/// # Errors
/// As [`test`].
pub(super) fn test_end(
    release: &Release,
    service: &Service,
    end: &str,
    tally: &mut Tally,
) -> Result<()> {
    run(release, service, &[format!("test_{end}.py")], "drain", tally)
}

fn run(
    release: &Release,
    service: &Service,
    files: &[String],
    folder: &str,
    tally: &mut Tally,
) -> Result<()> {
    let mut pytest = Command::new(release.folder().join("bin/python"));
    // The source tree stays as it is: no compiled files and no cache in it.
    pytest
        .args(["-B", "-m", "pytest", "-p", "no:cacheprovider", "-rfEs", "--color=no"])
        .args(files)
        .current_dir(paths::sdk_tests().join(folder));
    suite_environment(&mut pytest, service);
    let failed_before = tally.failed();
    let name = release.name();
    let ok = command::read_lines(&mut pytest, SUITE_LIMIT, |line| {
        tally.pytest_line(&name, line);
        true
    })?;
    if ok || tally.failed() > failed_before {
        return Ok(());
    }
    Err(Failure::new("pytest ended without success and named no failed test"))
}
