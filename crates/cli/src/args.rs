//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgMatches, Args, FromArgMatches, Parser, Subcommand};

use crate::config::{Inputs, KEYS};

/// Runs untrusted programs in isolated Linux sandboxes, for clients of E2B's protocol.
#[derive(Debug, Parser)]
#[command(name = "cofferdam", version, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) settings: Settings,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start the whole service on this machine
    Up,
    /// Show the effective configuration and where each value comes from
    Config(Config),
    /// Show what this host offers and lacks, and how many sandboxes fit
    Doctor(Output),
    /// List what a service holds on this host that no live sandbox owns
    Leaks(Output),
    /// Make, list and remove templates
    Images {
        #[command(subcommand)]
        command: Images,
    },
}

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Output {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Config {
    #[command(flatten)]
    pub(crate) output: Output,
    /// Fail on unknown keys too
    #[arg(long)]
    pub(crate) check: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Images {
    /// Make the template `base`, or a new build of it
    BuildBase,
    /// List the templates
    Ls(Output),
    /// Remove a template that no sandbox uses
    Rm {
        /// Its id or alias
        name: String,
    },
}

/// One flag for every setting, and the file.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    file: Option<PathBuf>,
    flags: Vec<(&'static str, String)>,
}

impl Settings {
    /// With what the environment says.
    pub(crate) fn into_inputs(self, env: Vec<(OsString, OsString)>) -> Inputs {
        Inputs { file: self.file, env, flags: self.flags }
    }
}

const FILE: &str = "config";

impl Args for Settings {
    fn augment_args(command: clap::Command) -> clap::Command {
        let file = Arg::new(FILE)
            .long(FILE)
            .value_name("FILE")
            .global(true)
            .help_heading("Settings")
            .value_parser(clap::value_parser!(PathBuf))
            .help("Configuration file [default: /etc/cofferdam/config.toml, if it is there]");
        KEYS.iter().fold(command.arg(file), |command, key| {
            command.arg(
                Arg::new(key.name)
                    .long(key.flag())
                    .value_name("VALUE")
                    .global(true)
                    .help_heading("Settings")
                    .help(format!("{} [default: {}]", key.about, key.default)),
            )
        })
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Settings {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut settings = Self::default();
        settings.update_from_arg_matches(matches)?;
        Ok(settings)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.file = matches.get_one::<PathBuf>(FILE).cloned();
        let said = |name| matches.get_one::<String>(name).cloned();
        self.flags = KEYS.iter().filter_map(|key| Some((key.name, said(key.name)?))).collect();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::{Cli, Command};

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn settings_may_stand_before_or_after_the_command() {
        for line in [
            ["cofferdam", "--listen", "127.0.0.1:1", "up"],
            ["cofferdam", "up", "--listen", "127.0.0.1:1"],
        ] {
            let cli = Cli::try_parse_from(line).unwrap();
            assert!(matches!(cli.command, Command::Up));
            assert_eq!(cli.settings.flags, [("listen", "127.0.0.1:1".to_owned())]);
        }
    }
}
