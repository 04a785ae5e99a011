//! What a team did over time.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use e2b_wire::{MaxTeamMetric, TeamMetric};
use http::StatusCode;
use serde::Deserialize;

use crate::app::App;
use crate::auth::Caller;
use crate::http::{ApiError, Params, Segment};
use crate::team_metrics::{Activity, Measure, Window};

/// Seconds since 1970.
#[derive(Debug, Deserialize)]
pub(crate) struct SpanQuery {
    start: Option<i64>,
    end: Option<i64>,
    metric: Option<String>,
}

pub(crate) async fn metrics(
    State(app): State<Arc<App>>,
    caller: Caller,
    Segment(id): Segment,
    Params(query): Params<SpanQuery>,
) -> Result<Json<Vec<TeamMetric>>, ApiError> {
    let (window, activity) = activity(&app, &caller, &id, &query).await?;
    Ok(Json(activity.points(window)))
}

pub(crate) async fn max(
    State(app): State<Arc<App>>,
    caller: Caller,
    Segment(id): Segment,
    Params(query): Params<SpanQuery>,
) -> Result<Json<MaxTeamMetric>, ApiError> {
    let Some(measure) = query.metric.as_deref().and_then(Measure::parse) else {
        let problem = "metric is required, concurrent_sandboxes or sandbox_start_rate";
        return Err(ApiError::validation(problem));
    };
    let (window, activity) = activity(&app, &caller, &id, &query).await?;
    Ok(Json(activity.most(window, measure)))
}

async fn activity(
    app: &App,
    caller: &Caller,
    id: &str,
    query: &SpanQuery,
) -> Result<(Window, Activity), ApiError> {
    // Of teams that are somebody else's nothing is told, not even whether they are.
    if id != caller.team.id.as_str() {
        let message = format!("the id must be that of the key's team, {}", caller.team.id);
        return Err(ApiError::new(StatusCode::FORBIDDEN, message));
    }
    let window = Window::new(query.start, query.end, app.config.limits.ended_kept)?;
    let runs = app.store.runs_between(&caller.team.id, window.start, window.end).await?;
    Ok((window, Activity::new(runs)))
}
