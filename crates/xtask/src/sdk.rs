//! The SDK tests: the published clients, unmodified, against a real `cofferdam up`. One service
//! for all that a client may do, and then one for each way an operator may end a node under its
//! clients, after which it takes no work any more.

mod javascript;
mod python;
pub(crate) mod service;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::command::step;
use crate::failure::{Failure, Result};
use crate::paths;
use crate::test::Tally;
use service::Service;

/// The releases every test must pass with: the oldest one we promise, and the newest there was
/// when this list was last looked at.
pub(crate) const RELEASES: [Release; 4] = [
    Release { language: Language::Python, version: "2.45.1" },
    Release { language: Language::Python, version: "2.63.0" },
    Release { language: Language::JavaScript, version: "2.45.0" },
    Release { language: Language::JavaScript, version: "2.51.0" },
];

/// The ways a node is ended under its clients: what the test file in `tests/sdk/drain` is called.
const ENDS: [&str; 2] = ["drain", "force"];

/// No suite may take longer, and no installation of one.
const SUITE_LIMIT: Duration = Duration::from_secs(15 * 60);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Language {
    Python,
    JavaScript,
}

/// One published release of one SDK.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Release {
    language: Language,
    version: &'static str,
}

impl Release {
    /// How it is called on the command line and in the results, such as `python-2.45.1`.
    pub(crate) fn name(&self) -> String {
        match self.language {
            Language::Python => format!("python-{}", self.version),
            Language::JavaScript => format!("js-{}", self.version),
        }
    }

    /// Where its packages are installed.
    fn folder(&self) -> PathBuf {
        paths::sdk().join(self.name())
    }
}

/// The data directory of the tests' service.
pub(crate) fn data_folder() -> PathBuf {
    paths::target().join("sdk-data")
}

/// Installs the releases, starts a service, runs every suite against it, and stops it. Then does
/// the same for every way to end a node.
///
/// # Errors
/// A release cannot be installed, a service does not start, or it does not stop cleanly. What the
/// suites find is in the tally.
pub(crate) fn test(releases: &[Release], keep: bool, tally: &mut Tally) -> Result<()> {
    for release in releases {
        match release.language {
            Language::Python => python::install(release),
            Language::JavaScript => javascript::install(release),
        }?;
    }
    let service = step("start the service", || Service::start(&data_folder()))?;
    for release in releases {
        let name = format!("SDK tests, {}", release.name());
        let outcome = step(&name, || match release.language {
            Language::Python => python::test(release, &service, tally),
            Language::JavaScript => javascript::test(release, &service, tally),
        });
        note(&release.name(), outcome, tally);
    }
    step("stop the service", || service.stop(keep))?;
    for release in releases {
        for end in ENDS {
            end_under(release, end, keep, tally)?;
        }
    }
    Ok(())
}

/// Ends the node of a service of its own under the clients of `release`.
fn end_under(release: &Release, end: &str, keep: bool, tally: &mut Tally) -> Result<()> {
    let name = format!("SDK tests, {}, {end}", release.name());
    let service = step("start a service to be drained", || Service::start(&data_folder()))?;
    let outcome = step(&name, || match release.language {
        Language::Python => python::test_end(release, &service, end, tally),
        Language::JavaScript => javascript::test_end(release, &service, end, tally),
    });
    let failed = outcome.is_err();
    note(&format!("{}, {end}", release.name()), outcome, tally);
    // What was forced, was so before the stop: nothing is left for that to end.
    step("stop the drained service", || {
        if failed { service.stop(keep) } else { service.stop_drained(keep) }
    })
}

/// A suite that could not do its work is one failure.
fn note(name: &str, outcome: Result<()>, tally: &mut Tally) {
    if let Err(failure) = outcome {
        println!("    {}", failure.chain());
        tally.fail(name);
    }
}

/// What every suite gets besides the service's own credentials.
fn suite_environment(command: &mut Command, service: &Service) {
    command
        .envs(service.credentials())
        .env("COFFERDAM_REPOSITORY", paths::root())
        .env("SERVICE_LOG", service.log());
    // A client must talk to the service itself, whatever the developer's machine is behind.
    for proxy in ["http_proxy", "https_proxy", "all_proxy"] {
        command.env_remove(proxy).env_remove(proxy.to_uppercase());
    }
}

/// Runs `install` unless `stamp` says that exactly these packages are there already.
fn once(release: &Release, packages: &str, install: impl FnOnce() -> Result<()>) -> Result<()> {
    let stamp = release.folder().join("installed");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == packages) {
        return Ok(());
    }
    std::fs::create_dir_all(release.folder())
        .map_err(Failure::because(format!("make {}", release.folder().display())))?;
    install()?;
    std::fs::write(&stamp, packages).map_err(Failure::because(format!("write {}", stamp.display())))
}
