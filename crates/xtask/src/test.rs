//! `cargo xtask test`: every kind of test, one line of counts at the end.

mod leftovers;
mod room;
mod sweep;
mod tally;

use std::collections::BTreeSet;
use std::process::{Command, ExitCode};
use std::time::Duration;

use crate::command::{self, cargo, step};
use crate::failure::{Failure, Result};
use crate::packages::{self, Need};
use crate::{binaries, fuzz, parsers, sdk, soak};

use leftovers::Leftovers;
pub(crate) use tally::Tally;

/// Crates whose `tests/` folder works on real kernel objects.
const HOST_CRATES: [&str; 5] = ["host", "images", "machine", "node", "cli"];

/// What Rust tests are built with: steps that a test can make fail.
const FEATURES: [&str; 2] = ["node/fault-injection", "cli/fault-injection"];

/// What opens some of the inside of crates to the fuzz targets.
const FUZZ_FEATURES: [&str; 3] = ["edge/fuzz", "guest-agent/fuzz", "node/fuzz"];

/// Rust tests at once for each processor: they wait for states and limits more than they compute.
const AT_ONCE: usize = 2;

/// No build or run of one group of Rust tests may take longer.
const RUST_LIMIT: Duration = Duration::from_secs(30 * 60);

/// What to run.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    only: Option<String>,
    pub(crate) keep: bool,
}

impl Options {
    /// Reads the arguments after `test`.
    ///
    /// # Errors
    /// An unknown argument or step.
    pub(crate) fn parse(args: &[String]) -> Result<Self> {
        let mut options = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--keep" => options.keep = true,
                "--only" => {
                    let step = args.next().ok_or_else(|| {
                        Failure::new(format!("--only needs a step: {}", known_steps().join(", ")))
                    })?;
                    options.only = Some(step.clone());
                }
                unknown => return Err(Failure::new(format!("`test` does not take `{unknown}`"))),
            }
        }
        match &options.only {
            Some(step) if !known_steps().contains(step) => Err(Failure::new(format!(
                "no step `{step}`; there are {}",
                known_steps().join(", ")
            ))),
            _ => Ok(options),
        }
    }

    fn wants(&self, step: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == step)
    }

    /// The SDK releases to test against.
    fn releases(&self) -> Vec<sdk::Release> {
        sdk::RELEASES
            .into_iter()
            .filter(|release| self.wants("sdk") || self.wants(&release.name()))
            .collect()
    }
}

fn known_steps() -> Vec<String> {
    let steps = ["lint", "unit", "host", "sdk", "soak", "fuzz", "parsers"].map(str::to_owned);
    steps.into_iter().chain(sdk::RELEASES.iter().map(sdk::Release::name)).collect()
}

