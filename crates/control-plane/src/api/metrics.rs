use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use e2b_wire::{SandboxMetric, SandboxesWithMetrics, parse_sandbox_path};
use model::SandboxId;
use node_wire::{NodeError, Sample};
use serde::Deserialize;

use crate::Team;
use crate::app::App;
use crate::auth::Caller;
use crate::http::{ApiError, Params, SandboxPath};
use crate::samples::{Span, metric};
use crate::{node_answers, store::RowState};

/// Sandboxes one request may ask the newest samples of.
const SANDBOXES_MAX: usize = 100;
/// How long a node may take to tell samples.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// Seconds since 1970.
#[derive(Debug, Deserialize)]
pub(crate) struct SpanQuery {
    start: Option<i64>,
    end: Option<i64>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct LatestQuery {
    sandbox_ids: Option<String>,
}

pub(crate) async fn of_sandbox(
    State(app): State<Arc<App>>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
    Params(query): Params<SpanQuery>,
) -> Result<Json<Vec<SandboxMetric>>, ApiError> {
    let span = Span::new(query.start, query.end)?;
    Ok(Json(span.pick(&samples(&app, &caller.team, &id).await?)))
}

pub(crate) async fn latest(
    State(app): State<Arc<App>>,
    caller: Caller,
    Params(query): Params<LatestQuery>,
) -> Result<Json<SandboxesWithMetrics>, ApiError> {
    let mut sandboxes = BTreeMap::new();
    for id in parse_ids(query.sandbox_ids.as_deref())? {
        if let Some(newest) = newest(&app, &caller.team, &id).await?.last() {
            sandboxes.insert(id.to_string(), metric(newest));
        }
    }
    Ok(Json(SandboxesWithMetrics { sandboxes }))
}

fn parse_ids(text: Option<&str>) -> Result<BTreeSet<SandboxId>, ApiError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Err(ApiError::validation("sandbox_ids is required, ids separated by commas"));
    };
    let mut ids = BTreeSet::new();
    for part in text.split(',') {
        let id = parse_sandbox_path(part).map_err(ApiError::validation)?;
        ids.insert(SandboxId::parse(id).map_err(ApiError::validation)?);
        if ids.len() > SANDBOXES_MAX {
            let problem = format!("sandbox_ids has more than {SANDBOXES_MAX} ids");
            return Err(ApiError::validation(problem));
        }
    }
    Ok(ids)
}

/// All that is known of a sandbox, the oldest first: what is kept, and from where that ends on what its
/// node tells. Nothing of one that is somebody else's, or of which no record is kept.
async fn samples(app: &App, team: &Team, id: &SandboxId) -> Result<Vec<Sample>, ApiError> {
    let mut samples = app.store.samples(&team.id, id).await?;
    let told = newest(app, team, id).await?;
    if let Some(first) = told.first() {
        samples.retain(|kept| kept.at < first.at);
    }
    samples.extend(told);
    Ok(samples)
}

/// What the node of a running sandbox tells of it.
async fn newest(app: &App, team: &Team, id: &SandboxId) -> Result<Vec<Sample>, ApiError> {
    let row = app.store.sandbox(&team.id, id).await?;
    let Some(row) = row.filter(|row| row.state == RowState::Running) else {
        return Ok(Vec::new());
    };
    let node = app.node_of(&row)?;
    match node.within(CALL_LIMIT, node.api().samples(id)).await {
        Ok(samples) => Ok(samples),
        Err(NodeError::NotFound(_)) => Ok(Vec::new()),
        Err(error) => Err(node_answers::call_failed(&error, id)),
    }
}
