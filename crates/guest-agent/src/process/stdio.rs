//! The ends of a process's input and output: pipes, or one terminal.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, ptsname, unlockpt};
use rustix::termios::Winsize;

use super::hub::Source;
use crate::pollable::Pollable;

/// Where a process reads and writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Pipes. Without an open input the process reads `/dev/null`.
    Pipes {
        input: bool,
    },
    Terminal(Size),
}

/// Of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) cols: u16,
    pub(super) rows: u16,
}

impl Size {
    pub(super) fn winsize(self) -> Winsize {
        Winsize { ws_col: self.cols, ws_row: self.rows, ws_xpixel: 0, ws_ypixel: 0 }
    }
}

/// What becomes descriptors 0, 1 and 2 of the process. Must be dropped here after the fork, or
/// the end of the output is never seen.
#[derive(Debug)]
pub(super) struct ChildEnds {
    pub(super) input: OwnedFd,
    pub(super) output: OwnedFd,
    pub(super) error: OwnedFd,
    /// Whether they are a terminal that the process is to control.
    pub(super) is_terminal: bool,
}

/// What the agent keeps.
pub(super) struct AgentEnds {
    pub(super) input: Option<Pollable>,
    pub(super) outputs: Vec<(Source, Pollable)>,
    pub(super) is_terminal: bool,
}

/// Opens both sides. Every descriptor is closed on exec from birth.
///
/// # Errors
/// When there are no more descriptors, pipes or terminals.
pub(super) fn open(kind: Kind) -> io::Result<(ChildEnds, AgentEnds)> {
    match kind {
        Kind::Pipes { input } => {
            let (child_input, input) = if input {
                let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
                (read, Some(Pollable::new(write)?))
            } else {
                let flags = OFlags::RDONLY | OFlags::CLOEXEC;
                (rustix::fs::open("/dev/null", flags, Mode::empty())?, None)
            };
            let (output, child_output) = pipe_with(PipeFlags::CLOEXEC)?;
            let (error, child_error) = pipe_with(PipeFlags::CLOEXEC)?;
            let child = ChildEnds {
                input: child_input,
                output: child_output,
                error: child_error,
                is_terminal: false,
            };
            let (output, error) = (Pollable::new(output)?, Pollable::new(error)?);
            let outputs = vec![(Source::Stdout, output), (Source::Stderr, error)];
            Ok((child, AgentEnds { input, outputs, is_terminal: false }))
        }
        Kind::Terminal(size) => open_terminal(size),
    }
}

fn open_terminal(size: Size) -> io::Result<(ChildEnds, AgentEnds)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    // Opened through the master, so it does not matter what is mounted on /dev/pts.
    let slave = match ioctl_tiocgptpeer(&master, flags) {
        Ok(slave) => slave,
        Err(_unsupported) => {
            let name = ptsname(&master, Vec::new())?;
            let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
            rustix::fs::open(name.as_c_str(), flags, Mode::empty())?
        }
    };
    rustix::termios::tcsetwinsize(&master, size.winsize())?;
    let child = ChildEnds {
        input: slave.try_clone()?,
        output: slave.try_clone()?,
        error: slave,
        is_terminal: true,
    };
    let input = Some(Pollable::new(master.try_clone()?)?);
    let outputs = vec![(Source::Terminal, Pollable::new(master)?)];
    Ok((child, AgentEnds { input, outputs, is_terminal: true }))
}
