//! The command line.

mod inside;
mod teams;

pub(crate) use inside::{Around, As, Cp, Exec, Logs, Shell};
pub(crate) use teams::{Key, Limit, Limits, OfTeam, Team};

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgMatches, Args, FromArgMatches, Parser, Subcommand};
use model::{NodeId, SandboxId};

use crate::config::{Inputs, KEYS, duration};

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
    Up(Up),
    /// Show the effective configuration and where each value comes from
    Config(Config),
    /// Show what this host offers and lacks, and how many sandboxes fit
    Doctor(Output),
    /// List what a service holds on this host that no live sandbox owns
    Leaks(Output),
    /// Look at the nodes of a running service, empty them, and hand one over to this program
    #[command(arg_required_else_help = true)]
    Node(Nodes),
    /// Look at the sandboxes of a running service, run programs in them, pause, copy and end them
    Sandbox {
        #[command(subcommand)]
        command: Sandbox,
    },
    /// Look at the teams of a running service, make them, and set what each may have
    Team {
        #[command(subcommand)]
        command: Team,
    },
    /// Look at the API keys of a team, make them, and take them back
    Key {
        #[command(subcommand)]
        command: Key,
    },
    /// Remove everything a service has made on this host, its data directory included; 2 is the
    /// exit code when something is left
    Uninstall(Uninstall),
    /// Make, list and remove templates
    Images {
        #[command(subcommand)]
        command: Images,
    },
}

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Up {
    /// Take the place of the service that runs in the data directory, with its sockets and its
    /// sandboxes; start as usual if none does
    #[arg(long)]
    handover: bool,
}

