//! Developer commands: `cargo xtask up | build | test | fuzz | bench | soak`.
//!
//! This crate is what a newcomer runs first, so it has no dependencies and builds in seconds. It
//! prepares the host, builds the two binaries, and runs every kind of test. It is not part of the
//! product: nothing here is installed, and nothing in the product calls it.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a command-line tool that prints its steps and runs other programs"
)]

mod bench;
mod binaries;
mod command;
mod elf;
mod failure;
mod fuzz;
mod packages;
mod parsers;
mod paths;
mod processes;
mod sdk;
mod soak;
mod test;
mod up;

use std::process::ExitCode;

use failure::{Failure, Result};

const USAGE: &str = "\
cargo xtask <command>

  up [args]        install what the host lacks, build, and start the service;
                   args go to `cofferdam up` (try `cargo xtask up --help`)
  build            build target/release/cofferdam and target/release/envd
  test [options]   lint, unit, host and SDK tests; ends with one line of counts
      --only NAME  one step: lint, unit, host, sdk, soak, fuzz, parsers, or one SDK release such as
                   python-2.45.1
      --keep       leave the data of the SDK tests' service in target/sdk-data
  fuzz [options] [TARGET...]
                   coverage-guided fuzzing of everything that reads foreign bytes; keeps what it
                   learns in target/fuzzing
      --seconds N  for each target (60)
  bench [args]     build in release and run the benchmarks with these arguments
  soak [options]   random work against a service that is killed again and again; fails if a
                   sandbox is lost, or anything left behind (try `cargo xtask soak --help`)
      --release    against the release build
  help             this text";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&args) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("xtask: {}", failure.chain());
            ExitCode::FAILURE
        }
    }
}

fn dispatch(args: &[String]) -> Result<ExitCode> {
    let Some((command, rest)) = args.split_first() else {
        println!("{USAGE}");
        return Ok(ExitCode::FAILURE);
    };
    match command.as_str() {
        "up" => up::up(rest),
        "build" => no_arguments("build", rest).and_then(|()| binaries::build()).map(done),
        "test" => test::test(&test::Options::parse(rest)?),
        "fuzz" => parsers::fuzz(rest),
        "bench" => bench::bench(rest),
        "soak" => soak::soak(rest),
        "help" | "--help" | "-h" => {
            println!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        unknown => {
            Err(Failure::new(format!("no command `{unknown}`; `cargo xtask help` lists them")))
        }
    }
}

fn no_arguments(command: &str, rest: &[String]) -> Result<()> {
    match rest.first() {
        None => Ok(()),
        Some(extra) => Err(Failure::new(format!("`{command}` takes no arguments, got `{extra}`"))),
    }
}

fn done(_: binaries::Binaries) -> ExitCode {
    ExitCode::SUCCESS
}
