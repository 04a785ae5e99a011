//! `POST /fsfreeze` and `POST /fsthaw`: what is written to the root file system is brought to the
//! disk, and further writes wait.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use http::StatusCode;
use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::ioctl::{NoArg, Opcode, ioctl, opcode};
use tokio_util::sync::DropGuard;

use super::freeze::panicked;
use crate::agent::Agent;
use crate::rest::RestError;
use crate::{log, tasks};

/// After this it thaws by itself. The protocol asks for that with frozen processes only; but a root
/// file system whose host has gone away would keep the sandbox from ever writing again, and a host
/// that copies a disk gives up much sooner.
const PATIENCE: Duration = Duration::from_mins(10);

const FIFREEZE: Opcode = opcode::read_write::<libc::c_int>(b'X', 119);
const FITHAW: Opcode = opcode::read_write::<libc::c_int>(b'X', 120);

/// The file system of one directory.
pub(super) struct FileSystem {
    path: PathBuf,
    patience: Duration,
    /// Held while the kernel is asked, so that a thaw by itself never meets another freeze.
    state: Mutex<Frozen>,
}

#[derive(Default)]
struct Frozen {
    /// Counts freezes and thaws.
    round: u64,
    /// There while the agent has it frozen. Called off when dropped.
    watchdog: Option<DropGuard>,
}

impl Default for FileSystem {
    fn default() -> Self {
        Self { path: "/".into(), patience: PATIENCE, state: Mutex::default() }
    }
}

impl FileSystem {
    /// Blocks until everything is on the disk. One that is frozen already is what was wanted, and
    /// whoever did that thaws it.
    fn freeze(self: &Arc<Self>) -> io::Result<()> {
        let mut state = self.state.lock();
        match self.ask::<FIFREEZE>() {
            Err(Errno::BUSY) if state.watchdog.is_none() => Ok(()),
            Ok(()) | Err(Errno::BUSY) => {
                state.round += 1;
                state.watchdog = Some(self.watch(state.round));
                Ok(())
            }
            Err(refused) => Err(refused.into()),
        }
    }

    /// Whether it is the agent that has it frozen.
    pub(super) fn is_frozen(&self) -> bool {
        self.state.lock().watchdog.is_some()
    }

    /// The agent before this one has frozen it: it thaws by itself if nobody asks for that.
    pub(super) fn take_over(self: &Arc<Self>) {
        let mut state = self.state.lock();
        state.round += 1;
        state.watchdog = Some(self.watch(state.round));
    }

    /// One that is not frozen is what was wanted.
    fn thaw(&self) -> io::Result<()> {
        self.thaw_in(&mut self.state.lock())
    }

    fn thaw_in(&self, state: &mut Frozen) -> io::Result<()> {
        match self.ask::<FITHAW>() {
            Ok(()) | Err(Errno::INVAL) => {
                state.round += 1;
                state.watchdog = None;
                Ok(())
            }
            Err(refused) => Err(refused.into()),
        }
    }

    fn ask<const WHAT: Opcode>(&self) -> rustix::io::Result<()> {
        let directory = File::open(&self.path)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        // SAFETY: both requests have no argument that the kernel looks at.
        #[expect(unsafe_code, reason = "there is no safe form of these two requests")]
        unsafe {
            ioctl(directory, NoArg::<WHAT>::new())
        }
    }

    fn watch(self: &Arc<Self>, round: u64) -> DropGuard {
        let file_system = Arc::clone(self);
        tasks::unless_dropped(self.patience, async move {
            let thawed = tasks::blocking(move || {
                let mut state = file_system.state.lock();
                // Somebody was faster by a moment.
                if state.round != round {
                    return Ok(());
                }
                let patience = file_system.patience;
                log::odd(format_args!("the root file system thaws by itself after {patience:?}"));
                file_system.thaw_in(&mut state)
            });
            if let Some(Err(error)) = thawed.await {
                log::odd(format_args!("the root file system stays frozen: {error}"));
            }
        })
    }
}

pub(super) async fn freeze(State(agent): State<Arc<Agent>>) -> Result<StatusCode, RestError> {
    ask(&agent, "frozen", FileSystem::freeze).await
}

pub(super) async fn thaw(State(agent): State<Arc<Agent>>) -> Result<StatusCode, RestError> {
    ask(&agent, "thawed", |file_system| file_system.thaw()).await
}

/// The turn lasts as long as the kernel takes, also when the client does not wait for it.
async fn ask(
    agent: &Agent,
    what: &str,
    work: impl FnOnce(&Arc<FileSystem>) -> io::Result<()> + Send + 'static,
) -> Result<StatusCode, RestError> {
    let turn = agent.control.turn.take().await?;
    let file_system = Arc::clone(&agent.control.file_system);
    let done = tasks::blocking(move || {
        let _turn = turn;
        work(&file_system)
    });
    match done.await.ok_or_else(panicked)? {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        Err(error) => {
            let text = format!("the root file system could not be {what}: {error}");
            Err(RestError::new(StatusCode::INTERNAL_SERVER_ERROR, text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_kernel() {
        // On the machines we run on; others have them elsewhere, which is what the macro is for.
        if cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
            assert_eq!((FIFREEZE, FITHAW), (0xC004_5877, 0xC004_5878));
        }
    }

    /// The one of `/proc` has no disk, so the kernel refuses, whoever asks.
    #[test]
    fn a_refusal_is_told_and_leaves_nothing_to_thaw() {
        let proc = FileSystem { path: "/proc".into(), ..FileSystem::default() };
        let proc = Arc::new(proc);
        let refused = proc.freeze().unwrap_err();
        let refused = Errno::from_io_error(&refused);
        assert!(matches!(refused, Some(Errno::OPNOTSUPP | Errno::PERM)), "{refused:?}");
        assert!(proc.state.lock().watchdog.is_none());
    }
}
