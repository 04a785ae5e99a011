//! Running one program to its end: the only place of this crate that starts a child.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use lifecycle::{Budget, Expired};
use rustix::process::{Pid, Signal};
use tokio::io::{AsyncRead, AsyncReadExt};

/// How much of a program's output is kept for the error message.
const TAIL_LINES: usize = 12;
const LINE_BYTES: usize = 400;

/// How long a killed child may take to be gone.
const REAP_LIMIT: Duration = Duration::from_secs(5);

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
}

impl CommandError {
    /// The end of what the program printed.
    #[must_use]
    pub fn tail(&self) -> &str {
        match self {
            Self::Start { .. } | Self::Output { .. } => "",
            Self::Failed { tail, .. } | Self::TooSlow { tail, .. } => tail,
        }
    }
}

/// A program and its arguments. It gets no input, and its standard output is dropped.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) name: &'static str,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
}

impl Command {
    /// Runs it until it ends, calling `line` with each line of its standard error.
    ///
    /// The child leads a process group of its own, so a Ctrl-C in the terminal goes to us alone.
    /// When the budget ends, or this future is dropped, the whole group is killed.
    ///
    /// Cancel safety: yes, in the sense that nothing of the group goes on.
    pub(crate) async fn run(
        &self,
        mut line: impl FnMut(&str),
        budget: Budget,
    ) -> Result<(), CommandError> {
        let program = self.name;
        #[expect(clippy::disallowed_methods, reason = "the helper the ban asks for, for images")]
        let mut command = tokio::process::Command::new(&self.program);
        command
            .args(&self.args)
            .env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let mut child =
            command.spawn().map_err(|source| CommandError::Start { program, source })?;
        let group = Group::of(&child);
        let mut tail = Tail::default();
        let output = child.stderr.take();
        let work = async {
            if let Some(output) = output {
                tail.follow(output, &mut line).await?;
            }
            child.wait().await
        };
        let ended = budget.run(program, work).await;
        match ended {
            Ok(Ok(status)) => {
                group.reaped();
                if status.success() {
                    return Ok(());
                }
                Err(CommandError::Failed { program, status, tail: tail.text() })
            }
            Ok(Err(source)) => Err(CommandError::Output { program, source }),
            Err(source) => {
                group.kill();
                // Its time is over and it is killed; what is left of the wait is the kernel's.
                if let Ok(Ok(_)) =
                    Budget::within(REAP_LIMIT).run("reap a killed program", child.wait()).await
                {
                    group.reaped();
                }
                Err(CommandError::TooSlow { program, tail: tail.text(), source })
            }
        }
    }
}

/// The process group of a child that has not been waited for, so its number is still its own.
#[derive(Debug)]
struct Group(std::cell::Cell<Option<Pid>>);

impl Group {
    fn of(child: &tokio::process::Child) -> Self {
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Self(std::cell::Cell::new(pid))
    }

    fn kill(&self) {
        if let Some(group) = self.0.get()
            && let Err(error) = rustix::process::kill_process_group(group, Signal::KILL)
        {
            tracing::debug!(%error, "nothing left to kill in the process group");
        }
    }

    fn reaped(&self) {
        self.0.set(None);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lifecycle::Budget;

    use super::{Command, CommandError};

    fn shell(script: &str) -> Command {
        let args = vec!["-c".into(), script.into()];
        Command { name: "sh", program: "/bin/sh".into(), args }
    }

    fn long() -> Budget {
        Budget::within(Duration::from_secs(60))
    }

    #[tokio::test]
    async fn a_failure_carries_the_last_lines_and_not_the_first() {
        let noisy = shell("for i in $(seq 1000); do echo line-$i >&2; done; exit 3");
        let mut seen = 0;
        let error = noisy.run(|_| seen += 1, long()).await.unwrap_err();
        assert_eq!(seen, 1000);
        assert!(error.tail().ends_with("line-1000"), "{error}");
        assert!(!error.tail().contains("line-900\n") && error.to_string().contains("status: 3"));
    }

    #[tokio::test]
    async fn a_line_without_end_does_not_grow() {
        let endless = shell("head -c 10000000 /dev/zero | tr '\\0' x >&2; exit 1");
        let error = endless.run(|_| (), long()).await.unwrap_err();
        assert!(error.tail().len() <= super::LINE_BYTES);
    }

    #[tokio::test]
    async fn when_the_time_is_over_grandchildren_are_killed_too() {
        let dir = tempfile::tempdir().unwrap();
        let pids = dir.path().join("pids");
        let script = format!("sleep 1000 & echo $! > {0}; mv {0} {0}.done; wait", pids.display());
        let error = shell(&script).run(|_| (), Budget::within(Duration::from_secs(1))).await;
        assert!(matches!(error, Err(CommandError::TooSlow { .. })), "{error:?}");
        let pid = std::fs::read_to_string(dir.path().join("pids.done")).unwrap();
        let stat = format!("/proc/{}/stat", pid.trim());
        // Killed; whoever inherits it may not have reaped it yet.
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while let Ok(stat) = std::fs::read_to_string(&stat) {
            if stat.contains(") Z") {
                break;
            }
            assert!(std::time::Instant::now() < deadline, "still there: {stat}");
            tokio::task::yield_now().await;
        }
    }
}
