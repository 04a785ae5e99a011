//! What reaches into a sandbox: `cofferdam sandbox exec`, `shell`, `cp` and `logs`.

use std::time::Duration;

use clap::Args;
use e2b_wire::LogLevel;
use model::SandboxId;

use super::{Output, sandbox_id, time};

/// Who acts in which sandbox.
#[derive(Debug, Args)]
pub(crate) struct As {
    /// Whose rights it has; the template's user if it is not said
    #[arg(long)]
    pub(crate) user: Option<String>,
    /// Fail where the sandbox is paused, instead of letting it go on
    #[arg(long)]
    pub(crate) no_resume: bool,
}

/// Where a program runs, and with what.
#[derive(Debug, Args)]
pub(crate) struct Around {
    /// Where it starts; the home directory if it is not said
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<String>,
    /// A variable of its environment; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    pub(crate) env: Vec<(String, String)>,
    #[command(flatten)]
    pub(crate) acting: As,
}

#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// Its id
    #[arg(value_name = "ID", value_parser = sandbox_id)]
    pub(crate) id: SandboxId,
    #[command(flatten)]
    pub(crate) around: Around,
    /// Print the number of its process and leave it running
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Give it what comes on standard input; otherwise its own is empty
    #[arg(short, long = "stdin", conflicts_with = "detach")]
    pub(crate) input: bool,
    /// The program and its arguments
    #[arg(value_name = "CMD", last = true, required = true)]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Shell {
    /// Its id
    #[arg(value_name = "ID", value_parser = sandbox_id)]
    pub(crate) id: SandboxId,
    #[command(flatten)]
    pub(crate) around: Around,
}

#[derive(Debug, Args)]
pub(crate) struct Cp {
    /// What is copied: a file or a directory, here or as ID:PATH in a sandbox
    #[arg(value_name = "SRC")]
    pub(crate) from: String,
    /// Its copy; if a directory is there already, the copy is made in it
    #[arg(value_name = "DST")]
    pub(crate) to: String,
    #[command(flatten)]
    pub(crate) acting: As,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Its id
    #[arg(value_name = "ID", value_parser = sandbox_id)]
    pub(crate) id: SandboxId,
    /// Go on showing what comes, until it has ended
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// The least level: debug, info, warn or error
    #[arg(long, default_value = "debug")]
    pub(crate) level: LogLevel,
    /// Only what is younger, such as 10m
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) since: Option<Duration>,
    #[command(flatten)]
    pub(crate) output: Output,
}

fn variable(text: &str) -> Result<(String, String), &'static str> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("give a variable as NAME=VALUE"),
    }
}

#[cfg(test)]
mod tests {
    use super::variable;

    #[test]
    fn a_variable_has_a_name_and_anything_for_its_value() {
        assert_eq!(variable("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        assert_eq!(variable("A="), Ok(("A".to_owned(), String::new())));
        for bad in ["", "A", "=b"] {
            variable(bad).unwrap_err();
        }
    }
}
