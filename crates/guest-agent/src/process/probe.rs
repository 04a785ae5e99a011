//! Asks a program something, as the agent's own child.

use std::ffi::{CString, NulError};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal};

use super::command::Command;
use super::end::end_event;
use super::fork::{Executed, ForkError, fork};
use super::stdio::{AgentEnds, Kind, open};
use crate::open_files::OpenFiles;
use crate::pollable::Pollable;
use crate::reaper::{Exit, Reaper};
use crate::tasks;

/// How much of an answer is read.
const SAID_BYTES_MAX: usize = 512;

/// Why a program did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeError {
    #[error("it has a zero byte in its name")]
    Name(#[source] NulError),
    #[error("it cannot be started: {0}")]
    Open(#[source] io::Error),
    #[error("it cannot be started: {0}")]
    Fork(String),
    #[error("it did not answer within {0:?}")]
    Silent(Duration),
    #[error("it ended with {status} and said '{said}'")]
    Failed { status: String, said: String },
}

fn cannot_fork(error: ForkError) -> ProbeError {
    ProbeError::Fork(match std::error::Error::source(&error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    })
}

/// Starts `program` with `argument`, and gives what it says before it ends with success. One that
/// takes longer than `limit` is killed.
///
/// Cancel safety: yes, the program is killed.
///
/// # Errors
/// When it cannot be started, takes too long, or fails.
pub(crate) async fn ask(
    program: &str,
    argument: &str,
    open_files: OpenFiles,
    reaper: &Arc<Reaper>,
    limit: Duration,
) -> Result<String, ProbeError> {
    let command = command(program, argument, open_files).map_err(ProbeError::Name)?;
    let (child_ends, ends) = open(Kind::Pipes { input: false }).map_err(ProbeError::Open)?;
    let forked = fork(&command, child_ends, None, reaper).map_err(cannot_fork)?;
    let child = Child { pid: forked.pid, reaper };
    let answer = async {
        let Executed { end: ending, .. } = forked.executed().await.map_err(cannot_fork)?;
        let AgentEnds { outputs, .. } = ends;
        let said = futures::future::join_all(outputs.iter().map(|(_of, fd)| all(fd))).await;
        drop(outputs);
        let exit = *ending.wait().await;
        let said = said.concat().trim().to_owned();
        match exit {
            Exit::Code(0) => Ok(said),
            other => Err(ProbeError::Failed { status: end_event(other).status, said }),
        }
    };
    let answered = tasks::within(limit, answer).await;
    drop(child);
    answered.unwrap_or(Err(ProbeError::Silent(limit)))
}

/// Killed when dropped, if it has not ended yet.
struct Child<'a> {
    pid: Pid,
    reaper: &'a Reaper,
}

impl Drop for Child<'_> {
    fn drop(&mut self) {
        let _ended_already = self.reaper.signal(self.pid, Signal::KILL);
    }
}

/// To be run as the agent itself, and without its variables.
fn command(program: &str, argument: &str, open_files: OpenFiles) -> Result<Command, NulError> {
    let program = CString::new(program)?;
    let argument = CString::new(argument)?;
    let groups = rustix::process::getgroups().unwrap_or_default();
    Ok(Command {
        arguments: vec![program.clone(), argument],
        variables: Vec::new(),
        candidates: vec![program],
        workdir: CString::new("/")?,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        groups: groups.into_iter().map(|group| group.as_raw()).collect(),
        open_files: open_files.as_raw(),
        may_be_script: false,
        not_found: b"there is no such file\n".to_vec(),
        not_executable: b"it is not executable on this machine\n".to_vec(),
    })
}

/// What comes until the end, or the first of it.
async fn all(fd: &Pollable) -> String {
    let mut said = vec![0; SAID_BYTES_MAX];
    let mut count = 0;
    while let Some(room @ [_, ..]) = said.get_mut(count..) {
        match fd.read(room).await {
            Ok(more @ 1..) => count += more,
            Ok(0) | Err(_) => break,
        }
    }
    said.truncate(count);
    String::from_utf8_lossy(&said).into_owned()
}
