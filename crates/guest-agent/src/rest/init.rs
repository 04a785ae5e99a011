//! `POST /init`: the node tells the agent whom it is for.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use guest_wire::ENVD_VERSION;
use guest_wire::rest::{InitRequest, VERSION_HEADER};
use http::StatusCode;
use http::header::HeaderValue;
use jiff::Timestamp;
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::{NO_STORE, RestError};
use crate::agent::Agent;
use crate::settings::Change;
use crate::upgrade::HANDOVER_HEADER;
use crate::{control, tasks};

/// Lets one `/init` at a time past: the token that one checks must be the one it replaces.
pub(crate) struct InitTurn(Semaphore);

impl Default for InitTurn {
    fn default() -> Self {
        Self(Semaphore::new(1))
    }
}

/// Answers 204 when the agent is, or already was, as the request says. The version is announced
/// on every outcome.
pub(crate) async fn init(State(agent): State<Arc<Agent>>, body: Bytes) -> Response {
    let report = agent.upgrades.report().cloned();
    let (done, audit) = answer(agent, body).await;
    let mut response = match done {
        Ok(()) => ([NO_STORE], StatusCode::NO_CONTENT).into_response(),
        Err(refused) => refused.into_response(),
    };
    if let Some(audit) = audit {
        response.headers_mut().insert(control::AUDIT_HEADER, audit);
    }
    response.headers_mut().insert(VERSION_HEADER, HeaderValue::from_static(ENVD_VERSION));
    if let Some(report) = report {
        response.headers_mut().insert(HANDOVER_HEADER, report);
    }
    response
}

/// Why an `/init` changed nothing.
enum Refused {
    NotTheProtocol,
    Token(&'static str),
    Invalid(String),
    Panicked,
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        match self {
            Self::NotTheProtocol => StatusCode::BAD_REQUEST.into_response(),
            Self::Token(text) => (StatusCode::UNAUTHORIZED, text).into_response(),
            Self::Invalid(text) => RestError::new(StatusCode::BAD_REQUEST, text).into_response(),
            Self::Panicked => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    }
}

/// What came of it, and how well a freeze has held that it ended.
async fn answer(agent: Arc<Agent>, body: Bytes) -> (Result<(), Refused>, Option<HeaderValue>) {
    let Some((request, at)) = read(&body) else {
        return (Err(Refused::NotTheProtocol), None);
    };
    // Owned by the agent: a node that gave up on this attempt asks again, and finds it done.
    let worker = agent.upgrades.requests.worker();
    let work = async move {
        let _worker = worker;
        let _turn = agent.init_turn.0.acquire().await;
        if let Err(refused) = authorise(&agent, &request) {
            return (Err(refused), None);
        }
        let audit = control::audit(&agent).await;
        // The timestamp orders requests only. A container's clock is its host's: setting it is
        // never right, and where the agent is allowed to (a test as root), it would be a disaster.
        let done = match agent.settings.is_stale(at) {
            true => Ok(()),
            false => apply(&agent, request, at).await,
        };
        if done.is_ok() {
            agent.settings.mark_initialised();
        }
        // Whatever came of it: who may say what the sandbox is for wants it to run.
        control::thaw(&agent).await;
        (done, audit)
    };
    tasks::detached(work).await.unwrap_or((Err(Refused::Panicked), None))
}

/// `None` for a body that is not what the protocol says. An empty one is an empty object.
fn read(body: &[u8]) -> Option<(InitRequest, Option<Timestamp>)> {
    /// A borrowed string cannot hold an escape, so parsing fails if the token has one. A token
    /// that needs none has one spelling only, in every parser on its way here.
    #[derive(Deserialize)]
    struct PlainToken<'a> {
        #[serde(borrow, rename = "accessToken", default)]
        token: Option<&'a str>,
    }
    // A list would be read as a struct as well, its fields by position.
    let body = match body.trim_ascii() {
        [] => b"{}",
        object @ [b'{', ..] => object,
        _ => return None,
    };
    let request: InitRequest = serde_json::from_slice(body).ok()?;
    let plain: PlainToken<'_> = serde_json::from_slice(body).ok()?;
    if plain.token == Some("") {
        return None;
    }
    let at = request.timestamp.as_deref().map(str::parse::<Timestamp>);
    let at = at.transpose().ok()?;
    Some((request, at))
}

/// Whoever knows the token may set it again, and while there is none anybody may set the first.
fn authorise(agent: &Agent, request: &InitRequest) -> Result<(), Refused> {
    if !agent.settings.has_token() {
        return Ok(());
    }
    match &request.access_token {
        Some(token) if agent.settings.is_token(token.as_bytes()) => Ok(()),
        Some(_other) => Err(Refused::Token("access token validation failed")),
        None => Err(Refused::Token("access token reset not authorized")),
    }
}

async fn apply(
    agent: &Arc<Agent>,
    request: InitRequest,
    at: Option<Timestamp>,
) -> Result<(), Refused> {
    if !request.volume_mounts.is_empty() {
        return Err(Refused::Invalid(
            "volumeMounts are not supported by this agent: the node mounts volumes before the \
             sandbox starts; leave the field out"
                .to_owned(),
        ));
    }
    let broken = request.env_vars.iter().flatten().find(|(name, value)| {
        name.is_empty() || name.contains(['=', '\0']) || value.contains('\0')
    });
    if let Some((name, _value)) = broken {
        return Err(Refused::Invalid(format!(
            "envVars: '{}' cannot be a variable: a name is not empty and has no '=', and neither \
             name nor value has a zero byte",
            name.escape_default()
        )));
    }
    if let Some(pem) = request.ca_bundle {
        let agent = Arc::clone(agent);
        let added = tasks::blocking(move || agent.authorities.add(&pem)).await;
        if let Some(Err(error)) = added {
            return Err(Refused::Invalid(with_cause(&error)));
        }
    }
    agent.settings.apply(Change {
        at,
        token: request.access_token,
        user: request.default_user,
        workdir: request.default_workdir,
        variables: request.env_vars,
    });
    Ok(())
}

fn with_cause(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_body_is_an_empty_object() {
        for body in [&b""[..], b" \n", b"{}"] {
            assert_eq!(read(body).unwrap().0, InitRequest::default());
        }
    }

    #[test]
    fn a_token_must_be_there_in_full_and_without_escapes() {
        assert!(read(br#"{"accessToken":"tok-1"}"#).is_some());
        assert!(read(br#"{"accessToken":null}"#).is_some());
        assert!(read(br#"{"accessToken":""}"#).is_none());
        assert!(read(br#"{"accessToken":"t\u006fk"}"#).is_none());
        assert!(read(br#"{"envVars":{"A":"\n"},"accessToken":"tok"}"#).is_some());
    }

    #[test]
    fn a_time_has_nanoseconds() {
        let (_request, at) = read(br#"{"timestamp":"2026-01-02T03:04:05.123456789Z"}"#).unwrap();
        assert_eq!(at.unwrap().subsec_nanosecond(), 123_456_789);
        assert!(read(br#"{"timestamp":"yesterday"}"#).is_none());
        assert!(read(b"[]").is_none());
    }
}
