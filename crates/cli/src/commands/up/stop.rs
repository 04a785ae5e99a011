//! The way out: drain while everything still serves, then close what serves.

use std::pin::Pin;
use std::time::{Duration, Instant};

use edge::ServeError;
use futures::future::FusedFuture;
use model::NodeRequest;
use node::{Escalation, Node, ShutdownReport, StopPlan};
use node_wire::{Blocker, DrainStatus, NodeApi, NodeError};

use super::helm::Helm;
use super::outcome::Outcome;
use crate::config::{Config, Patience};
use crate::say;
use crate::supervisor::Stage;

/// How long a stop that was given up may still take to end every process of ours.
const GIVE_UP_LIMIT: Duration = Duration::from_secs(2);

/// Why the service stops.
#[derive(Debug)]
pub(super) enum Cause {
    Asked,
    /// By itself, because something of it ended that should not have.
    Broken(String),
}

/// How long sandboxes may go on by themselves; `None`: for ever.
pub(super) fn patience(config: &Config, helm: &Helm, cause: &Cause) -> Option<Duration> {
    // Nobody can reach a sandbox of a service that does not serve.
    if matches!(cause, Cause::Broken(_)) {
        return Some(Duration::ZERO);
    }
    let wanted = match config.shutdown_drain_timeout {
        Patience::Auto => (!helm.is_managed()).then_some(Duration::ZERO),
        Patience::Forever => None,
        Patience::Limited(time) => Some(time),
    };
    // Whoever kills us must find us gone: what comes after the patience has its time before that.
    let deadline =
        config.shutdown_kill_deadline.map(|kill| kill.saturating_sub(config.stop_limit()));
    match (wanted, deadline) {
        (Some(wanted), Some(deadline)) => Some(wanted.min(deadline)),
        (wanted, deadline) => wanted.or(deadline),
    }
}

/// Stops the node. Sandboxes that run, and whoever asks for them, are served by `serving`
/// meanwhile. A second signal ends what runs, a third gives up.
pub(super) async fn stop<S>(
    node: &Node,
    plan: StopPlan,
    cause: Cause,
    helm: &mut Helm,
    mut serving: Pin<&mut S>,
) -> Outcome
where
    S: FusedFuture<Output = Result<(), ServeError>>,
{
    let began = Instant::now();
    let ended_by_then = node.sandboxes();
    announce(&plan, ended_by_then);
    let status = || format!("stopping, {} sandboxes left", node.sandboxes());
    helm.stopping(&status());
    tracing::info!(sandboxes = ended_by_then, patience = ?plan.graceful, ?cause, "stopping");

    let escalation = Escalation::default();
    let mut stopping = Box::pin(node.stop(plan, &escalation));
    let mut cause = match cause {
        Cause::Asked => None,
        Cause::Broken(what) => Some(what),
    };
    let mut give_up_at = None;
    let report = loop {
        tokio::select! {
            biased;
            () = helm.signal(Stage::Stopping, status) => {
                if escalation.force.is_cancelled() {
                    say::remark("cofferdam: giving up; the next start removes what is left");
                    // Signals may follow each other closely: an attempt kills every process before
                    // anything that takes time, so it has begun before it is given up.
                    if let Err(error) = node.request(NodeRequest::DrainForced).await {
                        tracing::error!(error = %observe::chain(&error), "what runs is not ended");
                    }
                    escalation.give_up.cancel();
                    let latest = tokio::time::Instant::now() + GIVE_UP_LIMIT;
                    give_up_at = give_up_at.or(Some(latest));
                } else {
                    let left = node.sandboxes();
                    say::remark(&format!(
                        "cofferdam: ending {left} sandboxes now; another signal gives up"
                    ));
                    escalation.force.cancel();
                }
            }
            report = &mut stopping => break Some(report),
            // Once it has ended it is never ready again.
            ended = serving.as_mut() => {
                let what = listener_ended(ended);
                tracing::error!(cause = what, "not served any more; ending what runs");
                cause.get_or_insert(what);
                escalation.force.cancel();
            }
            () = until(give_up_at) => break None,
        }
    };
    drop(stopping);
    let so_far = Outcome {
        took: began.elapsed(),
        ended: ended_by_then.saturating_sub(node.sandboxes()),
        cause,
        ..Outcome::default()
    };
    outcome(report, node.drain_status().await, so_far)
}

fn outcome(
    report: Option<ShutdownReport>,
    status: Result<DrainStatus, NodeError>,
    so_far: Outcome,
) -> Outcome {
    let phase = status.as_ref().map_or("unknown", |status| status.phase.as_str());
    match report {
        Some(report) => Outcome {
            phase,
            forced: report.forced,
            failed: report.errors,
            left: report.left.iter().map(|item| format!("{:?} {}", item.kind, item.name)).collect(),
            ..so_far
        },
        None => Outcome {
            phase,
            forced: true,
            gave_up: true,
            failed: status.map_or_else(|_| Vec::new(), |status| names(&status.blockers)),
            ..so_far
        },
    }
}

fn names(blockers: &[Blocker]) -> Vec<String> {
    blockers.iter().map(|left| format!("{} {} is left", left.class.as_str(), left.id)).collect()
}

/// What the end of the listener means to whoever has not asked for it.
pub(super) fn listener_ended(ended: Result<(), ServeError>) -> String {
    match ended {
        Ok(()) => "the listener ended".to_owned(),
        Err(error) => format!("the listener ended: {}", observe::chain(&error)),
    }
}

async fn until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Tells whoever has asked what is going to happen. That nobody reads it changes nothing.
fn announce(plan: &StopPlan, sandboxes: usize) {
    let what = match plan.graceful {
        _ if sandboxes == 0 => "cofferdam: stopping".to_owned(),
        Some(Duration::ZERO) => format!("cofferdam: stopping, {sandboxes} sandboxes will be ended"),
        Some(limit) => format!(
            "cofferdam: stopping, {sandboxes} sandboxes have {} s to end; a second signal ends them",
            limit.as_secs()
        ),
        None => format!(
            "cofferdam: stopping when {sandboxes} sandboxes have ended; a second signal ends them"
        ),
    };
    if say::answer(&what).is_err() {
        say::remark(&what);
    }
}
