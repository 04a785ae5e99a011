//! Calls to the API of a running service, as its operator.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use lifecycle::{Budget, TaskGroup};
use model::Secret;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;

use crate::credentials::{ADMIN_TOKEN, API_KEY, API_URL, Credentials};

/// From the connection to the end of the head of an answer.
const HEAD_LIMIT: Duration = Duration::from_secs(30);
/// The same for an end, which the service answers when it is over, or gives up before this.
const END_LIMIT: Duration = Duration::from_secs(15 * 60);
/// A stream says at least every 15 seconds that it is alive.
const SILENCE_LIMIT: Duration = Duration::from_secs(45);
/// One answer, or one line of a stream.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// The API of one service.
#[derive(Debug)]
pub(crate) struct Api {
    authority: String,
    token: Secret,
    /// Of the team whose sandboxes are asked about; only users' calls need it.
    key: Option<Secret>,
    /// The team to act for, instead of that of the key.
    team: Option<String>,
    /// The connections of calls under way.
    connections: TaskGroup,
}

/// What a call came to if not to its answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("{method} {path}: {status}: {message}")]
    Refused { method: Method, path: String, status: StatusCode, message: String },
    #[error("ask the service at {authority}; is it running? ({what})")]
    Unreachable { authority: String, what: String },
    #[error("the service at {authority} answers what this version does not understand")]
    Foreign { authority: String, source: serde_json::Error },
}

impl CallError {
    /// What the service answered, if it did.
    pub(crate) fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            Self::Unreachable { .. } | Self::Foreign { .. } => None,
        }
    }
}

impl Api {
    /// The service that the environment names, or the one of `data_dir`.
    ///
    /// # Errors
    /// There is no address or no token; the message says where they were looked for.
    pub(crate) fn find(env: &[(OsString, OsString)], data_dir: &Path) -> anyhow::Result<Self> {
        let said = |name: &str| {
            let value = env.iter().find(|(key, _)| key == name).map(|(_, value)| value);
            value.and_then(|value| value.to_str()).map(str::to_owned)
        };
        let key = said(API_KEY).map(Secret::new);
        let (url, token, key) = match (said(API_URL), said(ADMIN_TOKEN)) {
            (Some(url), Some(token)) => (url, Secret::new(token), key),
            (url, token) => {
                let file = Credentials::read(data_dir)?.with_context(|| {
                    format!(
                        "no service was ever started on {}; set --data-dir, or {API_URL} and \
                         {ADMIN_TOKEN}",
                        data_dir.display()
                    )
                })?;
                let missing = || format!("{} has no {API_URL}", file.path.display());
                let url = url.or(file.url).with_context(missing)?;
                (url, token.map_or(file.admin_token, Secret::new), key.or(Some(file.api_key)))
            }
        };
        Ok(Self {
            authority: authority(&url)?,
            token,
            key,
            team: None,
            connections: TaskGroup::default(),
        })
    }

    /// The same API, acting for this team as its operator.
    pub(crate) fn as_team(&self, team: &str) -> Self {
        Self {
            authority: self.authority.clone(),
            token: Secret::new(self.token.expose().to_owned()),
            key: None,
            team: Some(team.to_owned()),
            connections: self.connections.clone(),
        }
    }

    /// Its host and port.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// The group of all connections made for one command.
    pub(crate) fn connections(&self) -> &TaskGroup {
        &self.connections
    }

    /// # Errors
    /// See [`CallError`].
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CallError> {
        let response = self.send(Method::GET, path, Bytes::new(), HEAD_LIMIT).await?;
        let body = self.whole(response).await?;
        self.understood(&body)
    }

    /// A request with a body that is answered when what it asks for is done: with a body, or with
    /// nothing, which is read as `null`.
    ///
    /// Cancel safety: what it asks for goes on.
    ///
    /// # Errors
    /// See [`CallError`].
    pub(crate) async fn change<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CallError> {
        let foreign = |source| CallError::Foreign { authority: self.authority.clone(), source };
        let body = serde_json::to_vec(body).map_err(foreign)?;
        let response = self.send(Method::POST, path, body.into(), END_LIMIT).await?;
        let body = self.whole(response).await?;
        self.understood(if body.is_empty() { b"null" } else { &body })
    }

    /// A POST that is answered without a body.
    ///
    /// # Errors
    /// See [`CallError`].
    pub(crate) async fn post(&self, path: &str, body: &impl Serialize) -> Result<(), CallError> {
        let foreign = |source| CallError::Foreign { authority: self.authority.clone(), source };
        let body = serde_json::to_vec(body).map_err(foreign)?;
        self.send(Method::POST, path, body.into(), HEAD_LIMIT).await.map(drop)
    }

    /// A request with a body that is answered with one.
    ///
    /// # Errors
    /// See [`CallError`].
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CallError> {
        let foreign = |source| CallError::Foreign { authority: self.authority.clone(), source };
        let body = serde_json::to_vec(body).map_err(foreign)?;
        let response = self.send(method, path, body.into(), HEAD_LIMIT).await?;
        let body = self.whole(response).await?;
        self.understood(&body)
    }

