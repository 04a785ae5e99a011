//! Running one program to its end: the only place of this crate that starts a child.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use lifecycle::{Budget, Expired};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_util::sync::CancellationToken;

use self::keeper::Kept;

mod keeper;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use self::keeper::Keeper;

/// How much of a program's output is kept for the error message.
const TAIL_LINES: usize = 12;
const LINE_BYTES: usize = 400;

/// A program did not end well.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("start {program}")]
    Start { program: &'static str, source: io::Error },
    #[error("read what {program} says")]
    Output { program: &'static str, source: io::Error },
    #[error("{program} ended with {status}; it last said:\n{tail}")]
    Failed { program: &'static str, status: ExitStatus, tail: String },
    #[error("{program} was ended; it last said:\n{tail}")]
    TooSlow { program: &'static str, tail: String, source: Expired },
    #[error("{program} was cancelled")]
    Cancelled { program: &'static str },
}

impl CommandError {
    /// The end of what the program printed.
    #[must_use]
    pub fn tail(&self) -> &str {
        match self {
            Self::Start { .. } | Self::Output { .. } | Self::Cancelled { .. } => "",
            Self::Failed { tail, .. } | Self::TooSlow { tail, .. } => tail,
        }
    }
}

/// A program and its arguments. It gets no input, and its standard output is dropped.
#[derive(Debug)]
pub(crate) struct Command<'a> {
    pub(crate) name: &'static str,
    pub(crate) keeper: &'a Keeper,
    pub(crate) program: &'a Path,
    pub(crate) args: Vec<OsString>,
    /// Where it puts what it forgets when it is killed; of an absolute path.
    pub(crate) scratch: &'a Path,
}

impl Command<'_> {
    /// Runs it until it ends, calling `line` with each line of its standard error. When the budget
    /// ends, or `cancel` says so, it is killed with all it has started, and they are gone when this
    /// returns, with the mounts they made.
    ///
    /// The child leads a process group of its own, so a Ctrl-C in the terminal goes to us alone.
    ///
    /// Cancel safety: all are killed, but may take a moment to be gone; `cancel` waits for it.
    pub(crate) async fn run(
        &self,
        mut line: impl FnMut(&str),
        cancel: &CancellationToken,
        budget: Budget,
    ) -> Result<(), CommandError> {
        let program = self.name;
        let (mut kept, output) =
            self.start().map_err(|source| CommandError::Start { program, source })?;
        let mut tail = Tail::default();
        let work = async {
            if let Some(output) = output {
                tail.follow(output, &mut line).await?;
            }
            kept.wait().await
        };
        let ended = tokio::select! {
            biased;
            () = cancel.cancelled() => None,
            ended = budget.run(program, work) => Some(ended),
        };
        let error = match ended {
            Some(Ok(Ok(status))) if status.success() => return Ok(()),
            Some(Ok(Ok(status))) => CommandError::Failed { program, status, tail: tail.text() },
            Some(Ok(Err(source))) => CommandError::Output { program, source },
            Some(Err(source)) => CommandError::TooSlow { program, tail: tail.text(), source },
            None => CommandError::Cancelled { program },
        };
        kept.end().await;
        Err(error)
    }

    fn start(&self) -> io::Result<(Kept, Option<tokio::process::ChildStderr>)> {
        #[expect(clippy::disallowed_methods, reason = "the helper the ban asks for, for images")]
        let mut command = tokio::process::Command::new(self.keeper.program());
        command
            .args(self.keeper.args(self.program))
            .args(&self.args)
            .env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("TMPDIR", self.scratch)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        let output = child.stderr.take();
        Ok((Kept::new(child)?, output))
    }
}

/// The last lines of an output, each cut to a length.
#[derive(Debug, Default)]
struct Tail {
    lines: VecDeque<String>,
    open: Vec<u8>,
}

impl Tail {
    async fn follow(
        &mut self,
        mut output: impl AsyncRead + Unpin,
        line: &mut impl FnMut(&str),
    ) -> io::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            let read = output.read(&mut buffer).await?;
            let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
                self.end_line(line);
                return Ok(());
            };
            for &byte in bytes {
                if byte == b'\n' || byte == b'\r' {
                    self.end_line(line);
                } else if self.open.len() < LINE_BYTES {
                    self.open.push(byte);
                }
            }
        }
    }

    fn end_line(&mut self, line: &mut impl FnMut(&str)) {
        let text = String::from_utf8_lossy(&self.open).trim_end().to_owned();
        self.open.clear();
        if text.is_empty() {
            return;
        }
        line(&text);
        if self.lines.len() == TAIL_LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(text);
    }

    fn text(&self) -> String {
        Vec::from_iter(self.lines.iter().map(String::as_str)).join("\n")
    }
}

/// Where `program` is, as a shell would find it.
pub(crate) fn find_program(program: &str) -> Option<PathBuf> {
    // Not the caller's PATH: the tools we start are the system's.
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .iter()
        .map(|dir| Path::new(dir).join(program))
        .find(|path| path.is_file())
}
