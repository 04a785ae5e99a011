//! Descriptors that a parent has left open for this process.
#![expect(unsafe_code, reason = "a descriptor that is only a number has no owner yet")]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
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
    let numbers = FIRST..FIRST.saturating_add_unsigned(count);
    for number in numbers.clone() {
        // SAFETY: borrowed for these calls only, and asked first whether it is open.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        let flags = fcntl_getfd(fd)?;
        fcntl_setfd(fd, flags | FdFlags::CLOEXEC)?;
    }
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    // SAFETY: open, as was just seen; whoever passed them meant them for this process, and nobody
    // else in it has taken them.
    Ok(numbers.map(|number| unsafe { OwnedFd::from_raw_fd(number) }).collect())
}
