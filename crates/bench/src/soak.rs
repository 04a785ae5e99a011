//! `soak`: random work against a real service that is killed again and again, and a model that
//! knows what must still be there.

mod bare;
mod caller;
mod course;
mod daemon;
mod dozes;
mod drive;
mod footprint;
mod guest;
mod journal;
mod model;
mod ops;
mod pauses;
mod probe;
mod report;
mod schedule;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

pub(crate) use self::bare::{Program, run as run_bare};
pub(crate) use self::footprint::Host;
use self::schedule::Ends;
use crate::service::target;

#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// How long work goes on; 1 when `--churn` says nothing either.
    #[arg(long)]
    minutes: Option<f64>,
    /// Goes on until so many sandboxes were made; with `--minutes`, until either is reached.
    #[arg(long, visible_alias = "sandboxes")]
    churn: Option<u64>,
    /// Everything random follows from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many work at the same time.
    #[arg(long, default_value_t = 4)]
    workers: u32,
    /// Whether the workers do as much as they can, or so little that the machine is mostly idle; then
    /// creates and kills are measured beside them, too.
    #[arg(long, value_enum, default_value_t = Load::Full)]
    load: Load,
    /// Sandboxes there may be at a time. A quarter of them stays to the end, through every kill.
    #[arg(long, default_value_t = 32)]
    max_live: usize,
    /// How often the daemon is killed; `auto` is three times a minute, or once in 200 sandboxes.
    #[arg(long, default_value = "auto")]
    kills: String,
    /// How often a new daemon takes over from one that runs.
    #[arg(long, default_value_t = 0)]
    handovers: u64,
    /// How often a daemon is told to go and to leave its sandboxes to the next.
    #[arg(long, default_value_t = 0)]
    leaves: u64,
    /// Sandboxes are paused, resumed and made into snapshots, too.
    #[arg(long)]
    pauses: bool,
    /// Faults a start of the daemon may have, `POINT=error|delay|panic|kill[*TIMES],...`; only a
    /// build with fault injection has them. A delay is of 1.5 s, or as said: `delay:MILLISECONDS`.
    #[arg(long, value_delimiter = ',')]
    faults: Vec<String>,
    /// Creates and kills that are measured before and after, each.
    #[arg(long, default_value_t = 200)]
    measured: u16,
    /// The program under test.
    #[arg(long, default_value_os_t = target("release/cofferdam"))]
    program: PathBuf,
    /// The agent, when it is not beside the program.
    #[arg(long)]
    envd: Option<PathBuf>,
    /// A directory of its own; what an earlier run left in it is removed, but for the templates.
    #[arg(long, default_value_os_t = target("soak-data"))]
    data_dir: PathBuf,
    /// Where the journal and the daemons' log go.
    #[arg(long, default_value_os_t = target("soak"))]
    log_dir: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Load {
    Full,
    Light,
}

impl Options {
    fn ends(&self) -> anyhow::Result<Ends> {
        Ok(Ends { kills: self.kills()?, handovers: self.handovers, leaves: self.leaves })
    }

    /// How often the daemon is killed.
    fn kills(&self) -> anyhow::Result<u64> {
        if self.kills != "auto" {
            return Ok(self.kills.parse()?);
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "minutes")]
        let by_time = (self.minutes() * 3.0) as u64;
        Ok(self.churn.map_or(by_time, |churn| churn / 200).max(1))
    }

    fn minutes(&self) -> f64 {
        self.minutes.unwrap_or(1.0)
    }
}

pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(drive::drive(options))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::Options;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn kills(args: &[&str]) -> u64 {
        Line::parse_from(["soak"].iter().chain(args)).options.kills().unwrap()
    }

    #[test]
    fn the_number_of_kills_follows_from_the_length_unless_it_is_said() {
        assert_eq!(kills(&[]), 3);
        assert_eq!(kills(&["--minutes", "10"]), 30);
        assert_eq!(kills(&["--minutes", "0.1"]), 1);
        assert_eq!(kills(&["--churn", "10000"]), 50);
        assert_eq!(kills(&["--kills", "0"]), 0);
    }
}