impl Up {
    /// Whether it takes the place of the service that runs in the data directory.
    pub(crate) fn succeeds(self) -> bool {
        self.handover
    }
}

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Uninstall {
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
    /// Leave the templates where they are
    #[arg(long)]
    pub(crate) keep_images: bool,
    #[command(flatten)]
    pub(crate) output: Output,
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

#[derive(Debug, Args)]
pub(crate) struct Nodes {
    /// As `node handover`
    #[arg(long)]
    handover: bool,
    #[command(subcommand)]
    command: Option<Node>,
}

impl Nodes {
    /// What is asked for, if it is one thing.
    ///
    /// # Errors
    /// It is none, or two.
    pub(crate) fn into_command(self) -> Result<Node, &'static str> {
        match (self.handover, self.command) {
            (true, None) => Ok(Node::Handover { binary: None }),
            (false, Some(command)) => Ok(command),
            (true, Some(_)) => Err("--handover is a command of its own; leave out the other"),
            (false, None) => Err("say what to do with the nodes; see `cofferdam node --help`"),
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Node {
    /// Have the service that runs in the data directory give its place to this program, in the same
    /// process, with its sockets and its sandboxes; returns when that serves. Whoever supervises the
    /// process sees no end of it
    Handover {
        /// Another program than this one
        #[arg(long, value_name = "PATH")]
        binary: Option<PathBuf>,
    },
    #[command(flatten)]
    Asking(NodeAsking),
}

/// What the API of a running service is asked for.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeAsking {
    /// List the nodes
    Ls(Output),
    /// Show what runs on a node and how its drain gets on
    Status {
        #[command(flatten)]
        node: Which,
        /// Fail with 1 unless it admits new work
        #[arg(long, conflicts_with = "watch")]
        ready: bool,
        /// Go on showing it until interrupted
        #[arg(long)]
        watch: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Let no more work onto a node, for good, until it is started again
    Drain(Drain),
    /// List what a node holds on its host that nobody owns
    Leaks {
        #[command(flatten)]
        node: Which,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Which {
    /// Its id; may be left out where there is one node
    #[arg(value_name = "NODE")]
    pub(crate) id: Option<NodeId>,
}

#[derive(Debug, Args)]
pub(crate) struct Drain {
    #[command(flatten)]
    pub(crate) node: Which,
    /// Wait until it is empty; 3 is the exit code when something is left. An interrupt ends the
    /// wait and not the drain
    #[arg(long)]
    pub(crate) wait: bool,
    /// End at once what runs
    #[arg(long)]
    pub(crate) force: bool,
    /// Wait, and end what still runs after this time, such as 10m
    #[arg(long, value_name = "TIME", value_parser = time, conflicts_with = "force")]
    pub(crate) force_after: Option<Duration>,
    #[command(flatten)]
    pub(crate) output: Output,
}

fn time(text: &str) -> Result<Duration, &'static str> {
    duration(text).ok_or("give a time with its unit, such as 90s, 10m or 1h30m")
}

#[derive(Debug, Subcommand)]
pub(crate) enum Sandbox {
    /// List what every node has, those that are stuck included
    Ls(Output),
    /// Show everything about one
    Info {
        /// Its id
        #[arg(value_name = "ID", value_parser = sandbox_id)]
        id: SandboxId,
        #[command(flatten)]
        output: Output,
    },
    /// Say what became of one and why, also after its end, as long as its record is kept
    Explain {
        /// Its id
        #[arg(value_name = "ID", value_parser = sandbox_id)]
        id: SandboxId,
        #[command(flatten)]
        output: Output,
    },
    /// Pause one: it keeps what it has and is not reachable until somebody lets it go on
    Pause {
        /// Its id
        #[arg(value_name = "ID", value_parser = sandbox_id)]
        id: SandboxId,
        /// Keep its files only: what runs in it ends
        #[arg(long)]
        files_only: bool,
    },
    /// Let a paused one go on
    Resume(Resume),
    /// Keep the files of one that runs, as a template of its team
    Snapshot {
        /// Its id
        #[arg(value_name = "ID", value_parser = sandbox_id)]
        id: SandboxId,
        /// The name of the template, with a tag if it has one: NAME or NAME:TAG
        #[arg(long)]
        name: Option<String>,
    },
    /// Start copies of one that runs, of its files and its settings; 3 is the exit code when not
    /// all could be started
    Fork(Fork),
    /// Run a program in one, with the exit code of the program; 125 when it could not be run, or its
    /// end was not seen
    Exec(Exec),
    /// Open a shell in one, on this terminal
    Shell(Shell),
    /// Copy files and directories into one, or out of it; 3 is the exit code when something was left
    /// out
    Cp(Cp),
    /// Show what the service has logged of one, also after its end, as long as its record is kept
    Logs(Logs),
    /// End one, and wait until all it held is released; 3 is the exit code when something is left
    Kill(Kill),
}

#[derive(Debug, Args)]
pub(crate) struct Resume {
    /// Its id
    #[arg(value_name = "ID", value_parser = sandbox_id)]
    pub(crate) id: SandboxId,
    /// How long it runs from now
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "300s")]
    pub(crate) timeout: Duration,
    /// Start it anew from its files, even if what ran in it is kept
    #[arg(long)]
    pub(crate) files_only: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Fork {
    /// Its id
    #[arg(value_name = "ID", value_parser = sandbox_id)]
    pub(crate) id: SandboxId,
    /// How many
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) count: u32,
    /// How long they run from now
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "300s")]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Kill {
    /// Its id
    #[arg(value_name = "ID", value_parser = sandbox_id)]
    pub(crate) id: SandboxId,
    /// Try again until it is gone
    #[arg(long)]
    pub(crate) retry: bool,
    /// How long to try again
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "60s", requires = "retry")]
    pub(crate) timeout: Duration,
}

/// The id, also as older clients write it: with the client's own after it.
pub(crate) fn sandbox_id(text: &str) -> Result<SandboxId, String> {
    let id = e2b_wire::parse_sandbox_path(text).map_err(|error| error.to_string())?;
    SandboxId::parse(id).map_err(|error| error.to_string())
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
    /// The flags that say the same.
    pub(crate) fn to_flags(&self) -> Vec<OsString> {
        let file = self.file.iter().flat_map(|file| ["--config".into(), file.into()]);
        let flag = |(name, value): &(&str, String)| {
            let key = KEYS.iter().find(|key| key.name == *name)?;
            Some([format!("--{}", key.flag()).into(), value.into()])
        };
        file.chain(self.flags.iter().filter_map(flag).flatten()).collect()
    }

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
            assert!(matches!(cli.command, Command::Up(_)));
            assert_eq!(cli.settings.flags, [("listen", "127.0.0.1:1".to_owned())]);
        }
    }

    #[test]
    fn settings_are_told_again_as_they_were() {
        let line = ["cofferdam", "--config", "/x y", "up", "--listen", "127.0.0.1:1", "--handover"];
        let settings = Cli::try_parse_from(line).unwrap().settings;
        let again = ["cofferdam".into(), "up".into()].into_iter().chain(settings.to_flags());
        let again = Cli::try_parse_from(again).unwrap();
        assert!(matches!(again.command, Command::Up(up) if !up.succeeds()));
        assert_eq!(format!("{:?}", again.settings), format!("{settings:?}"));
    }
}
