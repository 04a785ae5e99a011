//! A program inside a sandbox in the place of one here: what it writes, what it is given, the signals
//! it gets, and how it ends.

use std::io::{self, Read as _};
use std::os::fd::AsFd;

use bytes::Bytes;
use guest_wire::proto::process::process_event::data_event::Output;
use guest_wire::proto::process::process_event::{EndEvent, Event};
use guest_wire::proto::process::process_input::Input;
use guest_wire::proto::process::{
    CloseStdinRequest, CloseStdinResponse, ProcessConfig, ProcessInput, SendInputRequest,
    SendInputResponse, Signal, StartRequest,
};
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;

use crate::agent::{Agent, AgentError, Events, Line, process};
use crate::say;
use crate::signals::Which;

/// What is read of standard input at once.
const PIECE_BYTES: usize = 64 * 1024;
/// Pieces that wait to be sent.
const PIECES: usize = 4;
/// What a shell adds to the number of the signal that ended a program.
const BY_SIGNAL: u8 = 128;
const SIGPIPE: u8 = 13;

/// How it came to its end, as far as that is known here.
#[derive(Debug)]
pub(super) enum Ending {
    /// The exit code a shell would tell.
    Ended(u8),
    /// Nobody reads what it writes any more.
    Unread,
}

/// Hands out what the program writes, byte by byte as it is, until it ends.
///
/// # Errors
/// The way to it broke, or standard output did.
pub(super) async fn follow(events: &mut Events) -> Result<Ending, FollowError> {
    let mut out = outlet(io::stdout()).map_err(FollowError::Output)?;
    let mut err = outlet(io::stderr()).map_err(FollowError::Output)?;
    while let Some(event) = events.next().await? {
        let written = match event {
            Event::Data(data) => match data.output {
                Some(Output::Stdout(bytes) | Output::Pty(bytes)) => write(&mut out, &bytes).await,
                Some(Output::Stderr(bytes)) => write(&mut err, &bytes).await,
                None => Ok(()),
            },
            Event::End(end) => return Ok(Ending::Ended(exit_code(&end))),
            Event::Start(_) | Event::Keepalive(_) => Ok(()),
        };
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(Ending::Unread),
            written => written.map_err(FollowError::Output)?,
        }
    }
    Err(FollowError::Unfinished)
}

/// Why a program could not be followed to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum FollowError {
    #[error(transparent)]
    Agent(#[from] AgentError),
    #[error("write what the program writes")]
    Output(#[source] io::Error),
    #[error("its events ended before it did")]
    Unfinished,
}

/// Writes to it as bytes come, and not by lines.
fn outlet(stream: impl AsFd) -> io::Result<File> {
    let stream = stream.as_fd().try_clone_to_owned()?;
    Ok(File::from_std(stream.into()))
}

async fn write(to: &mut File, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}

fn exit_code(end: &EndEvent) -> u8 {
    if end.exited {
        // The kernel keeps eight bits.
        return end.exit_code.to_le_bytes()[0];
    }
    BY_SIGNAL | signal_number(&end.status).unwrap_or_default()
}

/// The agent tells signals by the words of Go's runtime.
fn signal_number(status: &str) -> Option<u8> {
    let words = status.strip_prefix("signal: ")?.trim_end_matches(" (core dumped)");
    let known = [
        (1, "hangup"),
        (2, "interrupt"),
        (3, "quit"),
        (4, "illegal instruction"),
        (5, "trace/breakpoint trap"),
        (6, "aborted"),
        (7, "bus error"),
        (8, "floating point exception"),
        (9, "killed"),
        (10, "user defined signal 1"),
        (11, "segmentation fault"),
        (12, "user defined signal 2"),
        (SIGPIPE, "broken pipe"),
        (14, "alarm clock"),
        (15, "terminated"),
        (24, "CPU time limit exceeded"),
        (25, "file size limit exceeded"),
        (26, "virtual timer expired"),
        (27, "profiling timer expired"),
        (31, "bad system call"),
    ];
    let named = known.into_iter().find(|(_, name)| *name == words).map(|(number, _)| number);
    named.or_else(|| words.strip_prefix("signal ")?.parse().ok())
}

/// What comes on standard input, from a thread of its own: a read of a terminal cannot be given up,
/// and must not keep the program from its end.
pub(super) fn standard_input() -> mpsc::Receiver<io::Result<Bytes>> {
    let (pieces, received) = mpsc::channel(PIECES);
    std::thread::spawn(move || {
        let mut input = io::stdin().lock();
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            let piece = match input.read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => Ok(Bytes::copy_from_slice(buffer.get(..length).unwrap_or_default())),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let is_last = piece.is_err();
            if pieces.blocking_send(piece).is_err() || is_last {
                return;
            }
        }
    });
    received
}

