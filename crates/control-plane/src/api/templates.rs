use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use e2b_wire::{
    Template, TemplateAlias, TemplateBuild, TemplateListQuery, TemplateRef, TemplateWithBuilds,
};

use crate::api::snapshots::{after, next_page, page_size};
use crate::app::App;
use crate::auth::{Caller, TemplateCaller};
use crate::http::{ApiError, Params, Segment};
use crate::store::TemplateRow;

/// Of every template that can be started.
const READY: &str = "ready";

pub(crate) async fn list(
    State(app): State<Arc<App>>,
    caller: TemplateCaller,
    Params(query): Params<TemplateListQuery>,
) -> Result<Json<Vec<Template>>, ApiError> {
    check_team(&caller, &query)?;
    Ok(Json(app.store.templates().await?.into_iter().map(listed).collect()))
}

/// The same by page.
pub(crate) async fn list_v2(
    State(app): State<Arc<App>>,
    caller: TemplateCaller,
    Params(query): Params<TemplateListQuery>,
) -> Result<Response, ApiError> {
    check_team(&caller, &query)?;
    let limit = page_size(query.limit.as_deref())?;
    let mut rows = app.store.templates().await?;
    if let Some((time, id)) = after(query.next_token.as_deref())? {
        rows.retain(|row| (row.created_at, id.as_str()) < (time, row.id.as_str()));
    }
    let more = rows.len() > limit;
    rows.truncate(limit);
    let last = rows.last().filter(|_| more);
    let headers = next_page(last.map(|last| (last.created_at, last.id.to_string())))?;
    let rows: Vec<Template> = rows.into_iter().map(listed).collect();
    Ok((headers, Json(rows)).into_response())
}

/// Those that came with the installation, which are all but snapshots.
pub(crate) async fn defaults(
    State(app): State<Arc<App>>,
    _: TemplateCaller,
) -> Result<Json<Vec<Template>>, ApiError> {
    let mut rows = app.store.templates().await?;
    rows.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    Ok(Json(rows.into_iter().map(listed).collect()))
}

/// A template, or a snapshot of the team, by its id. There is the one build of it that is in use.
pub(crate) async fn get(
    State(app): State<Arc<App>>,
    caller: Caller,
    Segment(id): Segment,
    Params(query): Params<TemplateListQuery>,
) -> Result<Json<TemplateWithBuilds>, ApiError> {
    page_size(query.limit.as_deref())?;
    let is_first_page = after(query.next_token.as_deref())?.is_none();
    let known = app.store.find_template(&id).await?.filter(|known| known.id.as_str() == id);
    let known = match known {
        Some(known) => Some(known),
        None => {
            let snapshot = app.store.snapshot(&caller.team.id, &id).await?;
            snapshot.as_ref().map(TemplateRow::from)
        }
    };
    let Some(row) = known else {
        return Err(ApiError::not_found(format!("there is no template with the id {id:?}")));
    };
    let builds = is_first_page.then(|| build(&row)).into_iter().collect();
    Ok(Json(TemplateWithBuilds { template: listed(row), builds }))
}

fn check_team(caller: &TemplateCaller, query: &TemplateListQuery) -> Result<(), ApiError> {
    let team = caller.team.id.as_str();
    if query.team_id.as_ref().is_some_and(|asked| !asked.is_empty() && asked != team) {
        return Err(ApiError::bad_request(format!("teamID must be that of the key, {team}")));
    }
    Ok(())
}

pub(crate) async fn alias(
    State(app): State<Arc<App>>,
    caller: Caller,
    Segment(name): Segment,
) -> Result<Json<TemplateAlias>, ApiError> {
    let reference: TemplateRef =
        name.parse().map_err(|problem| ApiError::bad_request(format!("alias: {problem}")))?;
    let own = &caller.team.slug;
    if reference.namespace.as_ref().is_some_and(|namespace| namespace != own) {
        return Err(ApiError::bad_request(format!("alias: the namespace of the key is {own:?}")));
    }
    let Some(template) = app.resolve(&caller.team, &reference).await? else {
        return Err(ApiError::not_found(format!("there is no template {name:?}")));
    };
    Ok(Json(TemplateAlias { template_id: template.id.to_string(), public: template.public }))
}

/// The build that is in use. Others are not known here.
fn build(row: &TemplateRow) -> TemplateBuild {
    TemplateBuild {
        build_id: row.build.to_string(),
        status: READY.to_owned(),
        created_at: row.updated_at,
        updated_at: row.updated_at,
        finished_at: Some(row.updated_at),
        cpu_count: row.resources.vcpus,
        memory_mb: row.resources.memory_mib,
        disk_size_mb: row.resources.disk_mib,
        envd_version: row.envd_version.clone(),
    }
}

fn listed(row: TemplateRow) -> Template {
    Template {
        template_id: row.id.to_string(),
        build_id: row.build.to_string(),
        cpu_count: row.resources.vcpus,
        memory_mb: row.resources.memory_mib,
        disk_size_mb: row.resources.disk_mib,
        public: row.public,
        names: row.aliases.clone(),
        aliases: row.aliases,
        created_at: row.created_at,
        updated_at: row.updated_at,
        created_by: None,
        last_spawned_at: row.last_spawned_at,
        spawn_count: row.spawn_count,
        // A node tells of the one build of each template that it can start.
        build_count: 1,
        envd_version: row.envd_version,
        build_status: READY.to_owned(),
        is_default: row.public,
    }
}
