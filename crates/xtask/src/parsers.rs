//! `cargo xtask fuzz`: everything that reads what a client, a sandbox or an earlier daemon wrote,
//! against inputs that libFuzzer finds by what they reach in the code.
//!
//! The targets are in `fuzz`, a workspace of its own. They are built by the compiler that builds the
//! rest, with the instrumentation that libFuzzer reads, and are programs that run by themselves.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use crate::command::{self, cargo, step};
use crate::failure::{Failure, Result};
use crate::packages::{self, Need};
use crate::paths;
use crate::test::Tally;

/// What `cargo fuzz` passes to a compiler that is not a nightly one: a counter at every edge, and a
/// note of every comparison. The code is safe Rust, so there is no sanitizer of memory.
const INSTRUMENTED: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Ccodegen-units=1 --cfg fuzzing";

/// Seconds for each target: when one asks for it, and among the tests.
const ASKED_S: u64 = 60;
const TESTED_S: u64 = 3;

/// What one target may take longer than it was given: reading its corpus, and its last input.
const GRACE: Duration = Duration::from_secs(60);

/// Bytes of an input; limits of the code that are larger are reached by its unit tests.
const INPUT_MAX: u32 = 8192;

/// What to run, for how long.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    seconds: u64,
    /// All of them, when it is empty.
    targets: Vec<String>,
}

impl Options {
    fn parse(args: &[String], known: &[String]) -> Result<Self> {
        let mut options = Self { seconds: ASKED_S, targets: Vec::new() };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            if arg == "--seconds" {
                let given = args.next().and_then(|text| text.parse().ok()).filter(|n| *n > 0);
                options.seconds = given.ok_or_else(|| {
                    Failure::new("--seconds needs a number of seconds for each target, at least 1")
                })?;
            } else if known.contains(arg) {
                options.targets.push(arg.clone());
            } else {
                let known = known.join(", ");
                return Err(Failure::new(format!("no target `{arg}`; there are {known}")));
            }
        }
        Ok(options)
    }
}

/// Runs what the arguments after `fuzz` ask for.
///
/// # Errors
/// A wrong argument, or the targets cannot be built. What they find is counted.
pub(crate) fn fuzz(args: &[String]) -> Result<ExitCode> {
    let known = targets()?;
    let options = Options::parse(args, &known)?;
    let wanted = if options.targets.is_empty() { known } else { options.targets };
    let mut tally = Tally::default();
    run_all(&wanted, options.seconds, &mut tally)?;
    tally.print();
    Ok(if tally.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The part of it that is among the tests: every target for a moment.
///
/// # Errors
/// The targets cannot be built.
pub(crate) fn short(tally: &mut Tally) -> Result<()> {
    run_all(&targets()?, TESTED_S, tally)
}

/// Checks the form of the targets' code.
///
/// # Errors
/// It is not as rustfmt would have it.
pub(crate) fn lint() -> Result<()> {
    command::visible(cargo(&["fmt", "--check"]).current_dir(folder()))
}

fn folder() -> PathBuf {
    paths::root().join("fuzz")
}

/// The names of the targets, which are the names of their files.
fn targets() -> Result<Vec<String>> {
    let dir = folder().join("fuzz_targets");
    let failed = || Failure::because(format!("list {}", dir.display()));
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&dir).map_err(failed())? {
        let path = entry.map_err(failed())?.path();
        let name = path.file_stem().and_then(|name| name.to_str());
        names.extend(name.map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

fn run_all(targets: &[String], seconds: u64, tally: &mut Tally) -> Result<()> {
    packages::ensure(&[Need::Build, Need::Fuzz])?;
    let programs = step("build the fuzz targets", build)?;
    for name in targets {
        tally.step(&format!("fuzz {name}"), |_| run(&programs, name, seconds));
    }
    Ok(())
}

/// Builds all targets; answers where they are.
fn build() -> Result<PathBuf> {
    same_versions()?;
    let host = command::answer(Command::new("rustc").args(["--print", "host-tuple"]));
    let host = host.ok_or_else(|| Failure::new("rustc does not say what it compiles for"))?;
    let host = host.trim();
    // With a target named, build scripts and procedural macros are not instrumented.
    let mut cargo = cargo(&["build", "--quiet", "--bins", "--target", host, "--target-dir"]);
    cargo.arg(paths::target()).env("RUSTFLAGS", INSTRUMENTED).current_dir(folder());
    command::visible(&mut cargo)?;
    Ok(paths::target().join(host).join("debug"))
}

/// What is fuzzed is what is shipped: the versions are those of the workspace.
fn same_versions() -> Result<()> {
    let (ours, theirs) = (paths::root().join("Cargo.lock"), folder().join("Cargo.lock"));
    let changed = |path: &Path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
    if changed(&theirs).is_some_and(|at| changed(&ours).is_some_and(|ours| ours < at)) {
        return Ok(());
    }
    let copied = std::fs::copy(&ours, &theirs).map(drop);
    copied.map_err(Failure::because(format!("copy {}", ours.display())))
}

fn run(programs: &Path, name: &str, seconds: u64) -> Result<()> {
    let own = paths::target().join("fuzzing").join(name);
    let (corpus, seeds) = (own.join("corpus"), folder().join("corpus").join(name));
    std::fs::create_dir_all(&corpus)
        .map_err(Failure::because(format!("make {}", corpus.display())))?;
    let mut prefix = OsString::from("-artifact_prefix=");
    prefix.push(own.join("found-"));
    let mut program = Command::new(programs.join(name));
    program
        .args([&corpus, &seeds])
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={INPUT_MAX}"))
        .args(["-timeout=10", "-rss_limit_mb=1024", "-malloc_limit_mb=256"])
        .arg(prefix);
    let limit = Duration::from_secs(seconds) + GRACE;
    command::quiet(&format!("fuzz {name}"), &mut program, limit).inspect_err(|_failure| {
        let again = format!("{} FILE", programs.join(name).display());
        let found = own.join("found-*");
        println!("    what it found is in {}; to see it again: {again}", found.display());
        println!("    mended, it belongs into {}, for good", seeds.display());
    })
}

#[cfg(test)]
mod tests {
    use super::{ASKED_S, Options, targets};

    fn parse(args: &[&str]) -> Result<Options, String> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        Options::parse(&args, &["one".into(), "two".into()]).map_err(|failure| failure.chain())
    }

    #[test]
    fn targets_and_seconds_can_be_chosen() {
        let all = Options { seconds: ASKED_S, targets: Vec::new() };
        assert_eq!(parse(&[]), Ok(all));
        let one = Options { seconds: 180, targets: vec!["two".into()] };
        assert_eq!(parse(&["two", "--seconds", "180"]), Ok(one));
        for wrong in [&["--seconds"][..], &["--seconds", "0"], &["--seconds", "x"]] {
            assert!(parse(wrong).unwrap_err().contains("at least 1"));
        }
        assert!(parse(&["three"]).unwrap_err().contains("there are one, two"));
    }

    #[test]
    fn every_target_has_seeds_and_is_built() {
        let manifest = std::fs::read_to_string(super::folder().join("Cargo.toml")).unwrap();
        let targets = targets().unwrap();
        assert!(!targets.is_empty());
        for name in targets {
            let seeds = super::folder().join("corpus").join(&name);
            assert!(std::fs::read_dir(seeds).unwrap().next().is_some(), "{name} has no seeds");
            assert!(manifest.contains(&format!("\"fuzz_targets/{name}.rs\"")), "{name}");
        }
    }
}