    /// A DELETE that is answered without a body, when what it ends has ended.
    ///
    /// Cancel safety: the end goes on.
    ///
    /// # Errors
    /// See [`CallError`].
    pub(crate) async fn delete(&self, path: &str) -> Result<(), CallError> {
        self.send(Method::DELETE, path, Bytes::new(), END_LIMIT).await.map(drop)
    }

    /// A GET that is answered by a stream of lines, each a `T`.
    ///
    /// # Errors
    /// See [`CallError`].
    pub(crate) async fn lines(&self, path: &str) -> Result<Lines<'_>, CallError> {
        let response = self.send(Method::GET, path, Bytes::new(), HEAD_LIMIT).await?;
        Ok(Lines { api: self, body: response.into_body(), read: BytesMut::new() })
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        limit: Duration,
    ) -> Result<Response<Incoming>, CallError> {
        let budget = Budget::within(limit);
        let answered = budget.run("answer", self.exchange(&method, path, body)).await;
        let response = match answered {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(self.unreachable(&error)),
            Err(expired) => return Err(self.unreachable(&expired)),
        };
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = self.whole(response).await?;
        let message = serde_json::from_slice::<serde_json::Value>(&body).ok();
        let message = message.as_ref().and_then(|body| body.get("message")?.as_str());
        let message = message.unwrap_or("the answer does not say why").to_owned();
        Err(CallError::Refused { method, path: path.to_owned(), status, message })
    }

    async fn exchange(
        &self,
        method: &Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, Box<dyn std::error::Error + Send + Sync>> {
        let socket = TcpStream::connect(&self.authority).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
        self.connections.spawn(tracing::debug_span!("call"), async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = %observe::chain(&error), "a connection broke");
            }
        });
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, &self.authority)
            .header(http::header::CONTENT_TYPE, "application/json")
            .header("x-admin-token", self.token.expose());
        if let Some(team) = &self.team {
            request = request.header("x-team-id", team);
        }
        if let Some(key) = &self.key {
            request = request.header("x-api-key", key.expose());
        }
        Ok(sender.send_request(request.body(Full::new(body))?).await?)
    }

    async fn whole(&self, response: Response<Incoming>) -> Result<Bytes, CallError> {
        let body = Limited::new(response.into_body(), MAX_BYTES).collect();
        match Budget::within(HEAD_LIMIT).run("body", body).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) => Err(self.unreachable(&*error)),
            Err(expired) => Err(self.unreachable(&expired)),
        }
    }

    fn understood<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, CallError> {
        let foreign = |source| CallError::Foreign { authority: self.authority.clone(), source };
        serde_json::from_slice(body).map_err(foreign)
    }

    fn unreachable(&self, error: &dyn std::fmt::Display) -> CallError {
        CallError::Unreachable { authority: self.authority.clone(), what: error.to_string() }
    }
}

/// The lines of an answer, as they come.
#[derive(Debug)]
pub(crate) struct Lines<'a> {
    api: &'a Api,
    body: Incoming,
    read: BytesMut,
}

impl Lines<'_> {
    /// The next line that is not empty; `None` when the service has ended the stream.
    ///
    /// Cancel safety: yes.
    ///
    /// # Errors
    /// The stream broke, went silent, or has a line that is not a `T`.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, CallError> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line = self.read.split_to(end + 1);
                if !line.trim_ascii().is_empty() {
                    return self.api.understood(&line).map(Some);
                }
                continue;
            }
            if self.read.len() > MAX_BYTES {
                return Err(self.api.unreachable(&"a line has no end"));
            }
            let frame = Budget::within(SILENCE_LIMIT).run("stream", self.body.frame()).await;
            match frame {
                Ok(Some(Ok(frame))) => {
                    if let Some(data) = frame.data_ref() {
                        self.read.extend_from_slice(data);
                    }
                }
                Ok(Some(Err(error))) => return Err(self.api.unreachable(&error)),
                Ok(None) => return Ok(None),
                Err(silent) => return Err(self.api.unreachable(&silent)),
            }
        }
    }
}

/// Host and port of a plain HTTP address.
fn authority(url: &str) -> anyhow::Result<String> {
    let uri: Uri = url.parse().with_context(|| format!("{API_URL}: {url:?} is not an address"))?;
    let authority = uri.authority().filter(|_| uri.scheme_str() == Some("http"));
    let authority = authority.filter(|authority| !authority.as_str().contains('@'));
    let authority = authority.filter(|_| matches!(uri.path(), "" | "/"));
    let authority = authority.with_context(|| {
        format!("{API_URL}: {url:?} cannot be used here; give http://HOST:PORT and no path")
    })?;
    let port = authority.port_u16().unwrap_or(80);
    Ok(format!("{}:{port}", authority.host()))
}

#[cfg(test)]
mod tests {
    use super::authority;

    #[test]
    fn an_address_is_plain_http_to_a_host_and_a_port() {
        assert_eq!(authority("http://127.0.0.1:3000").unwrap(), "127.0.0.1:3000");
        assert_eq!(authority("http://[::1]:3000/").unwrap(), "[::1]:3000");
        assert_eq!(authority("http://node.example").unwrap(), "node.example:80");
        for url in ["https://a", "a:1", "http://a/b", "http://u:p@a", "", "http://"] {
            authority(url).unwrap_err();
        }
    }
}
