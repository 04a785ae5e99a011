//! Who is calling: a team by its API key or an access token, or an operator by the admin token.
//!
//! An endpoint accepts some of these, in an order. The first that holds counts; when none does, the
//! first failure that is more than an absent header is told.

mod key_cache;
mod standing;

pub(crate) use key_cache::KeyCache;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, MatchedPath};
use e2b_wire::{AccessToken, ApiKey, KeyHash};
use http::HeaderMap;
use http::request::Parts;
use model::TeamId;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

use crate::Team;
use crate::app::{App, now};
use crate::http::{ApiError, RateSlot};
use crate::store::{Holder, Kind};

const API_KEY: &str = "x-api-key";
const ADMIN_TOKEN: &str = "x-admin-token";
const TEAM_ID: &str = "x-team-id";
const BEARER: &str = "Bearer ";
/// How exact the time of the last use of a key is: a busy one costs a write this often.
const USED_GRID: Duration = Duration::from_secs(60);

/// A caller that acts for a team: with its key, or as an operator who names it.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) team: Arc<Team>,
}

/// As [`Caller`], or with an access token: whoever looks after templates.
#[derive(Debug, Clone)]
pub(crate) struct TemplateCaller {
    pub(crate) team: Arc<Team>,
}

/// Who looks after the keys of a team: with an access token, or as an operator who names it. A key
/// does not, so that one that leaks cannot make others.
#[derive(Debug, Clone)]
pub(crate) struct KeyKeeper {
    pub(crate) team: Arc<Team>,
}

/// An operator.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Admin;

/// A way to say who is calling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Key,
    AccessToken,
    /// The admin token, and the team it acts for.
    OperatorForTeam,
}

impl FromRequestParts<Arc<App>> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let team = admit(parts, app, &[Scheme::Key, Scheme::OperatorForTeam]).await?;
        Ok(Self { team })
    }
}

impl FromRequestParts<Arc<App>> for TemplateCaller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let accepted = [Scheme::Key, Scheme::AccessToken, Scheme::OperatorForTeam];
        Ok(Self { team: admit(parts, app, &accepted).await? })
    }
}

