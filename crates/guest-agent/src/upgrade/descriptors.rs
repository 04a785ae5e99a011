//! Descriptors that outlive the program: by their numbers alone.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::sync::Arc;

use rustix::io::{FdFlags, fcntl_setfd};

/// Takes over a descriptor this program inherited. It is closed on exec from now on: children
/// must not inherit it in their turn.
///
/// To be called once for each, before the program opens anything: what it opens may get the
/// number of one that is not there.
///
/// # Errors
/// When there is no such descriptor.
pub(crate) fn claim(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 3 {
        return Err(io::Error::other("0, 1 and 2 are standard input and output"));
    }
    // SAFETY: the descriptor is open, by the first call, and nobody else owns it: it was handed to
    // this program for this purpose, and whoever does so names each descriptor once.
    #[expect(unsafe_code, reason = "an inherited descriptor is known by its number alone")]
    let owned = unsafe {
        if libc::fcntl(fd, libc::F_GETFD) < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    fcntl_setfd(owned.as_fd(), FdFlags::CLOEXEC)?;
    Ok(owned)
}

/// Descriptors that are to stay open. They are kept from being closed until then, and with them
/// their numbers from meaning others.
#[derive(Default)]
pub(super) struct Kept {
    descriptors: Vec<Arc<dyn AsFd + Send + Sync>>,
}

impl Kept {
    pub(super) fn keep(&mut self, fd: Arc<dyn AsFd + Send + Sync>) -> RawFd {
        let number = fd.as_fd().as_raw_fd();
        self.descriptors.push(fd);
        number
    }

    pub(super) fn numbers(&self) -> Vec<RawFd> {
        self.descriptors.iter().map(|fd| fd.as_fd().as_raw_fd()).collect()
    }

    #[cfg(test)]
    pub(super) fn last(&self) -> Arc<dyn AsFd + Send + Sync> {
        Arc::clone(self.descriptors.last().unwrap())
    }

    /// Whether they survive the next execution; until it, no other child may be forked.
    ///
    /// # Errors
    /// Never, as long as they are open, which they are.
    pub(super) fn survive(&self, do_survive: bool) -> io::Result<()> {
        let flags = if do_survive { FdFlags::empty() } else { FdFlags::CLOEXEC };
        for fd in &self.descriptors {
            fcntl_setfd(fd.as_fd(), flags)?;
        }
        Ok(())
    }
}
