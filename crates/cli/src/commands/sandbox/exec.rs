//! `cofferdam sandbox exec`: a program inside a sandbox, as if it ran here.

use std::pin::pin;
use std::process::ExitCode;

use super::inside::{Inside, enter, program};
use super::running::{self, Ending, FollowError};
use super::unknown;
use crate::args::Exec;
use crate::client::Api;
use crate::say;
use crate::signals::Signals;

/// The exit code of whatever is no exit of the program's, as of other tools that run one.
pub(super) const NOT_RUN: u8 = 125;

pub(super) async fn run(api: &Api, options: &Exec) -> ExitCode {
    told(Box::pin(in_place(api, options)).await)
}

/// Says what went wrong, if it did, and keeps its exit code from being taken for the program's.
pub(super) fn told(ended: anyhow::Result<Option<u8>>) -> ExitCode {
    match ended {
        Ok(code) => ExitCode::from(code.unwrap_or(NOT_RUN)),
        Err(error) => {
            say::remark(&format!("cofferdam: {error:#}"));
            ExitCode::from(NOT_RUN)
        }
    }
}

/// Its exit code; `None` when there is no such sandbox.
async fn in_place(api: &Api, options: &Exec) -> anyhow::Result<Option<u8>> {
    let Some(inside) = enter(api, &options.id, &options.around.acting).await? else {
        unknown(&options.id);
        return Ok(None);
    };
    // Before the program is there: a signal that comes while it starts is for it.
    let mut signals = Signals::listen()?;
    let mut request = program(&options.around, &options.command);
    request.stdin = Some(options.input);
    let (pid, mut events) = match inside.agent.start(&request).await {
        Ok(started) => started,
        Err(error) => return Err(inside.explain(error).await),
    };
    if options.detach {
        say::answer(&pid.to_string())?;
        return Ok(Some(0));
    }
    let mut output = pin!(running::follow(&mut events));
    let mut input = pin!(running::feed(&inside.agent, pid));
    let mut is_fed = !options.input;
    let ended = loop {
        tokio::select! {
            ended = &mut output => break ended,
            () = &mut input, if !is_fed => is_fed = true,
            signal = signals.which() => {
                let name = running::name(signal);
                if let Err(error) = running::send(&inside.agent, pid, name).await {
                    say::remark(&format!("cofferdam: SIG{name} did not reach it: {error}"));
                }
            }
        }
    };
    finish(&inside, pid, ended).await.map(Some)
}

/// The exit code of what was followed to its end.
pub(super) async fn finish(
    inside: &Inside,
    pid: u32,
    ended: Result<Ending, FollowError>,
) -> anyhow::Result<u8> {
    let error = match ended {
        Ok(Ending::Ended(code)) => return Ok(code),
        Ok(Ending::Unread) => return Ok(running::unread(&inside.agent, pid).await),
        Err(FollowError::Agent(error)) => error,
        Err(FollowError::Unfinished) => inside.agent.broken(&FollowError::Unfinished),
        Err(error @ FollowError::Output(_)) => return Err(error.into()),
    };
    let context = format!("the end of process {pid} was not seen");
    Err(inside.explain(error).await.context(context))
}
