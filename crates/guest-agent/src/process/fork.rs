//! Fork and exec, by hand: the standard library's way cannot register the child before it is
//! reaped, cannot give it all groups of its user, and takes "not found" for a failed start.
//!
//! Everything is allocated before the fork. Between fork and exec only system calls are made:
//! another thread may have held any lock of this program at that moment, the allocator's too.

#![expect(unsafe_code, reason = "fork, exec and raw credentials have no safe form")]

mod step;

pub(super) use step::Step;

use std::cell::Cell;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::ptr;

use libc::{c_char, c_int, c_long};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;

use super::command::Command;
use super::stdio::ChildEnds;
use crate::pollable::Pollable;
use crate::reaper::{Ending, Reaper};

/// How much more willing the kernel is to end a user's process than the agent when memory is out.
const OOM_SCORE_ABOVE_AGENT: i32 = 100;
const OOM_SCORE_ADJ: &CStr = c"/proc/self/oom_score_adj";
/// `OOM_SCORE_ADJ_MAX`.
const OOM_SCORE_MOST: i32 = 1000;
/// Best effort, class 2, at its middle level, 4: `IOPRIO_PRIO_VALUE` of ioprio_set(2).
const IO_PRIORITY: c_long = (2 << 13) | 4;

/// A process that was forked and has not told yet whether it could be set up.
pub(super) struct Forked {
    pub(super) pid: Pid,
    pub(super) end: Ending,
    report: Pollable,
}

/// A process that runs its program.
pub(super) struct Executed {
    pub(super) pid: Pid,
    pub(super) end: Ending,
    /// Why it is not in the control group it was meant for.
    pub(super) not_entered: Option<io::Error>,
}

/// Why a process could not become its program.
#[derive(Debug, thiserror::Error)]
pub(super) enum ForkError {
    #[error("make a pipe")]
    Pipe(#[source] io::Error),
    #[error("fork")]
    Fork(#[source] io::Error),
    #[error("{step}")]
    SetUp { step: Step, source: io::Error },
}

/// Forks a child that becomes `command`, registered with `reaper`. It enters a control group by
/// its file `entrance` before anything else.
///
/// # Errors
/// When there is no room for another process.
pub(super) fn fork(
    command: &Command,
    stdio: ChildEnds,
    entrance: Option<BorrowedFd<'_>>,
    reaper: &Reaper,
) -> Result<Forked, ForkError> {
    let (report, reporter) =
        pipe_with(PipeFlags::CLOEXEC).map_err(|errno| ForkError::Pipe(errno.into()))?;
    let report = Pollable::new(report).map_err(ForkError::Pipe)?;
    let prepared = Prepared::new(command, &stdio, entrance, &reporter);
    let (pid, end) = reaper.register(|| prepared.fork()).map_err(ForkError::Fork)?;
    drop(prepared);
    drop(stdio);
    Ok(Forked { pid, end, report })
}

impl Forked {
    /// Waits until the child runs its program, or has failed to. "No such program" is not a
    /// failure: the child itself says so on its standard error and ends with 127 or 126.
    ///
    /// # Errors
    /// What the child could not do.
    pub(super) async fn executed(self) -> Result<Executed, ForkError> {
        let mut not_entered = None;
        loop {
            let mut report = [0; 5];
            // The child writes five bytes for each failure, and they come in one piece.
            let count = self.report.read(&mut report).await.map_err(ForkError::Pipe)?;
            if count == 0 {
                return Ok(Executed { pid: self.pid, end: self.end, not_entered });
            }
            let [step, errno @ ..] = report;
            let step = Step::ALL.get(usize::from(step)).copied().unwrap_or(Step::Exec);
            let source = io::Error::from_raw_os_error(i32::from_ne_bytes(errno));
            if step != Step::Cgroup {
                return Err(ForkError::SetUp { step, source });
            }
            not_entered = Some(source);
        }
    }
}

/// Raw pointers and numbers for the child, all of which borrow from a command that outlives it.
struct Prepared<'a> {
    command: &'a Command,
    /// Ends with a null pointer, as do the next two.
    arguments: Vec<*const c_char>,
    variables: Vec<*const c_char>,
    /// `/bin/sh`, room for a script's path, its arguments.
    script: Vec<Cell<*const c_char>>,
    stdio: [c_int; 3],
    is_terminal: bool,
    /// What goes to [`OOM_SCORE_ADJ`].
    oom_score: String,
    /// Negative for a process that stays in the agent's control group.
    entrance: c_int,
    reporter: c_int,
    _descriptors: (&'a ChildEnds, &'a OwnedFd, Option<BorrowedFd<'a>>),
}

const SHELL: &CStr = c"/bin/sh";

impl<'a> Prepared<'a> {
    fn new(
        command: &'a Command,
        stdio: &'a ChildEnds,
        entrance: Option<BorrowedFd<'a>>,
        reporter: &'a OwnedFd,
    ) -> Self {
        let pointers = |strings: &'a [std::ffi::CString]| {
            let all = strings.iter().map(|string| string.as_ptr());
            all.chain(std::iter::once(ptr::null())).collect::<Vec<_>>()
        };
        let arguments = pointers(&command.arguments);
        let mut script = vec![Cell::new(SHELL.as_ptr()), Cell::new(ptr::null())];
        script.extend(arguments.iter().skip(1).copied().map(Cell::new));
        Self {
            command,
            arguments,
            variables: pointers(&command.variables),
            script,
            stdio: [&stdio.input, &stdio.output, &stdio.error].map(|fd| fd.as_raw_fd()),
            is_terminal: stdio.is_terminal,
            oom_score: oom_score_of_users().to_string(),
            entrance: entrance.map_or(-1, |entrance| entrance.as_raw_fd()),
            reporter: reporter.as_raw_fd(),
            _descriptors: (stdio, reporter, entrance),
        }
    }

    fn fork(&self) -> io::Result<Pid> {
        // SAFETY: both sets are written before they are read. Every signal is blocked around the
        // fork, so that no handler of this program ever runs in the child, where it would write
        // to a pipe that belongs to the parent.
        let (pid, saved) = unsafe {
            let mut every = std::mem::zeroed();
            let mut saved = std::mem::zeroed();
            libc::sigfillset(&raw mut every);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const every, &raw mut saved);
            (libc::fork(), saved)
        };
        if pid == 0 {
            // SAFETY: this is the child, and it is the only thread there is.
            unsafe { self.become_program() }
        }
        let failure = io::Error::last_os_error();
        // SAFETY: the mask is the one saved above.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const saved, ptr::null_mut()) };
        Pid::from_raw(pid).filter(|_| pid > 0).ok_or(failure)
    }

