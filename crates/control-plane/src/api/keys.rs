//! API keys and access tokens of a team.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use e2b_wire::{
    AccessToken, ApiKey, CreatedAccessToken, CreatedApiKey, Named, TeamApiKey, TeamWithKey,
};
use http::StatusCode;
use model::TeamId;
use uuid::Uuid;

use crate::app::{App, now};
use crate::auth::KeyKeeper;
use crate::http::{ApiError, JsonBody, Segment};
use crate::store::{Deleted, Kind, NewSecret, SecretRow};
use crate::teams::check_name;

/// What a key that `GET /teams` makes is called.
const FOR_A_LOGIN: &str = "login";

/// The team of whoever asks, with a new key. An access token stands for one team here.
pub(crate) async fn teams(
    State(app): State<Arc<App>>,
    KeyKeeper { team }: KeyKeeper,
) -> Result<Json<Vec<TeamWithKey>>, ApiError> {
    let made = app.make_key(&team.id, FOR_A_LOGIN).await?;
    let (team_id, name) = (team.id.to_string(), team.name.clone());
    Ok(Json(vec![TeamWithKey { team_id, name, api_key: made.key, is_default: true }]))
}

pub(crate) async fn list(
    State(app): State<Arc<App>>,
    KeyKeeper { team }: KeyKeeper,
) -> Result<Json<Vec<TeamApiKey>>, ApiError> {
    app.keys_of(&team.id).await.map(Json)
}

pub(crate) async fn create(
    State(app): State<Arc<App>>,
    KeyKeeper { team }: KeyKeeper,
    body: JsonBody<Named>,
) -> Result<(StatusCode, Json<CreatedApiKey>), ApiError> {
    Ok((StatusCode::CREATED, Json(app.make_key(&team.id, &body.value.name).await?)))
}

pub(crate) async fn rename(
    State(app): State<Arc<App>>,
    KeyKeeper { team }: KeyKeeper,
    Segment(id): Segment,
    body: JsonBody<Named>,
) -> Result<Response, ApiError> {
    let (id, name) = (parse_id(&id)?, check_name(&body.value.name)?);
    if app.store.rename_secret(&team.id, Kind::Key, id, name).await? {
        return Ok(StatusCode::ACCEPTED.into_response());
    }
    Ok(no_secret(Kind::Key))
}

pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    KeyKeeper { team }: KeyKeeper,
    Segment(id): Segment,
) -> Result<Response, ApiError> {
    delete_of_kind(&app, &team.id, Kind::Key, &id).await
}

pub(crate) async fn create_token(
    State(app): State<Arc<App>>,
    KeyKeeper { team }: KeyKeeper,
    body: JsonBody<Named>,
) -> Result<(StatusCode, Json<CreatedAccessToken>), ApiError> {
    let token = AccessToken::generate();
    let hash = token.hash();
    let secret = NewSecret {
        kind: Kind::AccessToken,
        id: Uuid::new_v4(),
        hash: &hash,
        mask: token.mask(),
        name: check_name(&body.value.name)?,
        configured: false,
    };
    let row = app.keep(&team.id, secret).await?;
    let (id, token) = (row.id.to_string(), token.expose());
    let SecretRow { name, mask, created_at, .. } = row;
    Ok((StatusCode::CREATED, Json(CreatedAccessToken { id, name, token, mask, created_at })))
}

pub(crate) async fn delete_token(
    State(app): State<Arc<App>>,
    KeyKeeper { team }: KeyKeeper,
    Segment(id): Segment,
) -> Result<Response, ApiError> {
    delete_of_kind(&app, &team.id, Kind::AccessToken, &id).await
}

async fn delete_of_kind(
    app: &App,
    team: &TeamId,
    kind: Kind,
    id: &str,
) -> Result<Response, ApiError> {
    match app.delete_secret(team, kind, parse_id(id)?).await? {
        true => Ok(StatusCode::NO_CONTENT.into_response()),
        false => Ok(no_secret(kind)),
    }
}

pub(crate) fn parse_id(text: &str) -> Result<Uuid, ApiError> {
    let problem = || ApiError::validation(format!("{text:?} is no id of a key, which is a UUID"));
    Uuid::try_parse(text).map_err(|_not_a_uuid| problem())
}

/// As plain text, which is how E2B answers here.
fn no_secret(kind: Kind) -> Response {
    let message = match kind {
        Kind::Key => "the team has no API key of this id",
        Kind::AccessToken => "the team has no access token of this id",
    };
    (StatusCode::NOT_FOUND, message).into_response()
}

impl App {
    pub(crate) async fn keys_of(&self, team: &TeamId) -> Result<Vec<TeamApiKey>, ApiError> {
        Ok(self.store.secrets(team, Kind::Key).await?.into_iter().map(shown).collect())
    }

    pub(crate) async fn make_key(
        &self,
        team: &TeamId,
        name: &str,
    ) -> Result<CreatedApiKey, ApiError> {
        let key = ApiKey::generate();
        let hash = key.hash();
        let secret = NewSecret {
            kind: Kind::Key,
            id: Uuid::new_v4(),
            hash: &hash,
            mask: key.mask(),
            name: check_name(name)?,
            configured: false,
        };
        let row = self.keep(team, secret).await?;
        Ok(CreatedApiKey { key: key.expose(), row: shown(row) })
    }

    /// Writes down a secret that was just made.
    async fn keep(&self, team: &TeamId, secret: NewSecret<'_>) -> Result<SecretRow, ApiError> {
        let (limit, created_at) = (self.config.limits.team_keys, now());
        if !self.store.insert_secret(team, &secret, limit, created_at).await? {
            let message = format!("the team has {limit} of these, as many as it may; delete some");
            return Err(ApiError::new(StatusCode::CONFLICT, message));
        }
        let NewSecret { id, mask, name, .. } = secret;
        Ok(SecretRow { id, name: name.to_owned(), mask, created_at, last_used: None })
    }

    /// Whether there was one. It opens nothing from the answer on.
    pub(crate) async fn delete_secret(
        &self,
        team: &TeamId,
        kind: Kind,
        id: Uuid,
    ) -> Result<bool, ApiError> {
        match self.store.delete_secret(team, kind, id).await? {
            Deleted::Yes => {
                self.keys.forget(team);
                Ok(true)
            }
            Deleted::Unknown => Ok(false),
            Deleted::Configured => Err(ApiError::new(
                StatusCode::CONFLICT,
                "this key is the one in credentials.env, and the next start would make it again; \
                 put another into that file",
            )),
        }
    }
}

fn shown(row: SecretRow) -> TeamApiKey {
    let SecretRow { id, name, mask, created_at, last_used } = row;
    TeamApiKey { id: id.to_string(), name, mask, created_at, last_used }
}
