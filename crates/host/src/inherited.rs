//! Descriptors that a parent has left open for this process, or that this program leaves open for
//! the one that takes its place in the process.
#![expect(unsafe_code, reason = "a descriptor that is only a number has no owner yet")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fd::BorrowedFd;
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

/// The first number of a descriptor that is passed on (sd_listen_fds(3)).
const FIRST: RawFd = 3;

static TAKEN: AtomicBool = AtomicBool::new(false);

/// Takes the descriptors 3, 4, ... that the parent passed on, `count` of them. Programs that this
/// one starts do not get them. Once in a process: the second call takes nothing.
///
/// # Errors
/// One of them is not open; none is taken then.
pub fn take(count: u32) -> io::Result<Vec<OwnedFd>> {
    let numbers: Vec<RawFd> = (FIRST..FIRST.saturating_add_unsigned(count)).collect();
    take_these(&numbers)
}

/// The same of descriptors that the program before this one has left open ([`leave_open`]), by their
/// numbers.
///
/// # Errors
/// One of them is not open, or is one that every program has; none is taken then.
pub fn take_these(numbers: &[RawFd]) -> io::Result<Vec<OwnedFd>> {
    for number in numbers {
        if *number < FIRST {
            return Err(rustix::io::Errno::BADF.into());
        }
        // SAFETY: borrowed for these calls only, and asked first whether it is open.
        let fd = unsafe { BorrowedFd::borrow_raw(*number) };
        let flags = fcntl_getfd(fd)?;
        fcntl_setfd(fd, flags | FdFlags::CLOEXEC)?;
    }
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    // SAFETY: open, as was just seen; whoever passed them meant them for this process, and nobody
    // else in it has taken them.
    Ok(numbers.iter().map(|number| unsafe { OwnedFd::from_raw_fd(*number) }).collect())
}

/// Leaves `fd` open for the program that takes the place of this one (execve(2)). Its number.
///
/// # Errors
/// What the system says.
pub fn leave_open(fd: BorrowedFd<'_>) -> io::Result<RawFd> {
    let flags = fcntl_getfd(fd)?;
    fcntl_setfd(fd, flags - FdFlags::CLOEXEC)?;
    Ok(fd.as_raw_fd())
}