    /// # Safety
    /// Only in a freshly forked child. Never returns, and neither allocates nor locks.
    unsafe fn become_program(&self) -> ! {
        // SAFETY: system calls alone, with pointers that `self` keeps alive.
        unsafe {
            default_signals();
            self.enter_group();
            self.check(Step::Session, libc::setsid());
            for (fd, target) in self.stdio.iter().zip(0..) {
                self.check(Step::Stdio, libc::dup2(*fd, target));
            }
            if self.is_terminal {
                self.check(Step::Terminal, libc::ioctl(0, libc::TIOCSCTTY, 0));
            }
            self.yield_to_agent();
            self.take_credentials();
            self.check(Step::Workdir, libc::chdir(self.command.workdir.as_ptr()));
            self.limit_open_files();
            // Everything here is closed on exec already; this is for what a library opened.
            libc::syscall(libc::SYS_close_range, 3, c_int::MAX, libc::CLOSE_RANGE_CLOEXEC);
            self.exec()
        }
    }

    /// As the agent's user, who may. A group that cannot be entered is told, and no reason to end:
    /// it may have been removed, or be full.
    ///
    /// # Safety
    /// As for [`Self::become_program`].
    unsafe fn enter_group(&self) {
        const MYSELF: &[u8] = b"0";
        // SAFETY: one byte is written from an array of one.
        unsafe {
            if self.entrance >= 0
                && libc::write(self.entrance, MYSELF.as_ptr().cast(), MYSELF.len()) < 0
            {
                self.report(Step::Cgroup);
            }
        }
    }

    /// Raw system calls: the C library's own wrappers want to tell all threads.
    ///
    /// The agent goes first: for memory, CPU and disk. What is not allowed here is left as it is.
    ///
    /// # Safety
    /// As for [`Self::become_program`].
    unsafe fn yield_to_agent(&self) {
        // SAFETY: the path is a constant, and the text is as long as it says.
        unsafe {
            let file = libc::open(OOM_SCORE_ADJ.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
            if file >= 0 {
                libc::write(file, self.oom_score.as_ptr().cast(), self.oom_score.len());
                libc::close(file);
            }
            libc::setpriority(libc::PRIO_PROCESS, 0, 0);
            const IOPRIO_WHO_PROCESS: c_long = 1;
            libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IO_PRIORITY);
        }
    }

    /// Back to what the agent itself was given. Only once nothing is opened any more: descriptors
    /// of the agent above the limit are open still.
    ///
    /// # Safety
    /// As for [`Self::become_program`].
    unsafe fn limit_open_files(&self) {
        let limits = self.command.open_files.as_ptr();
        let old = ptr::null_mut::<u64>();
        // SAFETY: the kernel reads a `struct rlimit64`, which is two such numbers.
        unsafe { libc::syscall(libc::SYS_prlimit64, 0, libc::RLIMIT_NOFILE, limits, old) };
    }