impl FromRequestParts<Arc<App>> for KeyKeeper {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let team = admit(parts, app, &[Scheme::AccessToken, Scheme::OperatorForTeam]).await?;
        Ok(Self { team })
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

/// The team that calls, if it is served and not too fast.
async fn admit(parts: &Parts, app: &Arc<App>, accepted: &[Scheme]) -> Result<Arc<Team>, ApiError> {
    let team = identify(&parts.headers, app, accepted).await?;
    standing::check(&team, &parts.method, parts.uri.path())?;
    if let Some(route) = parts.extensions.get::<MatchedPath>()
        && let Some(pace) = app.rates.take(&team.id, &parts.method, route.as_str())
    {
        if let Some(slot) = parts.extensions.get::<RateSlot>() {
            slot.put(pace);
        }
        pace.check()?;
    }
    Ok(team)
}

async fn identify(
    headers: &HeaderMap,
    app: &Arc<App>,
    accepted: &[Scheme],
) -> Result<Arc<Team>, ApiError> {
    let mut first_failure = None;
    for scheme in accepted {
        let outcome = match scheme {
            Scheme::Key => match text(headers, API_KEY) {
                Some(key) => by_key(app, key).await,
                None => continue,
            },
            Scheme::AccessToken => match bearer(headers) {
                Some(token) => by_access_token(app, token).await,
                None => continue,
            },
            Scheme::OperatorForTeam => match text(headers, ADMIN_TOKEN).zip(text(headers, TEAM_ID))
            {
                Some((token, team)) => by_admin(app, token, team).await,
                None => continue,
            },
        };
        match outcome {
            Ok(team) => return Ok(team),
            Err(error) => first_failure = first_failure.or(Some(error)),
        }
    }
    Err(first_failure.unwrap_or_else(|| nothing_sent(headers, accepted)))
}

/// What to send instead.
fn nothing_sent(headers: &HeaderMap, accepted: &[Scheme]) -> ApiError {
    if !accepted.contains(&Scheme::Key) {
        return ApiError::unauthorized(
            "send an access token as a bearer (Authorization: Bearer sk_e2b_...), or the admin \
             token in X-Admin-Token with the team in X-Team-ID; an API key does not manage keys",
        );
    }
    if headers.contains_key(http::header::AUTHORIZATION) {
        let message = "bearer tokens are not accepted here; send the API key in X-API-Key";
        return ApiError::unauthorized(message);
    }
    ApiError::unauthorized("send an API key in the header X-API-Key")
}

async fn by_key(app: &Arc<App>, text: &str) -> Result<Arc<Team>, ApiError> {
    let key = ApiKey::parse(text).map_err(|problem| ApiError::unauthorized(problem.to_string()))?;
    match holder(app, Kind::Key, key.hash()).await? {
        Some(team) => Ok(team),
        None => Err(ApiError::unauthorized("the API key is not known")),
    }
}

async fn by_access_token(app: &Arc<App>, text: &str) -> Result<Arc<Team>, ApiError> {
    if !AccessToken::is_meant_by(text) {
        let message = "there is no identity provider here; the bearer must be an access token \
                       (sk_e2b_...)";
        return Err(ApiError::unauthorized(message));
    }
    let token =
        AccessToken::parse(text).map_err(|problem| ApiError::unauthorized(problem.to_string()))?;
    match holder(app, Kind::AccessToken, token.hash()).await? {
        Some(team) => Ok(team),
        None => Err(ApiError::unauthorized("the access token is not known")),
    }
}

async fn holder(app: &Arc<App>, kind: Kind, hash: KeyHash) -> Result<Option<Arc<Team>>, ApiError> {
    if let Some(team) = app.keys.get(kind, &hash) {
        return Ok(Some(team));
    }
    let since = app.keys.generation();
    let Some(Holder { team, secret, last_used }) = app.store.holder(kind, &hash).await? else {
        return Ok(None);
    };
    if last_used.is_none_or(|at| at.after(USED_GRID) < now()) {
        note_use(app, secret);
    }
    Ok(Some(app.keys.put(kind, hash, team, since)))
}

/// Nobody waits for it.
fn note_use(app: &Arc<App>, secret: Uuid) {
    let Ok(pass) = app.gate.enter() else { return };
    let noter = Arc::clone(app);
    app.tasks.spawn(tracing::Span::current(), async move {
        if let Err(error) = noter.store.secret_used(secret, now()).await {
            let error = observe::chain(&error).to_string();
            tracing::debug!(error, "the last use of a key is older than it says");
        }
        drop(pass);
    });
}

async fn by_admin(app: &App, token: &str, team: &str) -> Result<Arc<Team>, ApiError> {
    if !is_admin(app, token) {
        return Err(ApiError::unauthorized("the admin token is wrong"));
    }
    let id =
        parse_team(team).map_err(|_no_id| ApiError::bad_request("X-Team-ID must be a UUID"))?;
    match app.store.team(&id).await? {
        Some(team) => Ok(Arc::new(team)),
        None => Err(ApiError::not_found(format!("there is no team {id}"))),
    }
}

/// The id of a team, however its UUID is spelled.
///
/// # Errors
/// 400 when it is none.
pub(crate) fn parse_team(text: &str) -> Result<TeamId, ApiError> {
    let problem = || ApiError::validation(format!("{text:?} is no id of a team, which is a UUID"));
    let uuid = Uuid::try_parse(text).map_err(|_not_a_uuid| problem())?;
    TeamId::parse(&uuid.hyphenated().to_string()).map_err(|_never| problem())
}

/// Compares hashes, so that neither content nor length shows in the time.
fn is_admin(app: &App, token: &str) -> bool {
    let expected = app.config.admin_token.expose();
    let equal = Sha256::digest(token.as_bytes()).ct_eq(&Sha256::digest(expected.as_bytes()));
    !expected.is_empty() && bool::from(equal)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = text(headers, http::header::AUTHORIZATION.as_str())?;
    Some(value.strip_prefix(BEARER).unwrap_or(value))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let value = headers.get(name)?;
    // A value that is not text is there and wrong, not missing.
    Some(value.to_str().unwrap_or_default())
}
