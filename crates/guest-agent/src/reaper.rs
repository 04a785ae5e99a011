//! Owns every wait of this program.
//!
//! As the first process of a sandbox the agent inherits every orphan, and waiting for "any
//! child" takes the exits of its own children too. So there is one place that waits, and it
//! hands an exit to whoever registered the process. Starting, signalling and reaping share one
//! lock: no exit is lost between start and registration, and no signal can reach a stranger who
//! got the number of a process already reaped.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, SetOnce};

use crate::tasks;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Exit {
    Code(i32),
    Signal { number: i32, core_dumped: bool },
}

/// Where the exit of one process is told, and stays.
pub(crate) type Ending = Arc<SetOnce<Exit>>;

/// Registered processes: those started and not yet reaped.
#[derive(Default)]
pub(crate) struct Reaper {
    state: Mutex<State>,
    /// Told after each round that found no child left.
    childless: Notify,
}

#[derive(Default)]
struct State {
    waiting: HashMap<Pid, Ending>,
    /// Set, and who ends stays a zombie until it is not.
    is_paused: bool,
}

impl Reaper {
    /// A reaper that reaps as soon as it is told to [`Reaper::go_on`]: what was started by an agent
    /// before this one must be registered first. Must be called inside the runtime.
    ///
    /// # Errors
    /// When the signal that tells of ended children cannot be watched.
    pub(crate) fn start() -> io::Result<Arc<Self>> {
        let mut child_ended = signal(SignalKind::child())?;
        let reaper = Arc::new(Self::default());
        reaper.pause();
        let reaping = Arc::clone(&reaper);
        tasks::spawn(async move {
            while child_ended.recv().await.is_some() {
                reaping.reap();
            }
        });
        Ok(reaper)
    }

    /// Calls `fork` and registers the child it gives before anybody can reap it.
    ///
    /// # Errors
    /// Those of `fork`.
    pub(crate) fn register(
        &self,
        fork: impl FnOnce() -> io::Result<Pid>,
    ) -> io::Result<(Pid, Ending)> {
        let ending = Ending::default();
        let mut state = self.state.lock();
        let pid = fork()?;
        state.waiting.insert(pid, Arc::clone(&ending));
        Ok((pid, ending))
    }

    /// Registers a child that was started before this program was executed in its place. The
    /// reaper must be paused, or the child may be reaped as a stranger.
    pub(crate) fn adopt(&self, pid: Pid) -> Ending {
        let ending = Ending::default();
        self.state.lock().waiting.insert(pid, Arc::clone(&ending));
        ending
    }

    /// Reaps nobody until it is told to go on. Exits that were told before are told in full.
    pub(crate) fn pause(&self) {
        self.state.lock().is_paused = true;
    }

    /// Reaps again, and first of all those who ended meanwhile: no signal tells of them twice.
    pub(crate) fn go_on(&self) {
        self.state.lock().is_paused = false;
        self.reap();
    }

    /// Signals a registered process.
    ///
    /// # Errors
    /// `ESRCH` when it has been reaped.
    pub(crate) fn signal(&self, pid: Pid, signal: Signal) -> io::Result<()> {
        let state = self.state.lock();
        if !state.waiting.contains_key(&pid) {
            return Err(Errno::SRCH.into());
        }
        Ok(rustix::process::kill_process(pid, signal)?)
    }

    /// Asks every process of the sandbox to end, or, outside of one, every own child; then waits
    /// until all are gone or `limit` is over.
    pub(crate) async fn end_all(&self, limit: Duration) {
        if std::process::id() == 1 {
            // The kernel reads group 1 as "every process but this one"; none left is fine.
            let _none_left = rustix::process::kill_process_group(Pid::INIT, Signal::TERM);
        } else {
            for pid in self.state.lock().waiting.keys() {
                let _ended_meanwhile = rustix::process::kill_process(*pid, Signal::TERM);
            }
        }
        let gone = self.childless.notified();
        self.go_on();
        let _in_time = tasks::within(limit, gone).await;
    }

    fn reap(&self) {
        let mut state = self.state.lock();
        while !state.is_paused {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    if let Some(exit) = exit_of(status)
                        && let Some(ending) = state.waiting.remove(&pid)
                    {
                        let _told_once = ending.set(exit);
                    }
                }
                Err(Errno::INTR) => {}
                Ok(None) => return,
                Err(_no_child) => {
                    self.childless.notify_waiters();
                    return;
                }
            }
        }
    }
}

fn exit_of(status: WaitStatus) -> Option<Exit> {
    const CORE_DUMPED: i32 = 0x80;
    if let Some(code) = status.exit_status() {
        return Some(Exit::Code(code));
    }
    let number = status.terminating_signal()?;
    Some(Exit::Signal { number, core_dumped: status.as_raw() & CORE_DUMPED != 0 })
}
