use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use e2b_wire::{Template, TemplateAlias, TemplateRef};
use serde::Deserialize;

use crate::app::App;
use crate::auth::{Caller, TemplateCaller};
use crate::http::{ApiError, Params, Segment};
use crate::store::TemplateRow;

#[derive(Debug, Deserialize)]
pub(crate) struct ListQuery {
    #[serde(rename = "teamID")]
    team_id: Option<String>,
}

pub(crate) async fn list(
    State(app): State<Arc<App>>,
    caller: TemplateCaller,
    Params(query): Params<ListQuery>,
) -> Result<Json<Vec<Template>>, ApiError> {
    let team = caller.team.id.as_str();
    if query.team_id.is_some_and(|asked| !asked.is_empty() && asked != team) {
        return Err(ApiError::bad_request(format!("teamID must be that of the key, {team}")));
    }
    Ok(Json(app.store.templates().await?.into_iter().map(listed).collect()))
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
        build_status: "ready".to_owned(),
    }
}
