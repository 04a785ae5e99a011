//! A file descriptor the runtime waits for: pipe, terminal, inotify.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

/// An owned descriptor in non-blocking mode, registered with the runtime.
pub(crate) struct Pollable {
    fd: AsyncFd<OwnedFd>,
}

impl Pollable {
    /// Takes `fd` over and makes it non-blocking.
    ///
    /// # Errors
    /// When the descriptor's flags cannot be set or the runtime cannot watch it.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        // SAFETY: an `OwnedFd` keeps one descriptor open until it is dropped, and it is moved
        // into the registration, which drops itself first.
        #[expect(unsafe_code, reason = "the safe constructor of AsyncFd is deprecated")]
        let fd = unsafe { AsyncFd::register(fd) }?;
        Ok(Self { fd })
    }

    /// Waits until a read gives something, and reads. 0 is the end.
    ///
    /// Cancel safety: yes, nothing is read unless it is returned.
    pub(crate) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.fd.readable().await?;
            let read = ready.try_io(|fd| {
                retried(|| rustix::io::read(fd.get_ref(), &mut *buffer)).map_err(io::Error::from)
            });
            if let Ok(result) = read {
                return result;
            }
        }
    }

    /// Reads what is there now; `None` if nothing is.
    pub(crate) fn read_now(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match retried(|| rustix::io::read(self.fd.get_ref(), &mut *buffer)) {
            Ok(count) => Ok(Some(count)),
            Err(Errno::AGAIN) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Writes all of `data`, waiting for room as often as needed.
    ///
    /// Cancel safety: no, an unknown part of `data` has been written.
    pub(crate) async fn write_all(&self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let mut ready = self.fd.writable().await?;
            let written = ready.try_io(|fd| {
                retried(|| rustix::io::write(fd.get_ref(), data)).map_err(io::Error::from)
            });
            match written {
                Ok(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(Ok(count)) => data = data.get(count..).unwrap_or_default(),
                Ok(Err(error)) => return Err(error),
                Err(_not_ready) => {}
            }
        }
        Ok(())
    }
}

impl AsFd for Pollable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn retried<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}