    /// # Safety
    /// As for [`Self::become_program`].
    unsafe fn take_credentials(&self) {
        let Command { uid, gid, groups, .. } = self.command;
        // SAFETY: the list of groups is as long as it says.
        unsafe {
            // Without privileges nobody else can be become, and the user itself is one already.
            if libc::geteuid() != 0 && libc::geteuid() == *uid {
                return;
            }
            let set = libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr());
            self.check_long(Step::Groups, set);
            self.check_long(Step::Group, libc::syscall(libc::SYS_setgid, *gid));
            self.check_long(Step::User, libc::syscall(libc::SYS_setuid, *uid));
        }
    }

    /// # Safety
    /// As for [`Self::become_program`].
    unsafe fn exec(&self) -> ! {
        let mut denied = false;
        for candidate in &self.command.candidates {
            // SAFETY: both are arrays of C strings with a null pointer at the end.
            let errno = unsafe {
                libc::execve(candidate.as_ptr(), self.arguments.as_ptr(), self.variables.as_ptr());
                if *libc::__errno_location() == libc::ENOEXEC && self.command.may_be_script {
                    self.exec_script(candidate);
                }
                *libc::__errno_location()
            };
            match errno {
                libc::ENOENT | libc::ENOTDIR => {}
                libc::EACCES | libc::EPERM | libc::EISDIR | libc::ENOEXEC => denied = true,
                // SAFETY: in the child still.
                _ => unsafe { self.fail(Step::Exec) },
            }
        }
        let (text, code) = if denied {
            (&self.command.not_executable, 126)
        } else {
            (&self.command.not_found, 127)
        };
        // SAFETY: the text is as long as it says.
        unsafe {
            libc::write(2, text.as_ptr().cast(), text.len());
            libc::_exit(code)
        }
    }

    /// A text without `#!` is a script for the shell, as it is for every shell.
    ///
    /// # Safety
    /// As for [`Self::become_program`].
    unsafe fn exec_script(&self, script: &CStr) {
        if let Some(room) = self.script.get(1) {
            room.set(script.as_ptr());
        }
        // SAFETY: an array of cells is laid out as one of what is in them, which are C strings
        // with a null pointer at the end.
        unsafe {
            libc::execve(
                SHELL.as_ptr(),
                self.script.as_ptr().cast::<*const c_char>(),
                self.variables.as_ptr(),
            );
        }
    }

    /// # Safety
    /// As for [`Self::become_program`].
    unsafe fn check(&self, step: Step, result: c_int) {
        if result < 0 {
            // SAFETY: in the child still.
            unsafe { self.fail(step) }
        }
    }

    /// # Safety
    /// As for [`Self::become_program`].
    unsafe fn check_long(&self, step: Step, result: c_long) {
        if result < 0 {
            // SAFETY: in the child still.
            unsafe { self.fail(step) }
        }
    }

    /// Reports the step and the system's reason, and ends.
    ///
    /// # Safety
    /// As for [`Self::become_program`].
    unsafe fn fail(&self, step: Step) -> ! {
        // SAFETY: in the child still.
        unsafe {
            self.report(step);
            libc::_exit(127)
        }
    }

    /// # Safety
    /// As for [`Self::become_program`].
    unsafe fn report(&self, step: Step) {
        // SAFETY: five bytes are written from an array of five.
        unsafe {
            let [a, b, c, d] = (*libc::__errno_location()).to_ne_bytes();
            let report = [step.byte(), a, b, c, d];
            libc::write(self.reporter, report.as_ptr().cast(), report.len());
        }
    }
}

/// What this program ignores or handles, its children must not inherit: a child with SIGPIPE
/// ignored does not end when nobody reads it any more.
///
/// # Safety
/// Only in a freshly forked child.
unsafe fn default_signals() {
    const SIGNALS: c_int = 64;
    /// Of the kernel's signal mask.
    const MASK_BYTES: usize = 8;
    /// The kernel's `struct sigaction`: handler, flags, restorer, mask. All zero is the default.
    const DEFAULT: [u64; 4] = [0; 4];
    // SAFETY: the kernel reads 32 bytes from an array of as many. It is called directly because
    // the C library keeps two signals to itself, and those may be ignored as well. Numbers that
    // cannot be set give an error and change nothing.
    unsafe {
        for number in 1..=SIGNALS {
            let default = DEFAULT.as_ptr();
            let old = ptr::null_mut::<u64>();
            libc::syscall(libc::SYS_rt_sigaction, number, default, old, MASK_BYTES);
        }
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
    }
}

/// The host may have set the agent's own anywhere. What cannot be read is the default, zero.
fn oom_score_of_users() -> i32 {
    let own = OOM_SCORE_ADJ.to_str().ok().and_then(|path| std::fs::read_to_string(path).ok());
    let own: i32 = own.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    own.saturating_add(OOM_SCORE_ABOVE_AGENT).min(OOM_SCORE_MOST)
}
