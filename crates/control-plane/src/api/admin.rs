//! What operators do with teams.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use e2b_wire::{
    AdminTeam, CancelledBuilds, CreatedApiKey, KilledSandboxes, Named, NewTeam, TeamApiKey,
    TeamChange,
};
use futures::{StreamExt as _, stream};
use http::StatusCode;
use model::TeamId;
use tracing::info_span;

use super::keys::parse_id;
use crate::Team;
use crate::app::App;
use crate::auth::{Admin, parse_team};
use crate::http::{ApiError, JsonBody, Pair, Segment};
use crate::store::{Kind, RowState};
use crate::teams::{no_team, shown};

/// Ends at one time of all that an operator asked for.
const KILLS: usize = 10;

pub(crate) async fn teams(
    State(app): State<Arc<App>>,
    _: Admin,
) -> Result<Json<Vec<AdminTeam>>, ApiError> {
    let limits = &app.config.limits;
    Ok(Json(app.store.teams().await?.into_iter().map(|row| shown(row, limits)).collect()))
}

pub(crate) async fn create_team(
    State(app): State<Arc<App>>,
    _: Admin,
    body: JsonBody<NewTeam>,
) -> Result<(StatusCode, Json<AdminTeam>), ApiError> {
    let row = app.make_team(body.value).await?;
    tracing::info!(team.id = %row.team.id, "team made");
    Ok((StatusCode::CREATED, Json(shown(row, &app.config.limits))))
}

pub(crate) async fn team(
    State(app): State<Arc<App>>,
    _: Admin,
    Segment(id): Segment,
) -> Result<Json<AdminTeam>, ApiError> {
    let id = parse_team(&id)?;
    let row = app.store.team_row(&id).await?.ok_or_else(|| no_team(&id))?;
    Ok(Json(shown(row, &app.config.limits)))
}

pub(crate) async fn change_team(
    State(app): State<Arc<App>>,
    _: Admin,
    Segment(id): Segment,
    body: JsonBody<TeamChange>,
) -> Result<Json<AdminTeam>, ApiError> {
    let row = app.change_team(&parse_team(&id)?, body.value).await?;
    tracing::info!(team.id = %row.team.id, "team changed");
    Ok(Json(shown(row, &app.config.limits)))
}

pub(crate) async fn keys(
    State(app): State<Arc<App>>,
    _: Admin,
    Segment(id): Segment,
) -> Result<Json<Vec<TeamApiKey>>, ApiError> {
    let team = known(&app, &id).await?;
    app.keys_of(&team.id).await.map(Json)
}

/// A team that is not served gets no key.
pub(crate) async fn create_key(
    State(app): State<Arc<App>>,
    _: Admin,
    Segment(id): Segment,
    body: JsonBody<Named>,
) -> Result<(StatusCode, Json<CreatedApiKey>), ApiError> {
    let team = known(&app, &id).await?;
    if team.standing.banned || team.standing.blocked.is_some() {
        let message = format!("team {} is banned or blocked", team.id);
        return Err(ApiError::new(StatusCode::FORBIDDEN, message));
    }
    Ok((StatusCode::CREATED, Json(app.make_key(&team.id, &body.value.name).await?)))
}

pub(crate) async fn delete_key(
    State(app): State<Arc<App>>,
    _: Admin,
    Pair(team, key): Pair,
) -> Result<StatusCode, ApiError> {
    let (team, id) = (parse_team(&team)?, parse_id(&key)?);
    if app.delete_secret(&team, Kind::Key, id).await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(ApiError::not_found(format!("team {team} has no API key {id}")))
}

/// Ends whatever of the team runs. Goes on when the operator hangs up.
pub(crate) async fn kill_sandboxes(
    State(app): State<Arc<App>>,
    _: Admin,
    Segment(id): Segment,
) -> Result<Json<KilledSandboxes>, ApiError> {
    let id = parse_team(&id)?;
    // What is known of the team is looked up again: it may have been banned just now.
    app.keys.forget(&id);
    let span = info_span!("kill_team", team.id = %id);
    let killed = app.owned(span, Arc::clone(&app).kill_team(id.clone())).await?;
    app.keys.forget(&id);
    Ok(Json(killed))
}

/// The builds that nodes have are the operator's own and belong to no team, so there is nothing of a
/// team's to cancel.
pub(crate) async fn cancel_builds(
    _: Admin,
    Segment(id): Segment,
) -> Result<Json<CancelledBuilds>, ApiError> {
    parse_team(&id)?;
    Ok(Json(CancelledBuilds::default()))
}

pub(crate) async fn running_counts(
    State(app): State<Arc<App>>,
    _: Admin,
) -> Result<Json<BTreeMap<String, u32>>, ApiError> {
    Ok(Json(app.store.running_counts().await?))
}

async fn known(app: &App, id: &str) -> Result<Team, ApiError> {
    let id = parse_team(id)?;
    app.store.team(&id).await?.ok_or_else(|| no_team(&id))
}

impl App {
    async fn kill_team(self: Arc<Self>, id: TeamId) -> Result<KilledSandboxes, ApiError> {
        let rows = self.store.listed_sandboxes(&id).await?;
        let Some(team) = self.store.team(&id).await?.map(Arc::new) else {
            return Ok(KilledSandboxes::default());
        };
        let running = rows.into_iter().filter(|row| row.state == RowState::Running);
        let kills =
            stream::iter(running).map(|row| Arc::clone(&self).kill(Arc::clone(&team), row.id));
        let counted = kills.buffer_unordered(KILLS).fold(
            KilledSandboxes::default(),
            async |mut counted, killed| {
                match killed {
                    Ok(()) => counted.killed_count += 1,
                    // It ended by itself meanwhile.
                    Err(error) if error.is_not_found() => {}
                    Err(_refused) => counted.failed_count += 1,
                }
                counted
            },
        );
        let counted = counted.await;
        let KilledSandboxes { killed_count: killed, failed_count: failed } = counted;
        tracing::info!(killed, failed, "sandboxes of a team ended by an operator");
        Ok(counted)
    }
}
