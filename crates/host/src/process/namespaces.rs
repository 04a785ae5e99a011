//! User and network namespaces, made by a process that lives only as long as that takes.
#![expect(unsafe_code, reason = "clone3 has no safe wrapper")]

use std::arch::asm;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::without_provenance_mut;
use std::sync::OnceLock;

use libc::c_void;
use rustix::io::retry_on_intr;
use rustix::process::{
    DumpableBehavior, Signal, Uid, WaitId, WaitIdOptions, dumpable_behavior, set_dumpable_behavior,
    waitid,
};
use rustix::thread::{CapabilitiesSecureBits, set_capabilities_secure_bits, set_thread_res_uid};

use super::clone::{
    CLONE_INTO_CGROUP, CLONE_PIDFD, CLONE_VM, CloneArgs, clone_into, new_stack,
    with_signals_blocked, with_stack,
};
use crate::thread::in_own_thread;

const CLONE_NEWUSER: u64 = 0x1000_0000;
const CLONE_NEWNET: u64 = 0x4000_0000;

/// A user namespace and a network namespace that belongs to it.
#[derive(Debug)]
pub(crate) struct Namespaces {
    pub(crate) user: OwnedFd,
    pub(crate) net: OwnedFd,
}

/// Makes both, with the `ids` users and groups from `base` on as those from 0 on inside. The
/// process that makes them is born in `cgroup` and gone when this returns.
///
/// `base` owns the user namespace. What the kernel counts by user (inotify instances and watches,
/// locked memory, message queues, pending signals) is counted for the owner on the host, too: were
/// the owner root, all sandboxes together would use up what root may have.
pub(crate) fn make_namespaces(
    base: u32,
    ids: u32,
    cgroup: BorrowedFd<'_>,
) -> io::Result<Namespaces> {
    in_own_thread("namespaces", || {
        become_owner(base)?;
        let holder = hold(cgroup, std::process::id())?;
        let pid = holder.process.identity.pid;
        let map = format!("0 {base} {ids}");
        fs::write(format!("/proc/{pid}/uid_map"), &map)?;
        fs::write(format!("/proc/{pid}/gid_map"), &map)?;
        let open = |kind: &str| fs::File::open(format!("/proc/{pid}/ns/{kind}")).map(OwnedFd::from);
        Ok(Namespaces { user: open("user")?, net: open("net")? })
    })
}

/// Gives this thread, and no other, the effective user `owner`, with all the capabilities it has.
fn become_owner(owner: u32) -> io::Result<()> {
    static BEFORE: OnceLock<Option<DumpableBehavior>> = OnceLock::new();
    let before = *BEFORE.get_or_init(|| dumpable_behavior().ok());
    set_capabilities_secure_bits(CapabilitiesSecureBits::NO_SETUID_FIXUP)?;
    set_thread_res_uid(None, Uid::from_raw(owner), None)?;
    // The kernel has made the memory that all threads share one that may not be dumped or looked
    // into, as after every change of the effective user. Real and saved user are root's still, so
    // nobody gains by having that undone.
    if before == Some(DumpableBehavior::Dumpable) {
        set_dumpable_behavior(DumpableBehavior::Dumpable)?;
    }
    Ok(())
}

/// A process that does nothing but keep new namespaces open until they are held by descriptor.
///
/// Should the daemon die first, it dies with the thread that made it, or is found in its cgroup.
#[derive(Debug)]
struct Holder {
    process: super::Process,
    stack: Vec<u128>,
}

/// `parent` is this process.
fn hold(cgroup: BorrowedFd<'_>, parent: u32) -> io::Result<Holder> {
    let mut pidfd: RawFd = -1;
    let mut stack = new_stack();
    let args = with_stack(
        CloneArgs {
            flags: CLONE_VM | CLONE_PIDFD | CLONE_NEWUSER | CLONE_NEWNET | CLONE_INTO_CGROUP,
            pidfd: std::ptr::from_mut(&mut pidfd) as u64,
            exit_signal: u64::from(libc::SIGCHLD.unsigned_abs()),
            cgroup: u64::from(cgroup.as_raw_fd().unsigned_abs()),
            ..CloneArgs::default()
        },
        &mut stack,
    );
    let pid = with_signals_blocked(|| {
        // SAFETY: the stack is kept until the child is reaped (`Holder::drop`); the child makes raw
        // system calls only and touches no memory of ours.
        unsafe { clone_into(&args, wait_for_death, without_provenance_mut(parent as usize)) }
    })?;
    // SAFETY: with CLONE_PIDFD the kernel has put a new descriptor of ours there, close-on-exec.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Holder { process: super::Process::from_pidfd(pidfd, pid), stack })
}

impl Drop for Holder {
    /// Ends the holder and waits for it: its stack is ours and may go only after it.
    fn drop(&mut self) {
        let ended =
            self.process.signal(Signal::KILL).map_err(|error| error.source).and_then(|()| {
                let pidfd = WaitId::PidFd(self.process.as_fd());
                Ok(retry_on_intr(|| waitid(pidfd.clone(), WaitIdOptions::EXITED))?)
            });
        if let Err(error) = ended {
            // It may still be running on it.
            let _leaked: &mut [u128] = std::mem::take(&mut self.stack).leak();
            tracing::error!(%error, "a namespace holder did not end; its stack stays");
        }
    }
}

