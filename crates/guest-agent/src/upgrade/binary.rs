//! The new binary: received into memory, where nobody can change it any more, and asked what it
//! can do.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::time::Duration;

use axum::body::Body;
use futures::StreamExt as _;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals};

use super::FORMAT;
use super::state::memory_file;
use crate::agent::Agent;
use crate::process::{ProbeError, ask};
use crate::tasks;

/// Of one binary.
pub(super) const BINARY_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// How long the new binary has to say what it can take over.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// What every program for Linux begins with. Scripts do not: they would be read by a shell.
const MAGIC: &[u8] = b"\x7fELF";

/// Why there is no binary to go on with.
#[derive(Debug, thiserror::Error)]
pub(super) enum BinaryError {
    #[error("the new binary has more than {BINARY_BYTES_MAX} bytes")]
    TooLarge,
    #[error("the request body broke off: {0}")]
    Body(#[source] axum::Error),
    #[error("cannot keep the new binary in memory: {0}")]
    Memory(#[source] io::Error),
    #[error("cannot read the staged binary: {0}")]
    Staged(#[source] io::Error),
}

/// Why a binary is not gone on with.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unfit {
    #[error("it is not an executable file")]
    NotAProgram,
    #[error("{0}")]
    NoAnswer(ProbeError),
    #[error("it takes over format '{0}', and this agent hands on format {FORMAT}")]
    Format(String),
}

/// A file that is being filled.
struct Filling {
    file: File,
    bytes: u64,
}

impl Filling {
    fn new() -> Result<Self, BinaryError> {
        let file = memory_file("envd", MemfdFlags::EXEC).map_err(BinaryError::Memory)?;
        Ok(Self { file: File::from(file), bytes: 0 })
    }

    fn push(&mut self, piece: &[u8]) -> Result<(), BinaryError> {
        self.bytes = self.bytes.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
        if self.bytes > BINARY_BYTES_MAX {
            return Err(BinaryError::TooLarge);
        }
        self.file.write_all(piece).map_err(BinaryError::Memory)
    }

    fn seal(self) -> Result<OwnedFd, BinaryError> {
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
        fcntl_add_seals(&self.file, seals).map_err(|errno| BinaryError::Memory(errno.into()))?;
        Ok(self.file.into())
    }
}

/// The binary a request brings; `None` if its body is empty.
///
/// Cancel safety: no, a part of the body is read. Then it is gone with the request.
pub(super) async fn receive(body: Body) -> Result<Option<OwnedFd>, BinaryError> {
    let mut body = body.into_data_stream();
    let mut filling = Filling::new()?;
    while let Some(piece) = body.next().await {
        filling.push(&piece.map_err(BinaryError::Body)?)?;
    }
    if filling.bytes == 0 { Ok(None) } else { filling.seal().map(Some) }
}

/// Reads and forgets a body whose request is refused. A client that is cut off while it sends may
/// take that for the upgrade.
pub(super) async fn discard(body: Body) {
    let mut body = body.into_data_stream();
    let mut left = BINARY_BYTES_MAX;
    while let Some(Ok(piece)) = body.next().await {
        let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
        left = left.saturating_sub(length);
        if left == 0 {
            return;
        }
    }
}

/// A copy of the binary at `path`.
pub(super) async fn staged(path: &'static Path) -> Result<OwnedFd, BinaryError> {
    let read = tasks::blocking(move || {
        let mut from = File::open(path).map_err(BinaryError::Staged)?;
        let mut filling = Filling::new()?;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let count = from.read(&mut buffer).map_err(BinaryError::Staged)?;
            if count == 0 {
                return filling.seal();
            }
            filling.push(buffer.get(..count).unwrap_or_default())?;
        }
    });
    let panicked = || Err(BinaryError::Staged(io::Error::other("the operation panicked")));
    read.await.unwrap_or_else(panicked)
}

/// Asks the binary, as a child, whether it can take over from this agent.
pub(super) async fn check(agent: &Agent, binary: &OwnedFd) -> Result<(), Unfit> {
    let mut first = [0; MAGIC.len()];
    let read = rustix::io::pread(binary, &mut first, 0);
    if read != Ok(first.len()) || first != MAGIC {
        return Err(Unfit::NotAProgram);
    }
    // Of the child, which has the same descriptors until it is executed.
    let path = format!("/proc/self/fd/{}", binary.as_raw_fd());
    let reaper = &agent.processes.reaper;
    let asked = ask(&path, "--handover-format", agent.open_files, reaper, ANSWER_LIMIT);
    let said = asked.await.map_err(Unfit::NoAnswer)?;
    if said.split_whitespace().any(|format| format == FORMAT.to_string()) {
        Ok(())
    } else {
        Err(Unfit::Format(said))
    }
}
