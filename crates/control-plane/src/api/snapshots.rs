//! Snapshots: `POST /sandboxes/{id}/snapshots`, `GET /snapshots`, `DELETE /templates/{id}`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use e2b_wire::{
    NewSnapshot, Order, PageToken, SnapshotInfo, SnapshotListQuery, TemplateRef, Timestamp,
    parse_sandbox_path,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use model::SandboxId;
use tracing::info_span;

use crate::Team;
use crate::api::pause::MaybeJson;
use crate::app::App;
use crate::auth::{Caller, TemplateCaller};
use crate::http::{ApiError, Params, SandboxPath, Segment};
use crate::snapshots::{DEFAULT_TAG, Name};
use crate::store::SnapshotFilter;

const NEXT_TOKEN: HeaderName = HeaderName::from_static("x-next-token");
const PAGE_MAX: usize = 100;

pub(crate) async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
    MaybeJson(body): MaybeJson<NewSnapshot>,
) -> Result<(StatusCode, Json<SnapshotInfo>), ApiError> {
    let name = body.name.map(|name| Name::parse(&name, &caller.team)).transpose()?;
    let span = info_span!("snapshot", sandbox.id = %id);
    let work = Arc::clone(&app).snapshot(caller.team, id, name);
    Ok((StatusCode::CREATED, Json(app.owned(span, work).await?)))
}

pub(crate) async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    Params(query): Params<SnapshotListQuery>,
) -> Result<Response, ApiError> {
    let limit = page_size(query.limit.as_deref())?;
    let Some(filter) = filter(&query, &caller.team)? else {
        return Ok(Json(Vec::<SnapshotInfo>::new()).into_response());
    };
    let mut rows = app.store.snapshots(&caller.team.id, &filter, limit + 1).await?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let last = rows.last().filter(|_| more);
    let headers = next_page(last.map(|last| (last.created_at, last.template.to_string())))?;
    let infos: Vec<SnapshotInfo> = rows.iter().map(|row| row.info(&caller.team)).collect();
    Ok((headers, Json(infos)).into_response())
}

/// Of templates only snapshots can be deleted; the others belong to their nodes.
pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    caller: TemplateCaller,
    Segment(name): Segment,
) -> Result<StatusCode, ApiError> {
    let no_template = || ApiError::not_found(format!("there is no template {name:?}"));
    let reference: TemplateRef = name.parse().map_err(|_no_name| no_template())?;
    let span = info_span!("delete_snapshot");
    let work = Arc::clone(&app).delete_snapshots(Arc::clone(&caller.team), reference.clone());
    if app.owned(span, work).await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    match app.resolve(&caller.team, &reference).await? {
        Some(_template) => {
            let instead = "use `cofferdam images rm` on the machine";
            Err(ApiError::unsupported("deleting a template that is no snapshot", instead))
        }
        None => Err(no_template()),
    }
}

/// Says where the next page of a list begins, the newest first, if there is one.
pub(super) fn next_page(last: Option<(Timestamp, String)>) -> Result<HeaderMap, ApiError> {
    let mut headers = HeaderMap::new();
    if let Some((time, id)) = last {
        let token = PageToken { time, id, order: Order::Descending }.to_string();
        let token = HeaderValue::try_from(token).map_err(|_never| ApiError::internal())?;
        headers.insert(NEXT_TOKEN, token);
    }
    Ok(headers)
}

/// The last of the page before the one that is asked for.
pub(super) fn after(token: Option<&str>) -> Result<Option<(Timestamp, String)>, ApiError> {
    let Some(token) = token else { return Ok(None) };
    let PageToken { time, id, order } = token.parse().map_err(ApiError::validation)?;
    if order != Order::Descending {
        return Err(ApiError::validation("nextToken belongs to a list in the other order"));
    }
    Ok(Some((time, id)))
}

pub(super) fn page_size(text: Option<&str>) -> Result<usize, ApiError> {
    let Some(text) = text else { return Ok(PAGE_MAX) };
    let size = text.parse().ok().filter(|size| (1..=PAGE_MAX).contains(size));
    size.ok_or_else(|| {
        ApiError::validation(format!("limit is {text:?} and must be a number from 1 to 100"))
    })
}

/// `None` when nothing can match: what belongs to somebody else is as unknown as what never was.
fn filter(query: &SnapshotListQuery, team: &Team) -> Result<Option<SnapshotFilter>, ApiError> {
    let mut filter = SnapshotFilter::default();
    if let Some(text) = &query.sandbox_id {
        let id = parse_sandbox_path(text).map_err(ApiError::validation)?;
        filter.sandbox = Some(SandboxId::parse(id).map_err(ApiError::validation)?);
    }
    if let Some(text) = &query.name {
        let problem = |problem| ApiError::bad_request(format!("name: {problem}"));
        let TemplateRef { namespace, name, tag } = text.parse().map_err(problem)?;
        if namespace.is_some_and(|namespace| namespace != team.slug) {
            return Ok(None);
        }
        // A bare name is any tag; the default one has to be said.
        let said = text.contains(':').then(|| DEFAULT_TAG.to_owned());
        (filter.name, filter.tag) = (Some(name), tag.or(said));
    }
    filter.after = after(query.next_token.as_deref())?;
    Ok(Some(filter))
}
