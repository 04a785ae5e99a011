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
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, oneshot};

use crate::tasks;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Code(i32),
    Signal { number: i32, core_dumped: bool },
}

/// Registered processes: those started and not yet reaped.
#[derive(Default)]
pub(crate) struct Reaper {
    waiting: Mutex<HashMap<Pid, oneshot::Sender<Exit>>>,
    /// Told after each round that found no child left.
    childless: Notify,
}

impl Reaper {
    /// A reaper that starts at once to reap. Must be called inside the runtime.
    ///
    /// # Errors
    /// When the signal that tells of ended children cannot be watched.
    pub(crate) fn start() -> io::Result<Arc<Self>> {
        let mut child_ended = signal(SignalKind::child())?;
        let reaper = Arc::new(Self::default());
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
    ) -> io::Result<(Pid, oneshot::Receiver<Exit>)> {
        let (ended, end) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        let pid = fork()?;
        waiting.insert(pid, ended);
        Ok((pid, end))
    }

    /// Signals a registered process.
    ///
    /// # Errors
    /// `ESRCH` when it has been reaped.
    pub(crate) fn signal(&self, pid: Pid, signal: Signal) -> io::Result<()> {
        let waiting = self.waiting.lock();
        if !waiting.contains_key(&pid) {
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
            for pid in self.waiting.lock().keys() {
                let _ended_meanwhile = rustix::process::kill_process(*pid, Signal::TERM);
            }
        }
        let gone = self.childless.notified();
        self.reap();
        let _in_time = tasks::within(limit, gone).await;
    }

    fn reap(&self) {
        let mut waiting = self.waiting.lock();
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    if let Some(exit) = exit_of(status)
                        && let Some(ended) = waiting.remove(&pid)
                    {
                        let _nobody_waits = ended.send(exit);
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
