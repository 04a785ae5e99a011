//! `cofferdam sandbox shell`: a shell inside a sandbox, on the terminal here.

use std::io;
use std::pin::pin;
use std::process::ExitCode;

use anyhow::Context as _;
use guest_wire::proto::process::process_input::Input;
use guest_wire::proto::process::{PTY, StartRequest, UpdateRequest, UpdateResponse, pty};
use rustix::termios::{self, OptionalActions, Termios, Winsize};
use tokio::signal::unix::{SignalKind, signal};

use super::exec::{finish, told};
use super::inside::{Inside, enter, program};
use super::running::{self, Ending};
use super::unknown;
use crate::agent::{Agent, AgentError, Line, process};
use crate::args::Shell;
use crate::client::Api;
use crate::signals::Signals;

/// The better one of those that are there, as at a login.
const SHELL: [&str; 3] =
    ["/bin/sh", "-c", "test -x /bin/bash && exec /bin/bash -i -l; exec /bin/sh -i -l"];
/// What the terminal is, if nobody says.
const TERM: &str = "xterm-256color";

/// `term` is what kind of terminal this is.
pub(super) async fn run(api: &Api, options: &Shell, term: Option<String>) -> ExitCode {
    told(Box::pin(on_terminal(api, options, term)).await)
}

async fn on_terminal(
    api: &Api,
    options: &Shell,
    term: Option<String>,
) -> anyhow::Result<Option<u8>> {
    // Found out before a sandbox is waked for nothing.
    let before = termios::tcgetattr(io::stdin()).context(
        "a shell needs a terminal, and standard input is none; `cofferdam sandbox exec` runs \
         programs without",
    )?;
    let Some(inside) = enter(api, &options.id, &options.around.acting).await? else {
        unknown(&options.id);
        return Ok(None);
    };
    let request = request(options, term.unwrap_or_else(|| TERM.to_owned()));
    let mut signals = Signals::listen()?;
    let (pid, mut events) = match inside.agent.start(&request).await {
        Ok(started) => started,
        Err(error) => return Err(inside.explain(error).await),
    };
    let raw = RawTerminal::enter(before)?;
    let ended = {
        let mut output = pin!(running::follow(&mut events));
        let mut typing = pin!(typed(&inside.agent, pid));
        let mut resizing = pin!(resized(&inside.agent, pid));
        let mut is_typed = false;
        loop {
            tokio::select! {
                ended = &mut output => break ended,
                // Nothing can be typed any more.
                () = &mut typing, if !is_typed => {
                    is_typed = true;
                    hang_up(&inside, pid).await;
                }
                never = &mut resizing => never?,
                // Not of the keyboard: those are the shell's own.
                _ = signals.which() => {
                    hang_up(&inside, pid).await;
                    break Ok(Ending::Ended(HUNG_UP));
                }
            }
        }
    };
    // What is said from here on is said on a terminal as it was.
    drop(raw);
    finish(&inside, pid, ended).await.map(Some)
}

/// As of a program that a hangup ended.
const HUNG_UP: u8 = 129;

fn request(options: &Shell, term: String) -> StartRequest {
    let mut request = program(&options.around, &SHELL.map(str::to_owned));
    if let Some(config) = request.process.as_option_mut() {
        for (name, value) in [("TERM", term.as_str()), ("LANG", "C.UTF-8"), ("LC_ALL", "C.UTF-8")] {
            config.envs.entry(name.to_owned()).or_insert_with(|| value.to_owned());
        }
    }
    request.pty = pty().into();
    request
}

/// As large as the terminal here is now.
fn pty() -> PTY {
    let size = termios::tcgetwinsize(io::stdin());
    let Winsize { ws_col, ws_row, .. } =
        size.unwrap_or(Winsize { ws_col: 80, ws_row: 24, ws_xpixel: 0, ws_ypixel: 0 });
    let size = pty::Size { cols: ws_col.into(), rows: ws_row.into(), ..pty::Size::default() };
    PTY { size: size.into(), ..PTY::default() }
}

/// Gives the shell what is typed, until nothing can be any more.
async fn typed(agent: &Agent, pid: u32) {
    let (mut line, mut pieces) = (agent.line(), running::standard_input());
    while let Some(Ok(piece)) = pieces.recv().await {
        if let Err(error) = running::give(&mut line, pid, Input::Pty(piece.into())).await {
            tracing::debug!(%error, "the shell takes no more input");
            // It has ended, which its events tell.
            return std::future::pending().await;
        }
    }
}

/// Tells the shell's terminal each new size of the one here.
async fn resized(agent: &Agent, pid: u32) -> anyhow::Result<()> {
    let mut changes = signal(SignalKind::window_change()).context("watch the terminal's size")?;
    let mut line = agent.line();
    loop {
        // Also once at the start: it may have changed before it was watched.
        if let Err(error) = resize(&mut line, pid).await {
            tracing::debug!(%error, "the shell's terminal keeps its size");
        }
        changes.recv().await.context("the terminal's size is not watched any more")?;
    }
}

async fn resize(line: &mut Line, pid: u32) -> Result<(), AgentError> {
    let request = UpdateRequest {
        process: process(pid).into(),
        pty: pty().into(),
        ..UpdateRequest::default()
    };
    let _nothing: UpdateResponse = line.call("process.Process/Update", &request).await?;
    Ok(())
}

/// As the end of a terminal does.
async fn hang_up(inside: &Inside, pid: u32) {
    if let Err(error) = running::send(&inside.agent, pid, "HUP").await {
        tracing::debug!(%error, "the shell may run on");
    }
}

/// A terminal that gives every key as it is typed. Dropped, it is as it was.
#[derive(Debug)]
struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    fn enter(before: Termios) -> anyhow::Result<Self> {
        let mut raw = before.clone();
        raw.make_raw();
        // Made first, so that what was changed in part is changed back.
        let terminal = Self { before };
        termios::tcsetattr(io::stdin(), OptionalActions::Now, &raw)
            .context("let the terminal give every key")?;
        Ok(terminal)
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // Without waiting for what is still to be shown: a terminal that is held shows nothing.
        if let Err(error) = termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.before) {
            tracing::debug!(%error, "the terminal is not as it was");
        }
    }
}
