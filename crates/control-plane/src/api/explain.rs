//! `GET /sandboxes/{id}/explain`: what became of a sandbox and why, for its team, as long as its
//! record is kept. Cofferdam's own.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use e2b_wire::Timestamp;
use node_wire::{ExplainedStep, Explanation};
use serde::Serialize;

use crate::app::App;
use crate::auth::Caller;
use crate::http::{ApiError, SandboxPath};
use crate::kill::Pursuit;
use crate::store::{End, History};

/// How long a node may take to say what it remembers.
const CALL_LIMIT: Duration = Duration::from_secs(5);

/// What is known of a sandbox.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SandboxExplanation {
    #[serde(rename = "sandboxID")]
    sandbox: String,
    #[serde(rename = "templateID")]
    template: String,
    /// `starting`, `running`, `pausing`, `paused`, `resuming`, `killing` (its end was asked for and is not confirmed) or `ended`.
    state: &'static str,
    #[serde(rename = "nodeID", skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    #[serde(rename = "lifecycleID", skip_serializing_if = "Option::is_none")]
    lifecycle: Option<String>,
    /// When its time is, or would have been, over.
    end_at: Timestamp,
    /// Absent while it has not ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<Ended>,
    /// The oldest first.
    timeline: Vec<Moment>,
    /// What its node remembers; absent when that is nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    on_node: Option<OnNode>,
    /// Why the node was not heard.
    #[serde(skip_serializing_if = "Option::is_none")]
    node_error: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct Ended {
    at: Timestamp,
    /// `request`, `timeout`, `crashed`, `start-failed`, `node-stop`, `reclaimed` or `lost`.
    reason: String,
    /// The reason in words.
    message: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

#[derive(Debug, Serialize)]
struct Moment {
    at: Timestamp,
    /// `asked`, `adopted`, `started`, `paused`, `resumed`, `end-moved`, `kill-asked`, `ended` or
    /// `released`.
    what: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct OnNode {
    #[serde(rename = "lifecycleID")]
    lifecycle: String,
    steps: Vec<Step>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failed_step: Option<String>,
    /// The last lines of its machine.
    output: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_peak_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_ms: Option<u64>,
    reclaimed: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Step {
    at: Timestamp,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    took_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub(crate) async fn explain(
    State(app): State<Arc<App>>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
) -> Result<Json<SandboxExplanation>, ApiError> {
    let Some(history) = app.store.history(&caller.team.id, &id).await? else {
        return Err(ApiError::not_found(format!("no record of sandbox {id} is kept")));
    };
    let timeline = timeline(&history, app.pursuits.of(&id));
    let History { row, end, .. } = history;
    let (on_node, node_error) = match app.node_of(&row) {
        Err(_unknown) => (None, Some("its node is not known here now")),
        Ok(node) => {
            let known = node.api().explain(&id, row.lifecycle.as_ref());
            match node.within(CALL_LIMIT, known).await {
                Ok(known) => (known.map(on_node), None),
                Err(error) => {
                    tracing::info!(error = %observe::chain(&error), "a node explains nothing");
                    (None, Some("its node did not answer"))
                }
            }
        }
    };
    Ok(Json(SandboxExplanation {
        sandbox: row.id.to_string(),
        template: row.template.to_string(),
        state: row.state.as_str(),
        node: row.node.map(|node| node.to_string()),
        lifecycle: row.lifecycle.map(|lifecycle| lifecycle.to_string()),
        end_at: row.ends_at,
        ended: end.map(ended),
        timeline,
        on_node,
        node_error,
    }))
}

fn ended(end: End) -> Ended {
    let End { at, reason, detail, .. } = end;
    Ended { at, message: in_words(&reason), reason: reason.into_owned(), detail }
}

fn in_words(reason: &str) -> &'static str {
    match reason {
        "request" => "somebody asked for its end",
        "timeout" => "its time was over",
        "crashed" => "its first process ended by itself",
        "start-failed" => "it did not start",
        "node-stop" => "its node was stopped",
        "reclaimed" => "its node was interrupted, and could not go on with it",
        End::LOST => "it was gone when its node was asked for it, and nobody saw how it ended",
        _ => "see the reason",
    }
}

fn timeline(history: &History, pursuit: Option<Pursuit>) -> Vec<Moment> {
    let row = &history.row;
    let moment = |at, what, detail| Moment { at, what, detail };
    let maybe = |at: Option<Timestamp>, what, detail| at.map(|at| moment(at, what, detail));
    let moves = format!("to {}; it has moved {} times", row.ends_at, history.moves);
    let sent = pursuit.filter(|pursuit| pursuit.sent > 0);
    let sent = sent.map(|pursuit| format!("sent again {} times, not confirmed", pursuit.sent));
    let reason = history.end.as_ref().map(|end| end.reason.to_string());
    let started = row.lifecycle.is_some().then_some(row.started_at);
    let asked = history.adopted_at.is_none().then_some(row.created_at);
    let paused = row.paused.map(|last| {
        let kept = if last.memory { "with its processes" } else { "its files only" };
        moment(last.at, "paused", Some(format!("{kept}; {} times in all", row.pauses)))
    });
    let started = started.filter(|_| history.resumed_at.is_none());
    let moments = [
        paused,
        maybe(history.resumed_at, "resumed", None),
        maybe(asked, "asked", None),
        maybe(started, "started", None),
        maybe(history.adopted_at, "adopted", Some("its record was made anew".to_owned())),
        maybe(history.moved_at, "end-moved", Some(moves)),
        maybe(history.killing_at, "kill-asked", sent),
        maybe(history.end.as_ref().map(|end| end.at), "ended", reason),
        maybe(history.released_at, "released", None),
    ];
    let mut timeline: Vec<Moment> = moments.into_iter().flatten().collect();
    // Stable: of two things at one moment the one above comes first.
    timeline.sort_by_key(|moment| moment.at);
    timeline
}

fn on_node(known: Explanation) -> OnNode {
    let ms = |took: Duration| u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    OnNode {
        lifecycle: known.lifecycle.to_string(),
        steps: known.steps.into_iter().map(step).collect(),
        failed_step: known.failed_step,
        output: known.output,
        memory_peak_bytes: known.memory_peak_bytes,
        cpu_ms: known.cpu_time.map(ms),
        reclaimed: known.reclaimed,
    }
}

fn step(step: ExplainedStep) -> Step {
    let took_ms = step.took.map(|took| took.as_secs_f64() * 1000.0);
    Step { at: step.at.into(), name: step.name, took_ms, error: step.error }
}
