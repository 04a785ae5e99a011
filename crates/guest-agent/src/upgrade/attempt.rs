//! One upgrade, from a binary to its execution.

use std::convert::Infallible;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::binary::{Unfit, check};
use super::exec::exec;
use super::quiesce::{QuiesceError, Quiet, quiesce};
use crate::agent::Agent;
use crate::log;

/// Why the binary was not executed. Everything goes on as before.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    #[error("the new binary is not fit: {0}")]
    Unfit(Unfit),
    #[error("{0}")]
    Quiesce(QuiesceError),
    #[error("the sandbox is ending")]
    Ending,
    #[error("the new binary cannot be executed: {0}")]
    Exec(io::Error),
}

/// Executes `binary` in place of this program.
///
/// Cancel safety: yes, everything goes on.
pub(super) async fn attempt(agent: &Arc<Agent>, binary: &OwnedFd) -> Result<Infallible, Failed> {
    check(agent, binary).await.map_err(Failed::Unfit)?;
    let quiet = quiesce(agent).await.map_err(Failed::Quiesce)?;
    let failed = execute(agent, binary, &quiet);
    drop(quiet);
    log::odd(format_args!("an upgrade failed: {failed}"));
    Err(failed)
}

fn execute(agent: &Agent, binary: &OwnedFd, quiet: &Quiet) -> Failed {
    // Kept locked: whoever wants to end this program comes before or not at all.
    let is_ending = agent.upgrades.ending.lock();
    if *is_ending {
        return Failed::Ending;
    }
    let flags = [("--listen-fd", quiet.listener), ("--resume-handover", quiet.state)];
    let flags = flags.map(|(flag, fd)| [OsString::from(flag), fd.to_string().into()]);
    let arguments = agent.upgrades.arguments.iter().cloned().chain(flags.into_iter().flatten());
    Failed::Exec(exec(binary, arguments.collect(), &quiet.leaving.kept))
}
