//! `cofferdam team` and `cofferdam key`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::Output;
use crate::config::duration;

#[derive(Debug, Subcommand)]
pub(crate) enum Team {
    /// List the teams, with the limits in force
    Ls(Output),
    /// Make a team; it has no key yet (see `cofferdam key create`)
    Create {
        /// What people call it
        #[arg(value_name = "NAME")]
        name: String,
        /// What stands in front of its templates' names; made from the name if it is not given
        #[arg(long)]
        slug: Option<String>,
        #[command(flatten)]
        limits: Limits,
        #[command(flatten)]
        output: Output,
    },
    /// Show or change what a team may have; in force at once
    Limits {
        /// Its id or slug
        #[arg(value_name = "TEAM")]
        team: String,
        #[command(flatten)]
        limits: Limits,
        #[command(flatten)]
        output: Output,
    },
}

/// A limit of a team: a value, or `default` for the service's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit<T> {
    Default,
    To(T),
}

/// No group of clap's: the command has its name.
#[derive(Debug, Clone, Copy, Default, Args)]
#[group(skip)]
pub(crate) struct Limits {
    /// Sandboxes at one time, or `default`
    #[arg(long, value_name = "NUMBER", value_parser = number::<u32>)]
    pub(crate) sandboxes: Option<Limit<u32>>,
    /// The longest life of a sandbox, such as 1h, or `default`
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) lifetime: Option<Limit<Duration>>,
    /// Processors of one sandbox, or `default`
    #[arg(long, value_name = "NUMBER", value_parser = number::<u32>)]
    pub(crate) vcpus: Option<Limit<u32>>,
    /// Memory of one sandbox in MiB, or `default`
    #[arg(long, value_name = "MIB", value_parser = number::<u64>)]
    pub(crate) memory: Option<Limit<u64>>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// List the API keys of a team; the keys themselves are not kept anywhere
    Ls {
        #[command(flatten)]
        team: OfTeam,
        #[command(flatten)]
        output: Output,
    },
    /// Make an API key and print it: the only time it can be seen
    Create {
        /// What it is for
        #[arg(value_name = "NAME")]
        name: String,
        #[command(flatten)]
        team: OfTeam,
        #[command(flatten)]
        output: Output,
    },
    /// Take an API key back; it opens nothing from then on
    Rm {
        /// Its id, as `cofferdam key ls` shows it
        #[arg(value_name = "ID")]
        id: String,
        #[command(flatten)]
        team: OfTeam,
    },
}

#[derive(Debug, Args)]
pub(crate) struct OfTeam {
    /// The team's id or slug
    #[arg(long, value_name = "TEAM", default_value = "default")]
    pub(crate) team: String,
}

fn number<T: std::str::FromStr + Clone + Send + Sync>(
    text: &str,
) -> Result<Limit<T>, &'static str> {
    match text {
        "default" => Ok(Limit::Default),
        text => text.parse().map(Limit::To).map_err(|_not_a_number| "give a number, or `default`"),
    }
}

fn time(text: &str) -> Result<Limit<Duration>, &'static str> {
    match text {
        "default" => Ok(Limit::Default),
        text => duration(text)
            .map(Limit::To)
            .ok_or("give a time with its unit, such as 90s, 10m or 1h30m, or `default`"),
    }
}

impl<T> Limit<T> {
    /// As a change: `None` is the service's own.
    pub(crate) fn value(self) -> Option<T> {
        match self {
            Self::Default => None,
            Self::To(value) => Some(value),
        }
    }
}
