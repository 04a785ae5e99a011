//! Processes by pidfd: spawned straight into their cgroup, awaited by event, never signalled by
//! a bare number.

mod clone;
mod image;
mod namespaces;
mod orphans;
mod spawn;

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fd::BorrowedFd;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_open, pidfd_send_signal,
    waitid,
};
use tokio::io::Interest;

pub use image::sealed_copy;
pub use orphans::{Orphans, zombie_children};
pub(crate) use spawn::run_in_network;
pub use spawn::{Finished, MAX_OUTPUT, RunError, Spawn, run, run_with};

pub(crate) use namespaces::{Namespaces, make_namespaces};

use crate::HostError;
use crate::error::Tried;
use crate::proc::start_time;
use crate::ready::Ready;

/// Who a process is, for a daemon that did not start it: a number alone may belong to another
/// process by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ProcessIdentity {
    pub pid: i32,
    /// Clock ticks since boot.
    pub start_time: u64,
}

/// A process held by descriptor. Dropping it lets go of the descriptor, not of the process; what
/// is a child of ours and has not been waited for by then is left to [`Orphans`].
#[derive(Debug)]
pub struct Process {
    pidfd: OwnedFd,
    identity: ProcessIdentity,
}

impl Process {
    pub(crate) fn from_pidfd(pidfd: OwnedFd, pid: i32) -> Self {
        orphans::hold(pid);
        let start_time = start_time(pid).unwrap_or(0);
        Self { pidfd, identity: ProcessIdentity { pid, start_time } }
    }

    /// Opens the process `pid` as it is now.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(pid: i32) -> Result<Self, HostError> {
        let raw = number(pid)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
            .tried("open process", pid.to_string())?;
        let pidfd = pidfd_open(raw, PidfdFlags::empty()).tried("open process", pid.to_string())?;
        Ok(Self::from_pidfd(pidfd, pid))
    }

    /// The process that an earlier daemon knew as `identity`; `None` when it has ended, also when
    /// its number is another process's by now.
    ///
    /// # Errors
    /// When the kernel refuses a descriptor for another reason than that.
    pub fn adopt(identity: ProcessIdentity) -> Result<Option<Self>, HostError> {
        let name = identity.pid.to_string();
        let Some(pid) = number(identity.pid) else { return Ok(None) };
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            opened => opened.tried("open process", &name)?,
        };
        // The descriptor first, the question then: the answer is about the process of the
        // descriptor, or there is no process of that number any more.
        let process = Self::from_pidfd(pidfd, identity.pid);
        if process.identity.start_time == 0 && process.is_running()? {
            // It runs, and its times cannot be read now: nobody may take it for another.
            return Err(io::Error::from(rustix::io::Errno::AGAIN)).tried("look at process", name);
        }
        if process.identity != identity || !process.is_running()? {
            return Ok(None);
        }
        Ok(Some(process))
    }

    /// Whether it has not ended yet; a zombie has.
    ///
    /// # Errors
    /// When the descriptor cannot be polled.
    pub fn is_running(&self) -> Result<bool, HostError> {
        let ended = is_readable(self.pidfd.as_fd());
        Ok(!ended.tried("look at process", self.identity.pid.to_string())?)
    }

    /// The namespace of `kind` (a name in `/proc/PID/ns`) it is in.
    ///
    /// # Errors
    /// When it has ended.
    pub(crate) fn namespace(&self, kind: &str) -> io::Result<OwnedFd> {
        let opened = std::fs::File::open(format!("/proc/{}/ns/{kind}", self.identity.pid))?;
        // Still running, so the number was its own when the file was opened.
        if is_readable(self.pidfd.as_fd())? {
            return Err(rustix::io::Errno::SRCH.into());
        }
        Ok(opened.into())
    }

    #[must_use]
    pub fn identity(&self) -> ProcessIdentity {
        self.identity
    }

    /// Sends `signal`. A process that has ended already is not an error.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn signal(&self, signal: Signal) -> Result<(), HostError> {
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(err) => Err(err).tried("signal process", self.identity.pid.to_string()),
        }
    }

    /// Waits until it has ended, and reaps it when it is a child of ours. `None` when somebody
    /// else is its parent and so has its status.
    ///
    /// Cancel safety: yes.
    ///
    /// # Errors
    /// When the reactor is gone or refuses the descriptor.
    pub async fn exited(&self) -> Result<Option<ExitStatus>, HostError> {
        let pid = self.identity.pid.to_string();
        let fd = self.pidfd.try_clone().tried("watch process", &pid)?;
        let ready = Ready::new(fd, Interest::READABLE).tried("watch process", &pid)?;
        ready.until(reap).await.tried("wait for process", &pid)
    }
}

/// `None` for what no process can have; rustix takes a negative number for a mistake of ours.
fn number(pid: i32) -> Option<Pid> {
    Pid::from_raw(pid.max(0))
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    Code(i32),
    Signal(i32),
}

impl ExitStatus {
    #[must_use]
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }
}

impl std::fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// Takes the status of an ended child. The outer `Option` is "has it ended".
fn reap(pidfd: BorrowedFd<'_>) -> io::Result<Option<Option<ExitStatus>>> {
    match waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
        Ok(None) => Ok(None),
        Ok(Some(status)) => Ok(Some(Some(exit_status(&status)))),
        // Not our child, or reaped already: a readable pidfd is all there is to know.
        Err(rustix::io::Errno::CHILD) => Ok(is_readable(pidfd)?.then_some(None)),
        Err(err) => Err(err.into()),
    }
}

fn exit_status(status: &WaitIdStatus) -> ExitStatus {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => ExitStatus::Code(code),
        (None, Some(signal)) => ExitStatus::Signal(signal),
        (None, None) => ExitStatus::Code(-1),
    }
}

fn is_readable(fd: BorrowedFd<'_>) -> io::Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    Ok(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? > 0)
}

impl Drop for Process {
    fn drop(&mut self) {
        orphans::let_go(self.identity.pid);
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::{Process, ProcessIdentity, Spawn};

    #[tokio::test]
    async fn only_the_process_that_was_meant_is_adopted() {
        let (reader, writer) = std::io::pipe().unwrap();
        let child = Spawn::new("/bin/cat").input(reader.as_fd()).start().unwrap();
        let identity = child.identity();
        let adopted = Process::adopt(identity).unwrap().unwrap();
        assert_eq!(adopted.identity(), identity);
        // The same number, and a process that started at another time.
        let reused = ProcessIdentity { start_time: identity.start_time + 1, ..identity };
        assert!(Process::adopt(reused).unwrap().is_none());
        let nobody = ProcessIdentity { pid: -1, ..identity };
        assert!(Process::adopt(nobody).unwrap().is_none());
        drop(adopted);
        drop(writer);
        // Ended and not reaped: its number is still its own, and it is no process to adopt.
        while child.is_running().unwrap() {
            tokio::task::yield_now().await;
        }
        assert!(Process::adopt(identity).unwrap().is_none());
        child.exited().await.unwrap();
        assert!(Process::adopt(identity).unwrap().is_none());
    }
}
