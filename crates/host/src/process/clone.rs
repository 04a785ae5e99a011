//! clone3: children that share our memory until they exec, born in their cgroup.
//!
//! fork copies page tables: with 2 GiB resident a fork-and-exec takes 90 ms, this 0.7 ms
//! whatever the size.
#![expect(unsafe_code, reason = "clone3 has no safe wrapper")]

use std::arch::asm;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use libc::{c_char, c_int, c_void};
use rustix::io::retry_on_intr;
use rustix::process::{WaitId, WaitIdOptions, waitid};

pub(super) const CLONE_VM: u64 = 0x100;
const CLONE_VFORK: u64 = 0x4000;
pub(super) const CLONE_PIDFD: u64 = 0x1000;
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
pub(super) const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// clone3(2), `struct clone_args`, all 88 bytes of it.
#[repr(C)]
#[derive(Debug, Default)]
pub(super) struct CloneArgs {
    pub(super) flags: u64,
    pub(super) pidfd: u64,
    pub(super) child_tid: u64,
    pub(super) parent_tid: u64,
    pub(super) exit_signal: u64,
    pub(super) stack: u64,
    pub(super) stack_size: u64,
    pub(super) tls: u64,
    pub(super) set_tid: u64,
    pub(super) set_tid_size: u64,
    pub(super) cgroup: u64,
}

/// Room for the child's calls before exec; it allocates nothing and recurses nowhere.
const STACK: usize = 64 * 1024;

/// Enters `entry(arg)` in a new process on its own stack; returns in the parent only.
///
/// # Safety
/// `args.stack` must be unused memory that outlives the child's use of it. `entry` must never
/// return and must do nothing but raw system calls on memory that the parent leaves alone: it runs
/// in the parent's address space, with the parent's thread pointer.
pub(super) unsafe fn clone_into(
    args: &CloneArgs,
    entry: extern "C" fn(*mut c_void) -> !,
    arg: *mut c_void,
) -> io::Result<c_int> {
    let ret: i64;
    // SAFETY: the kernel gives the child a copy of the registers and the new stack pointer, so the
    // child finds `entry` in r8 and `arg` in r9 and never touches the parent's stack. The stack top
    // is 16-byte aligned as the ABI wants it before a call.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r9",
            "call r8",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => ret,
            in("rdi") std::ptr::from_ref(args),
            in("rsi") size_of::<CloneArgs>(),
            in("r8") entry,
            in("r9") arg,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    match c_int::try_from(ret) {
        Ok(pid) if pid > 0 => Ok(pid),
        Ok(errno) => Err(io::Error::from_raw_os_error(-errno)),
        Err(_out_of_range) => Err(io::Error::other("clone3 answered nonsense")),
    }
}

/// A stack for a child. Leaves itself to the allocator only after the child is gone or has execed.
pub(super) fn new_stack() -> Vec<u128> {
    vec![0; STACK / size_of::<u128>()]
}

pub(super) fn with_stack(mut args: CloneArgs, stack: &mut [u128]) -> CloneArgs {
    args.stack = stack.as_mut_ptr() as u64;
    args.stack_size = size_of_val(stack) as u64;
    args
}

/// What the child does between clone and exec. Made whole by the parent: the child only reads.
pub(super) struct ExecPlan<'a> {
    pub program: CString,
    pub argv: Vec<CString>,
    pub envp: Vec<CString>,
    /// Every cgroup v1 `tasks` the child, which is one thread, puts itself into.
    pub join: Vec<RawFd>,
    /// `(source, target)`; sources are above every target.
    pub fds: Vec<(RawFd, RawFd)>,
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Resource, and what it is limited to.
    pub limits: Vec<(libc::__rlimit_resource_t, libc::rlimit)>,
}

struct Child {
    program: *const c_char,
    argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
    join: Vec<RawFd>,
    fds: Vec<(RawFd, RawFd)>,
    limits: Vec<(libc::__rlimit_resource_t, libc::rlimit)>,
    /// errno of the step that failed, 0 when exec worked.
    failed: c_int,
}