/// Gives the program `pid` what comes on standard input, and then its end. Ends early when the
/// program reads no more.
///
/// Cancel safety: a piece may have been given or not.
pub(super) async fn feed(agent: &Agent, pid: u32) {
    let (mut line, mut pieces) = (agent.line(), standard_input());
    while let Some(piece) = pieces.recv().await {
        let piece = match piece {
            Ok(piece) => piece,
            Err(error) => {
                say::remark(&format!("cofferdam: standard input cannot be read: {error}"));
                break;
            }
        };
        if let Err(error) = give(&mut line, pid, Input::Stdin(piece.into())).await {
            // It has closed its input, or ended, which its events tell.
            tracing::debug!(%error, "the program takes no more input");
            return;
        }
    }
    let request =
        CloseStdinRequest { process: process(pid).into(), ..CloseStdinRequest::default() };
    let closed: Result<CloseStdinResponse, _> =
        line.call("process.Process/CloseStdin", &request).await;
    if let Err(error) = closed {
        tracing::debug!(%error, "the program's input is closed already");
    }
}

/// # Errors
/// It takes none, or the way to it broke.
pub(super) async fn give(line: &mut Line, pid: u32, input: Input) -> Result<(), AgentError> {
    let input = ProcessInput { input: Some(input), ..ProcessInput::default() };
    let request = SendInputRequest {
        process: process(pid).into(),
        input: input.into(),
        ..SendInputRequest::default()
    };
    let _nothing: SendInputResponse =
        line.patient_call("process.Process/SendInput", &request).await?;
    Ok(())
}

/// Sends a signal to the program and to all that it has started and that stayed in its group, as a
/// terminal does. The protocol itself has two signals, for one process: those are for where there
/// is no shell, or the program has changed its user.
///
/// # Errors
/// See [`AgentError`].
pub(super) async fn send(agent: &Agent, pid: u32, signal: &str) -> Result<(), AgentError> {
    let config = ProcessConfig {
        cmd: "/bin/sh".to_owned(),
        args: vec!["-c".to_owned(), format!("kill -{signal} -{pid}")],
        ..ProcessConfig::default()
    };
    let request =
        StartRequest { process: config.into(), stdin: Some(false), ..StartRequest::default() };
    let killing = async {
        let (_pid, mut events) = agent.start(&request).await?;
        while let Some(event) = events.next().await? {
            if let Event::End(end) = event {
                return Ok(end.exited && end.exit_code == 0);
            }
        }
        Ok(false)
    };
    if agent.in_time(killing).await.unwrap_or(false) {
        return Ok(());
    }
    match agent.signal(pid, Signal::SIGNAL_SIGTERM).await {
        // It ended meanwhile.
        Err(error) if error.is_not_found() => Ok(()),
        sent => sent,
    }
}

/// As `kill` calls it.
pub(super) fn name(signal: Which) -> &'static str {
    match signal {
        Which::Interrupt => "INT",
        Which::Terminate => "TERM",
        Which::Hangup => "HUP",
    }
}

/// The program does as one whose output nobody reads; the exit code is that of one.
pub(super) async fn unread(agent: &Agent, pid: u32) -> u8 {
    if let Err(error) = send(agent, pid, "PIPE").await {
        say::remark(&format!("cofferdam: process {pid} may run on: {error}"));
    }
    BY_SIGNAL | SIGPIPE
}

#[cfg(test)]
mod tests {
    use guest_wire::proto::process::process_event::EndEvent;

    use super::exit_code;

    #[test]
    fn an_exit_code_is_the_programs_or_says_which_signal_ended_it() {
        let code = |exited, exit_code, status: &str| {
            let status = status.to_owned();
            super::exit_code(&EndEvent { exited, exit_code, status, ..EndEvent::default() })
        };
        assert_eq!(code(true, 0, "exit status 0"), 0);
        assert_eq!(code(true, 255, "exit status 255"), 255);
        assert_eq!(code(false, -1, "signal: killed"), 137);
        assert_eq!(code(false, -1, "signal: segmentation fault (core dumped)"), 139);
        assert_eq!(code(false, -1, "signal: signal 40"), 168);
        assert_eq!(exit_code(&EndEvent::default()), 128);
    }
}
