//! The program `envd`: reads its arguments and runs the agent.

use std::process::ExitCode;

use guest_agent::HANDOVER_FORMAT;
use guest_agent::cli::{Command, Environment};
use guest_agent::run::run;

fn main() -> ExitCode {
    let environment = Environment::of_this_process();
    match Command::parse(std::env::args_os().skip(1), environment) {
        Ok(Command::Version) => say(&mut std::io::stdout(), guest_wire::ENVD_VERSION, 0),
        Ok(Command::HandoverFormat) => say(&mut std::io::stdout(), &HANDOVER_FORMAT.to_string(), 0),
        Ok(Command::Serve(config)) => match run(config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let mut text = format!("envd: {error}");
                let mut source = std::error::Error::source(&error);
                while let Some(cause) = source {
                    text.push_str(&format!(": {cause}"));
                    source = cause.source();
                }
                say(&mut std::io::stderr(), &text, 1)
            }
        },
        Err(error) => say(&mut std::io::stderr(), &format!("envd: {error}"), 64),
    }
}

/// Prints one line and gives `code`; a closed output is a failure of its own.
fn say(out: &mut dyn std::io::Write, line: &str, code: u8) -> ExitCode {
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Ok(()) => ExitCode::from(code),
        Err(_closed) => ExitCode::FAILURE,
    }
}
