//! What clients send to a process.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::stdio::Size;
use crate::hold::Hold;
use crate::pollable::Pollable;

/// The writable end of a pipe or a terminal.
pub(super) struct Input {
    /// Empty once it is closed, or if the process was started without one.
    fd: Mutex<Option<Arc<Pollable>>>,
    /// Held while one request's data is written, so that two do not mix.
    turn: tokio::sync::Mutex<()>,
    /// Ends a write that waits for a process that does not read.
    closed: CancellationToken,
    /// Parks new writes.
    hold: Arc<Hold>,
    pub(super) is_terminal: bool,
}

/// Why something could not be done with the input.
#[derive(Debug, thiserror::Error)]
pub(super) enum InputError {
    #[error("tty assigned to process — input should be written to the pty, not the stdin")]
    IsTerminal,
    #[error("tty not assigned to process — input should be written to the stdin, not the pty")]
    NoTerminal,
    #[error("stdin not enabled or closed")]
    Closed,
    #[error("{0}")]
    Io(io::Error),
}

impl Input {
    pub(super) fn new(fd: Option<Pollable>, is_terminal: bool, hold: Arc<Hold>) -> Self {
        Self {
            fd: Mutex::new(fd.map(Arc::new)),
            turn: tokio::sync::Mutex::new(()),
            closed: CancellationToken::new(),
            hold,
            is_terminal,
        }
    }

    /// # Errors
    /// When it is closed.
    pub(super) fn open(&self) -> Result<Arc<Pollable>, InputError> {
        self.fd.lock().clone().ok_or(InputError::Closed)
    }

    /// Writes all of `data`, waiting while the process does not read.
    ///
    /// Cancel safety: no, an unknown part of `data` has been written.
    pub(super) async fn write(&self, data: &[u8]) -> Result<(), InputError> {
        let write = async {
            let _turn = self.turn.lock().await;
            let mut worker = self.hold.worker();
            worker.park().await;
            self.open()?.write_all(data).await.map_err(InputError::Io)
        };
        tokio::select! {
            biased;
            () = self.closed.cancelled() => Err(InputError::Closed),
            written = write => written,
        }
    }

    /// Changes the size of the terminal.
    pub(super) fn resize(&self, size: Size) -> Result<(), InputError> {
        if !self.is_terminal {
            return Err(InputError::NoTerminal);
        }
        rustix::termios::tcsetwinsize(&self.open()?, size.winsize())
            .map_err(|errno| InputError::Io(errno.into()))
    }

    /// Lets the process read its end of input. Closing again changes nothing.
    pub(super) fn close(&self) {
        self.closed.cancel();
        drop(self.fd.lock().take());
    }
}
