//! Who is calling: a team by its API key, or an operator by the admin token.

mod key_cache;

pub(crate) use key_cache::KeyCache;

use std::sync::Arc;

use axum::extract::FromRequestParts;
use e2b_wire::ApiKey;
use http::HeaderMap;
use http::request::Parts;
use model::TeamId;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

use crate::Team;
use crate::app::App;
use crate::http::ApiError;

const API_KEY: &str = "x-api-key";
const ADMIN_TOKEN: &str = "x-admin-token";
const TEAM_ID: &str = "x-team-id";

/// A caller that acts for a team: with its key, or as an operator who names it.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) team: Arc<Team>,
}

/// An operator.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Admin;

impl FromRequestParts<Arc<App>> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let headers = &parts.headers;
        let by_key = match text(headers, API_KEY) {
            Some(key) => Some(by_key(app, key).await),
            None => None,
        };
        if let Some(Ok(team)) = by_key {
            return Ok(Self { team });
        }
        if let (Some(token), Some(team)) = (text(headers, ADMIN_TOKEN), text(headers, TEAM_ID)) {
            let as_team = by_admin(app, token, team).await;
            return match by_key {
                // Of several failures the first is told.
                Some(Err(first)) if as_team.is_err() => Err(first),
                Some(_) | None => as_team.map(|team| Self { team }),
            };
        }
        match by_key {
            Some(result) => result.map(|team| Self { team }),
            None if headers.contains_key(http::header::AUTHORIZATION) => {
                Err(ApiError::unauthorized(
                    "bearer tokens are not accepted here; send the API key in X-API-Key",
                ))
            }
            None => Err(ApiError::unauthorized("send an API key in the header X-API-Key")),
        }
    }
}

impl FromRequestParts<Arc<App>> for Admin {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        match text(&parts.headers, ADMIN_TOKEN) {
            Some(token) if is_admin(app, token) => Ok(Self),
            Some(_) => Err(ApiError::unauthorized("the admin token is wrong")),
            None => Err(ApiError::unauthorized("send the admin token in the header X-Admin-Token")),
        }
    }
}

async fn by_key(app: &App, text: &str) -> Result<Arc<Team>, ApiError> {
    let key = ApiKey::parse(text).map_err(|problem| ApiError::unauthorized(problem.to_string()))?;
    let hash = key.hash();
    if let Some(team) = app.keys.get(&hash) {
        return Ok(team);
    }
    match app.store.team_of_key(&hash).await? {
        Some(team) => Ok(app.keys.put(hash, team)),
        None => Err(ApiError::unauthorized("the API key is not known")),
    }
}

async fn by_admin(app: &App, token: &str, team: &str) -> Result<Arc<Team>, ApiError> {
    if !is_admin(app, token) {
        return Err(ApiError::unauthorized("the admin token is wrong"));
    }
    let uuid = Uuid::try_parse(team)
        .map_err(|_not_a_uuid| ApiError::bad_request("X-Team-ID must be a UUID"))?;
    let id = TeamId::parse(&uuid.hyphenated().to_string()).map_err(ApiError::validation)?;
    match app.store.team(&id).await? {
        Some(team) => Ok(Arc::new(team)),
        None => Err(ApiError::not_found(format!("there is no team {id}"))),
    }
}

/// Compares hashes, so that neither content nor length shows in the time.
fn is_admin(app: &App, token: &str) -> bool {
    let expected = app.config.admin_token.expose();
    let equal = Sha256::digest(token.as_bytes()).ct_eq(&Sha256::digest(expected.as_bytes()));
    !expected.is_empty() && bool::from(equal)
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let value = headers.get(name)?;
    // A value that is not text is there and wrong, not missing.
    Some(value.to_str().unwrap_or_default())
}
