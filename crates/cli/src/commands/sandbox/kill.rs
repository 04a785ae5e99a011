//! `cofferdam sandbox kill`: asks for the end, and says what stays.

use std::process::ExitCode;
use std::time::Duration;

use e2b_wire::NodeSandbox;
use http::StatusCode;
use lifecycle::Budget;

use super::{LEFT, find, unknown};
use crate::args::Kill;
use crate::client::{Api, CallError};
use crate::say;

/// Between two rounds. The node's own are further and further apart; here somebody waits.
const PAUSE: Duration = Duration::from_secs(1);

pub(super) async fn run(api: &Api, options: &Kill) -> anyhow::Result<ExitCode> {
    let id = &options.id;
    let found = find(api, id).await?;
    if found.is_empty() {
        return Ok(unknown(id));
    }
    let budget = options.retry.then(|| Budget::within(options.timeout));
    let mut left = Vec::new();
    for sandbox in &found {
        left.extend(end(api, sandbox, budget).await?);
    }
    if left.is_empty() {
        say::answer(&format!("sandbox {id} is gone; nothing of it is left"))?;
        return Ok(ExitCode::SUCCESS);
    }
    say::answer(&format!("sandbox {id} is not gone; left are:{}", lines(&left)))?;
    say::remark(match budget {
        Some(_) => "The time is over; the node keeps trying.",
        None => "The node keeps trying; with --retry this command does, too.",
    });
    Ok(ExitCode::from(LEFT))
}

/// Ends it on its node: once, or until it is gone or `budget` is used up. What is left.
async fn end(
    api: &Api,
    sandbox: &NodeSandbox,
    budget: Option<Budget>,
) -> anyhow::Result<Vec<String>> {
    let path = format!("/nodes/{}/sandboxes/{}", sandbox.node_id, sandbox.sandbox_id);
    for round in 1.. {
        let ended = match budget {
            None => api.delete(&path).await,
            Some(budget) => match budget.run("end", api.delete(&path)).await {
                Ok(ended) => ended,
                Err(_expired) => return left(api, sandbox).await,
            },
        };
        if !is_left(ended)? {
            break;
        }
        let left = left(api, sandbox).await?;
        let rest = budget.map(|budget| budget.remaining()).unwrap_or_default();
        if left.is_empty() || rest.is_zero() {
            return Ok(left);
        }
        say::answer(&format!("round {round}: left are:{}", lines(&left)))?;
        tokio::time::sleep(PAUSE.min(rest)).await;
    }
    Ok(Vec::new())
}

/// Whether an end was not one.
fn is_left(ended: Result<(), CallError>) -> Result<bool, CallError> {
    match ended {
        Ok(()) => Ok(false),
        Err(error) => match error.status() {
            // It ended by itself meanwhile.
            Some(StatusCode::NOT_FOUND) => Ok(false),
            // A release step failed, or takes longer than the service waits.
            Some(StatusCode::CONFLICT | StatusCode::REQUEST_TIMEOUT) => Ok(true),
            _ => Err(error),
        },
    }
}

/// What its node still has of it: the failed steps, or how far it is.
async fn left(api: &Api, sandbox: &NodeSandbox) -> anyhow::Result<Vec<String>> {
    let now = find(api, &sandbox.sandbox_id.parse()?).await?;
    let Some(now) = now.into_iter().find(|now| now.lifecycle_id == sandbox.lifecycle_id) else {
        return Ok(Vec::new());
    };
    Ok(if now.left.is_empty() { vec![format!("it is {}", now.state)] } else { now.left })
}

fn lines(left: &[String]) -> String {
    left.iter().map(|what| format!("\n  {what}")).collect()
}
