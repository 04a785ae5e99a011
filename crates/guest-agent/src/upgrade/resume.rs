//! The new agent's side: goes on with what the one before it handed on.

use std::io;
use std::os::fd::RawFd;

use http::HeaderValue;
use serde::Serialize;

use super::descriptors::claim;
use super::exec::let_signals_come;
use super::state::{Arrived, State, read};
use crate::agent::Agent;
use crate::{control, log};

/// Why there is nothing to go on with. Not even who may ask is known then, so there must be no
/// agent either.
#[derive(Debug, thiserror::Error)]
#[error("take over from the agent before this one, by descriptor {fd}")]
pub struct ResumeError {
    fd: RawFd,
    source: io::Error,
}

/// The agent that was this process before.
pub(crate) struct Predecessor {
    state: State,
    arrived: Arrived,
}

/// How much was taken over, as the node is told.
#[derive(Debug, Default, Serialize)]
struct Counts {
    /// Whether nothing at all could be taken over. An agent that says this at all has not failed.
    failed: bool,
    procs: usize,
    procs_failed: usize,
    retained: usize,
    retained_failed: usize,
    watchers: usize,
    watchers_failed: usize,
}

impl Predecessor {
    /// Reads what was handed on. To be called before anything is opened.
    ///
    /// # Errors
    /// When it cannot be read, or not by this agent.
    pub(crate) fn read(fd: RawFd) -> Result<Self, ResumeError> {
        let read = claim(fd).and_then(read);
        let (state, arrived) = read.map_err(|source| ResumeError { fd, source })?;
        // Executed by its descriptor, it is named after that.
        let _cosmetic = rustix::thread::set_name(c"envd");
        Ok(Self { state, arrived })
    }

    /// The soft limit on open files that the first agent found.
    pub(crate) fn open_files(&self) -> Option<u64> {
        self.state.open_files
    }
}

/// Goes on with everything. The reaper must not have reaped yet, and signals be listened for.
pub(crate) fn take_over(agent: &Agent, predecessor: Predecessor) {
    let Predecessor { state, mut arrived } = predecessor;
    agent.settings.take_over(state.settings);
    control::take_over(agent, state.frozen);
    if let Some(journal) = state.journal {
        agent.journal.take_over(journal);
    }
    let mut counts = Counts { watchers_failed: state.watchers_failed, ..Counts::default() };
    for handed in state.processes {
        match agent.processes.take_over(handed, &mut arrived) {
            Ok(()) => counts.procs += 1,
            Err(error) => {
                counts.procs_failed += 1;
                log::odd(format_args!("a process was not taken over, but killed: {error}"));
            }
        }
    }
    for handed in state.ends {
        agent.processes.take_over_end(handed, &mut arrived);
        counts.retained += 1;
    }
    for handed in state.watchers {
        match agent.watchers.take_over(handed, &mut arrived) {
            Ok(()) => counts.watchers += 1,
            Err(error) => {
                counts.watchers_failed += 1;
                log::odd(format_args!("a watcher was not taken over: {error}"));
            }
        }
    }
    let report = serde_json::to_string(&counts).ok().map(HeaderValue::try_from);
    if let Some(Ok(report)) = report {
        let _set_once = agent.upgrades.report.set(report);
    }
    let_signals_come();
}
