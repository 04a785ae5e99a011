//! A program with process and mount namespaces of its own, and its complete end.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use lifecycle::Budget;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open,
    pidfd_send_signal, waitid,
};
use tokio::process::Child;

/// How long all that a program has started may take to be gone when they were killed: one in the
/// middle of a write goes when the disk is done with it.
const END_LIMIT: Duration = Duration::from_secs(30);

/// `setpriv` ends the program with us, even when we are killed. `unshare` gives it a mount and a
/// process namespace that end with it: however it ends, no mount is left on the host and no process
/// goes on writing.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) setpriv: PathBuf,
    pub(crate) unshare: PathBuf,
}

impl Keeper {
    pub(super) fn program(&self) -> &Path {
        &self.setpriv
    }

    /// Up to and with `program`; its own arguments come after them.
    pub(super) fn args(&self, program: &Path) -> Vec<OsString> {
        let mut args: Vec<OsString> = ["--pdeathsig", "KILL", "--"].map(OsString::from).to_vec();
        args.push((&self.unshare).into());
        let options = ["--mount", "--propagation=private", "--pid", "--fork"];
        args.extend(options.map(OsString::from));
        args.extend(["--kill-child=SIGKILL".into(), "--".into(), program.into()]);
        args
    }
}

/// A program that was started by a [`Keeper`]. Dropping it kills it; only [`Kept::end`] waits for
/// everything it has started.
#[derive(Debug)]
pub(super) struct Kept {
    child: Child,
    /// Of the keeper, whose own child is the first process of the program.
    keeper: OwnedFd,
    /// The keeper has not been waited for, so its number is still its own, and its group's.
    group: Option<Pid>,
}

impl Kept {
    pub(super) fn new(child: Child) -> io::Result<Self> {
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("a child that runs has no number"))?;
        let keeper = pidfd_open(pid, PidfdFlags::empty())?;
        Ok(Self { child, keeper, group: Some(pid) })
    }

    /// Waits for its end by itself. The first process of a process namespace is waited for by its
    /// keeper and goes after all others: nothing is left of it then.
    ///
    /// Cancel safety: yes.
    pub(super) async fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await?;
        self.group = None;
        Ok(status)
    }

    /// Kills it, and waits until everything it has started is gone.
    ///
    /// Cancel safety: it is killed, but may take a moment to be gone.
    pub(super) async fn end(&mut self) {
        let Some(pid) = self.group else { return };
        if let Err(error) = self.kill_first(pid).await {
            tracing::warn!(%error, "a program is killed with its keeper");
            self.kill();
        }
        if let Err(late) = Budget::within(END_LIMIT).run("the end of a program", self.wait()).await
        {
            tracing::warn!(error = %late, "a program was killed and is not gone");
        }
    }

    async fn kill_first(&self, pid: Pid) -> io::Result<()> {
        let keeper = self.keeper.try_clone()?;
        tokio::task::spawn_blocking(move || kill_first(&keeper, pid)).await?
    }

    fn kill(&self) {
        if let Some(group) = self.group
            && let Err(error) = kill_process_group(group, Signal::KILL)
        {
            tracing::debug!(%error, "nothing left to kill in the process group");
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Kills the first process of the namespace, with which the kernel kills all others in it, and
/// leaves it to `keeper` to wait for it: killed as well, it would be gone before them. One that has
/// started nobody yet is killed itself. Blocking, for as long as a signal takes to arrive.
fn kill_first(keeper: &OwnedFd, number: Pid) -> io::Result<()> {
    // While it is stopped it starts nobody, and nobody waits for what it has started.
    pidfd_send_signal(keeper, Signal::STOP)?;
    let over = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    waitid(WaitId::PidFd(keeper.as_fd()), over | WaitIdOptions::STOPPED)?;
    let first = children(number)?;
    // Not waited for by us either: the number is its own, and was while its children were listed.
    waitid(WaitId::PidFd(keeper.as_fd()), over | WaitIdOptions::NOHANG)?;
    if first.is_empty() {
        pidfd_send_signal(keeper, Signal::KILL)?;
    }
    for process in first {
        pidfd_send_signal(&process, Signal::KILL)?;
    }
    Ok(pidfd_send_signal(keeper, Signal::CONT)?)
}

/// The children of `parent`, which cannot go as long as it waits for none of them.
fn children(parent: Pid) -> io::Result<Vec<OwnedFd>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        let Some(number) = number else { continue };
        // Others come and go meanwhile.
        let Ok(stat) = fs::read_to_string(format!("/proc/{number}/stat")) else { continue };
        if parent_in(&stat) == Some(parent) {
            found.push(pidfd_open(number, PidfdFlags::empty())?);
        }
    }
    Ok(found)
}

/// The parent in a line of `/proc/PID/stat` (proc_pid_stat(5)); a name may have any character.
fn parent_in(stat: &str) -> Option<Pid> {
    let (_, after_name) = stat.rsplit_once(')')?;
    Pid::from_raw(after_name.split_ascii_whitespace().nth(1)?.parse().ok()?)
}