/// Runs the steps that `options` asks for. The exit code says whether everything passed.
///
/// # Errors
/// The host cannot be prepared. Whatever goes wrong after that is counted as a failure.
pub(crate) fn test(options: &Options) -> Result<ExitCode> {
    room::check()?;
    packages::ensure(&[Need::Build, Need::Serve])?;
    for cleared in sweep::clear() {
        println!("    a test that was killed had left: {cleared}");
    }
    let before = Leftovers::find();
    let mut tally = Tally::default();
    // The programs take longest, the last minutes of it on one processor: the tests are built beside.
    std::thread::scope(|scope| {
        let programs = options.only.is_none().then(|| scope.spawn(binaries::build));
        if options.wants("lint") {
            tally.step("lint", |_| step("lint", lint));
        }
        if let Some(programs) = programs {
            // What cannot be built is told by the step that needs it.
            let _tests =
                step("build the tests", || command::visible(workspace_tests().arg("--no-run")));
            let _programs = step("wait for the programs", || {
                programs.join().unwrap_or(Err(Failure::new("the build panicked")))
            });
        }
    });
    if options.wants("unit") {
        tally.step("unit", |tally| {
            // Some of the guest agent's do more where they are allowed to.
            packages::ensure(&[Need::HostTest])?;
            step("unit tests", || unit(tally))
        });
    }
    if options.wants("host") {
        tally.step("host", |tally| {
            packages::ensure(&[Need::HostTest])?;
            // The sandboxes of these tests run the real agent.
            step("build for the host tests", binaries::build)?;
            step("host tests", || host(tally))
        });
    }
    let releases = options.releases();
    if !releases.is_empty() {
        tally.step("sdk", |tally| {
            packages::ensure(&[Need::SdkTest])?;
            step("build for the SDK tests", binaries::build)?;
            sdk::test(&releases, options.keep, tally)
        });
    }
    if options.wants("soak") {
        tally.step("soak", |_| step("soak", soak::short));
    }
    if options.wants("fuzz") {
        tally.step("fuzz", |_| {
            packages::ensure(&[Need::SdkTest])?;
            step("build for the fuzzer", binaries::build)?;
            fuzz::api(options.keep)
        });
    }
    if options.wants("parsers") {
        tally.step("parsers", parsers::short);
    }
    tally.step("leftovers", |_| before.nothing_new());
    tally.print();
    Ok(if tally.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn lint() -> Result<()> {
    command::visible(&mut cargo(&["fmt", "--all", "--check"]))?;
    parsers::lint()?;
    let clippy = ["clippy", "--quiet", "--all-targets", "--locked"];
    let deny = ["--", "-D", "warnings"];
    command::visible(cargo(&clippy).arg("--workspace").args(deny))?;
    // And as the tests and the fuzz targets build them.
    let features = FEATURES.into_iter().chain(FUZZ_FEATURES).collect::<Vec<_>>().join(",");
    command::visible(cargo(&clippy).args(["--workspace", "--features", &features]).args(deny))
}

/// The tests of the whole workspace, whichever are run then: with other packages cargo chooses other
/// features of what they depend on, and builds all of that again.
fn workspace_tests() -> Command {
    let mut tests = cargo(&["test", "--workspace", "--locked", "--no-fail-fast"]);
    tests.args(["--features", &FEATURES.join(",")]);
    tests
}

/// Everything that needs no privileges: what is inside the crates' own files, the `tests/` folders
/// of all but the host crates, and examples in the documentation.
fn unit(tally: &mut Tally) -> Result<()> {
    let mut tests = workspace_tests();
    tests.args(["--lib", "--bins"]);
    for name in integration_tests()?.others {
        tests.args(["--test", &name]);
    }
    rust_tests(&mut tests, tally)?;
    rust_tests(workspace_tests().arg("--doc"), tally)
}

fn host(tally: &mut Tally) -> Result<()> {
    let mut tests = workspace_tests();
    for name in integration_tests()?.hosts {
        tests.args(["--test", &name]);
    }
    rust_tests(&mut tests, tally)
}

/// The names of the tests in `tests/` folders.
#[derive(Debug, Default, PartialEq, Eq)]
struct IntegrationTests {
    /// Of host crates.
    hosts: BTreeSet<String>,
    /// Of the others, and those of host crates that are called the same.
    others: BTreeSet<String>,
}

fn integration_tests() -> Result<IntegrationTests> {
    let crates = crate::paths::root().join("crates");
    let failed = || Failure::because(format!("list the tests in {}", crates.display()));
    let mut tests = IntegrationTests::default();
    for krate in std::fs::read_dir(&crates).map_err(failed())? {
        let krate = krate.map_err(failed())?;
        let dir = krate.path().join("tests");
        if !dir.is_dir() {
            continue;
        }
        let is_host = HOST_CRATES.iter().any(|name| krate.file_name() == *name);
        let names = if is_host { &mut tests.hosts } else { &mut tests.others };
        for entry in std::fs::read_dir(dir).map_err(failed())? {
            let path = entry.map_err(failed())?.path();
            // As cargo finds them.
            let is_test =
                path.extension().is_some_and(|end| end == "rs") || path.join("main.rs").is_file();
            let name = path.file_stem().and_then(|name| name.to_str());
            names.extend(name.filter(|_| is_test).map(str::to_owned));
        }
    }
    tests.hosts.retain(|name| !tests.others.contains(name));
    Ok(tests)
}

/// Runs one `cargo test`, with the output of passing tests too: a test that finds it cannot run
/// here prints `skipped, because ...`.
fn rust_tests(command: &mut Command, tally: &mut Tally) -> Result<()> {
    let failed_before = tally.failed();
    let mut shown = true;
    let at_once = std::thread::available_parallelism().map_or(1, usize::from) * AT_ONCE;
    command.args(["--", "--show-output", "--test-threads"]).arg(at_once.to_string());
    let ok = command::read_lines(command, RUST_LIMIT, |line| {
        tally.cargo_line(line);
        // What passing tests say is read for its skips only, and those are told at the end.
        shown = (shown || line == "failures:" || line.starts_with("test result: "))
            && line != "successes:";
        shown
    })?;
    if ok || tally.failed() > failed_before {
        return Ok(());
    }
    Err(Failure::new("the tests did not build, or one of them ended its whole process"))
}

#[cfg(test)]
mod tests {
    use super::{Options, integration_tests};

    fn parse(args: &[&str]) -> Result<Options, String> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        Options::parse(&args).map_err(|failure| failure.chain())
    }

    #[test]
    fn without_arguments_everything_runs() {
        let options = parse(&[]).unwrap();
        assert!(options.wants("lint") && options.wants("unit") && options.wants("host"));
        assert_eq!(options.releases().len(), crate::sdk::RELEASES.len());
    }

    #[test]
    fn one_sdk_release_can_be_asked_for() {
        let name = crate::sdk::RELEASES[0].name();
        let options = parse(&["--only", &name, "--keep"]).unwrap();
        assert!(options.keep && !options.wants("unit"));
        assert_eq!(options.releases().len(), 1);
    }

    #[test]
    fn every_file_of_tests_is_run_by_one_of_the_two_steps() {
        let tests = integration_tests().unwrap();
        for name in ["host", "stop", "base", "up"] {
            assert!(tests.hosts.contains(name), "{tests:?}");
        }
        for name in ["rest", "proxy", "envd", "grpc", "attempts", "model"] {
            assert!(tests.others.contains(name), "{tests:?}");
        }
        assert!(tests.hosts.is_disjoint(&tests.others), "{tests:?}");
    }

    #[test]
    fn an_unknown_step_is_refused_with_the_list_of_steps() {
        let refusal = parse(&["--only", "integration"]).unwrap_err();
        assert!(refusal.contains("there are lint, unit, host, sdk, soak"), "{refusal}");
        assert!(parse(&["--only"]).is_err());
        assert!(parse(&["--fast"]).is_err());
    }
}