/// Starts a program. Returns when it has execed, or the reason why it could not.
pub(super) fn spawn(plan: &ExecPlan<'_>) -> io::Result<(OwnedFd, i32)> {
    let pointers = |list: &[CString]| {
        list.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>()
    };
    let mut child = Child {
        program: plan.program.as_ptr(),
        argv: pointers(&plan.argv),
        envp: pointers(&plan.envp),
        join: plan.join.clone(),
        fds: plan.fds.clone(),
        limits: plan.limits.clone(),
        failed: 0,
    };
    let mut pidfd: RawFd = -1;
    let mut stack = new_stack();
    let args = with_stack(
        CloneArgs {
            flags: CLONE_VM
                | CLONE_VFORK
                | CLONE_PIDFD
                | CLONE_CLEAR_SIGHAND
                | plan.cgroup.map_or(0, |_| CLONE_INTO_CGROUP),
            pidfd: std::ptr::from_mut(&mut pidfd) as u64,
            exit_signal: u64::from(libc::SIGCHLD.unsigned_abs()),
            cgroup: plan.cgroup.map_or(0, |fd| u64::from(fd.as_raw_fd().unsigned_abs())),
            ..CloneArgs::default()
        },
        &mut stack,
    );
    let pid = with_signals_blocked(|| {
        // SAFETY: CLONE_VFORK keeps this thread still until the child has execed or ended, so
        // `child` and `stack` outlive its use of them; `exec_child` keeps to system calls.
        unsafe { clone_into(&args, exec_child, std::ptr::from_mut(&mut child).cast()) }
    })?;
    // SAFETY: with CLONE_PIDFD the kernel has put a new descriptor of ours there, close-on-exec.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    if child.failed == 0 {
        return Ok((pidfd, pid));
    }
    // It ends by itself, but this thread goes on before it has: it lets go of our memory first. Its
    // status says nothing new; taking it keeps it from staying a zombie.
    let status = retry_on_intr(|| waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED));
    if let Err(error) = status {
        tracing::warn!(pid, %error, "a child that could not exec was not reaped");
    }
    Err(io::Error::from_raw_os_error(child.failed))
}

/// Runs `work` with every signal blocked in this thread: a handler that ran in the child would
/// run on the parent's memory. Where a child unblocks them before it execs, it has none of our
/// handlers any more (`CLONE_CLEAR_SIGHAND`).
pub(super) fn with_signals_blocked<T>(work: impl FnOnce() -> T) -> T {
    let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    let mut old = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: both sets are written by the calls before they are read.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), old.as_mut_ptr());
    }
    let result = work();
    // SAFETY: `old` was filled by the first pthread_sigmask.
    unsafe {
        libc::pthread_sigmask(libc::SIG_SETMASK, old.as_ptr(), std::ptr::null_mut());
    }
    result
}

extern "C" fn exec_child(arg: *mut c_void) -> ! {
    // SAFETY: `arg` is the `Child` of a parent that stands still until we exec or exit.
    let child = unsafe { &mut *arg.cast::<Child>() };
    // SAFETY: system calls only, on memory that nobody else uses meanwhile.
    unsafe {
        child.failed = match prepare(child) {
            Ok(()) => {
                libc::execve(child.program, child.argv.as_ptr(), child.envp.as_ptr());
                *libc::__errno_location()
            }
            Err(errno) => errno,
        };
        libc::_exit(127)
    }
}

/// # Safety
/// Only between clone and exec.
unsafe fn prepare(child: &Child) -> Result<(), c_int> {
    // SAFETY: see the caller.
    unsafe {
        let check = |ret: isize| if ret < 0 { Err(*libc::__errno_location()) } else { Ok(()) };
        for &tasks in &child.join {
            check(libc::write(tasks, c"0".as_ptr().cast(), 1))?;
        }
        for &(source, target) in &child.fds {
            check(libc::dup2(source, target) as isize)?;
        }
        // After the descriptors: they may be above what it may open itself.
        for (resource, limit) in &child.limits {
            check(libc::setrlimit(*resource, limit) as isize)?;
        }
        // Terminal signals are for the daemon, not for its helpers.
        check(libc::setsid() as isize)?;
        // Rust ignores SIGPIPE and exec would keep that; the mask is ours alone.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        check(libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut()) as isize)
    }
}

#[cfg(test)]
mod tests {
    use crate::process::{Spawn, zombie_children};

    #[test]
    fn a_program_that_cannot_be_started_leaves_no_zombie() {
        let before = zombie_children();
        for _ in 0..50 {
            let error = Spawn::new("/nowhere/program").start().unwrap_err();
            assert_eq!(error.errno(), Some(rustix::io::Errno::NOENT));
        }
        let own = |pid: &i32| {
            let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            // It never became another program: it has the name of this test's thread.
            !before.contains(pid) && comm.trim().starts_with("process::clone")
        };
        assert_eq!(zombie_children().into_iter().filter(own).count(), 0);
    }
}
