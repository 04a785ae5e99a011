//! Waiting for a descriptor to become ready, on tokio's reactor.
#![expect(unsafe_code, reason = "AsyncFd::register is unsafe since tokio 1.54")]

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor of ours on the reactor.
#[derive(Debug)]
pub(crate) struct Ready {
    fd: AsyncFd<OwnedFd>,
    interest: Interest,
}

impl Ready {
    pub(crate) fn new(fd: OwnedFd, interest: Interest) -> io::Result<Self> {
        // SAFETY: the OwnedFd moves into the AsyncFd, which gives it out as a shared borrow only
        // and deregisters it before closing it, so the number stays ours while it is registered.
        let fd = unsafe { AsyncFd::register_with_interest(fd, interest) }?;
        Ok(Self { fd, interest })
    }

    /// Waits until `check` has something. `check` is called once at the start and after every
    /// wake-up.
    ///
    /// Cancel safety: yes, if `check` takes nothing away.
    pub(crate) async fn until<T>(
        &self,
        mut check: impl FnMut(rustix::fd::BorrowedFd<'_>) -> io::Result<Option<T>>,
    ) -> io::Result<T> {
        if let Some(found) = check(self.fd.get_ref().as_fd())? {
            return Ok(found);
        }
        loop {
            let mut guard = self.fd.ready(self.interest).await?;
            // Cleared before the check: an event between the two is reported again.
            guard.clear_ready();
            if let Some(found) = check(self.fd.get_ref().as_fd())? {
                return Ok(found);
            }
        }
    }
}