/// `parent` is the number of the process that has made it, and no address.
extern "C" fn wait_for_death(parent: *mut c_void) -> ! {
    // SAFETY: raw system calls without memory. Those of libc set errno on failure, and the thread
    // pointer is the parent's; so the calls are made without libc.
    unsafe {
        // First: the holder got a copy of every descriptor of the daemon's, locks included, which
        // must not outlive the daemon in it. Who waits for the end of what the daemon says must not
        // wait for the holder either.
        raw_syscall3(libc::SYS_close_range, 0, u64::from(u32::MAX), 0);
        raw_syscall3(libc::SYS_prctl, 1 /* PR_SET_PDEATHSIG */, 9 /* SIGKILL */, 0);
        // The daemon may have died before that, and nobody is told of it (prctl(2)).
        while raw_syscall3(libc::SYS_getppid, 0, 0, 0) == parent as u64 {
            raw_syscall3(libc::SYS_pause, 0, 0, 0);
        }
        loop {
            raw_syscall3(libc::SYS_exit_group, 0, 0, 0);
        }
    }
}

/// # Safety
/// As the system call.
unsafe fn raw_syscall3(number: i64, first: u64, second: u64, third: u64) -> u64 {
    let result;
    // SAFETY: the kernel clobbers rax, rcx and r11 only.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number.cast_unsigned() => result,
            in("rdi") first,
            in("rsi") second,
            in("rdx") third,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::os::fd::{AsFd, AsRawFd};
    use std::os::unix::fs::MetadataExt;

    use rustix::process::{DumpableBehavior, dumpable_behavior};

    use super::{Namespaces, become_owner, hold, make_namespaces};
    use crate::thread::in_own_thread;
    use crate::thread::testing::wait_until;

    /// Users of nobody's sandbox.
    const BASE: u32 = 0x7FF0_0000;

    fn cgroup() -> fs::File {
        let root = crate::cgroup::Layout::detect().unwrap().unified_path().unwrap().to_path_buf();
        fs::File::open(root).unwrap()
    }

    fn inode(who: &str, kind: &str) -> u64 {
        fs::metadata(format!("/proc/{who}/ns/{kind}")).unwrap().ino()
    }

    #[test]
    fn a_holder_has_namespaces_of_its_own_and_no_descriptor_until_it_is_dropped() {
        let dir = cgroup();
        let holder = hold(dir.as_fd(), std::process::id()).unwrap();
        let pid = holder.process.identity().pid;
        for kind in ["user", "net"] {
            assert_ne!(inode(&pid.to_string(), kind), inode("self", kind));
        }
        let highest = || {
            let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
            let number = |entry: std::io::Result<fs::DirEntry>| -> i32 {
                entry.unwrap().file_name().to_string_lossy().parse().unwrap()
            };
            open.map(number).max().unwrap_or(-1)
        };
        wait_until("it to close what it inherited", || highest() < 0);
        drop(holder);
        assert!(!fs::exists(format!("/proc/{pid}")).unwrap());
    }

    #[test]
    fn a_holder_that_comes_after_the_death_of_its_daemon_ends() {
        // It has another parent then, as this one has another than it is told.
        let holder = hold(cgroup().as_fd(), 1).unwrap();
        let pid = holder.process.identity().pid;
        wait_until("it to end", || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            stat.rsplit(')').next().unwrap().starts_with(" Z")
        });
        drop(holder);
        assert!(!fs::exists(format!("/proc/{pid}")).unwrap());
    }

    #[test]
    fn the_thread_that_becomes_the_owner_changes_no_other() {
        let inside = in_own_thread("test", || {
            become_owner(BASE)?;
            Ok(rustix::process::geteuid().as_raw())
        });
        assert_eq!(inside.unwrap(), BASE);
        assert_ne!(rustix::process::geteuid().as_raw(), BASE);
        // Another test's thread may be in the middle of the same.
        wait_until("the process to be dumpable again", || {
            matches!(dumpable_behavior(), Ok(DumpableBehavior::Dumpable))
        });
    }

    /// Forks a child that enters `namespaces` and opens inotify instances until it may not, then
    /// keeps them until it is killed. Returns it and how many it has.
    fn take_all_inotify_instances(namespaces: &Namespaces) -> (libc::pid_t, u32) {
        let (reader, writer) = std::io::pipe().unwrap();
        let (user, report) = (namespaces.user.as_raw_fd(), writer.as_raw_fd());
        // SAFETY: between fork and the end the child makes system calls only.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: as above; the pointers are to locals.
            unsafe {
                let mut files = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
                libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut files);
                files.rlim_cur = files.rlim_max;
                libc::setrlimit(libc::RLIMIT_NOFILE, &raw const files);
                let mut made: u32 = 0;
                if libc::setns(user, libc::CLONE_NEWUSER) == 0
                    && libc::syscall(libc::SYS_setresuid, 0, 0, 0) == 0
                {
                    while libc::inotify_init1(0) >= 0 {
                        made += 1;
                    }
                }
                libc::write(report, (&raw const made).cast(), 4);
                libc::pause();
                libc::_exit(0)
            }
        }
        drop(writer);
        let mut made = [0; 4];
        (&reader).read_exact(&mut made).unwrap();
        (pid, u32::from_ne_bytes(made))
    }

    #[test]
    fn a_sandbox_that_takes_all_inotify_instances_leaves_root_of_the_host_its_own() {
        let namespaces = make_namespaces(BASE + 0x1_0000, 0x1_0000, cgroup().as_fd()).unwrap();
        let most = fs::read_to_string("/proc/sys/fs/inotify/max_user_instances").unwrap();
        let (pid, made) = take_all_inotify_instances(&namespaces);
        let ours = rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::CLOEXEC);
        // SAFETY: kills and reaps the child that was just made.
        unsafe {
            libc::kill(pid, libc::SIGKILL);
            libc::waitpid(pid, std::ptr::null_mut(), 0);
        }
        assert_eq!(made, most.trim().parse::<u32>().unwrap(), "it is one user's limit");
        ours.unwrap();
    }
}
