//! Requests that outlive daemons: what a client that repeats its requests sees.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use lifecycle::Budget;

use super::daemon::Daemon;
use super::model::{Sandbox, Violation};
use crate::client::connect;

/// Longer than any request here may take.
const ANSWER: Duration = Duration::from_secs(60);
/// How long a request that is refused for now is repeated.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const AGAIN: Duration = Duration::from_millis(20);
/// A kept connection that was idle for longer may be closed by the service at this very moment.
const FRESH: Duration = Duration::from_secs(1);

/// A request that can be sent any number of times.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub method: &'static str,
    pub path: String,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The daemon went away meanwhile: it may have been done or not.
    Cut,
    Broken(Violation),
}

impl From<Violation> for Trouble {
    fn from(violation: Violation) -> Self {
        Self::Broken(violation)
    }
}

/// One connection at a time.
#[derive(Debug)]
pub(crate) struct Caller {
    pub daemon: Arc<Daemon>,
    kept: Option<(SendRequest<Full<Bytes>>, u32, Instant)>,
}

impl Ask {
    fn new(method: &'static str, path: impl Into<String>, body: impl Into<Bytes>) -> Self {
        let json = HeaderValue::from_static("application/json");
        let headers = vec![(http::header::CONTENT_TYPE, json)];
        Self { method, path: path.into(), headers, body: body.into() }
    }

    /// As the team.
    pub(crate) fn api(
        daemon: &Daemon,
        method: &'static str,
        path: impl Into<String>,
        body: impl Into<Bytes>,
    ) -> Self {
        Self::new(method, path, body).with("x-api-key", &daemon.access().key)
    }

    /// As the operator.
    pub(crate) fn admin(daemon: &Daemon, path: &str) -> Self {
        Self::new("GET", path, "").with("x-admin-token", &daemon.access().admin)
    }

    /// To the agent of `sandbox`.
    pub(crate) fn agent(
        sandbox: &Sandbox,
        method: &'static str,
        path: impl Into<String>,
        body: impl Into<Bytes>,
    ) -> Self {
        Self::new(method, path, body)
            .with("e2b-sandbox-id", &sandbox.id)
            .with("e2b-sandbox-port", &guest_wire::ENVD_PORT.to_string())
            .with("x-access-token", &sandbox.token)
    }

    /// With another header; one that is there is replaced.
    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        let name = HeaderName::from_static(name);
        self.headers.retain(|(other, _)| *other != name);
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((name, value));
        }
        self
    }

    pub(crate) fn request(&self) -> Result<Request<Full<Bytes>>, Violation> {
        let mut request = Request::builder()
            .method(self.method)
            .uri(&self.path)
            .header("host", "localhost")
            .body(Full::new(self.body.clone()))
            .map_err(|error| Violation::unexpected(format!("{}: {error}", self.path)))?;
        request.headers_mut().extend(self.headers.iter().cloned());
        Ok(request)
    }
}

impl Caller {
    pub(crate) fn new(daemon: Arc<Daemon>) -> Self {
        Self { daemon, kept: None }
    }

    /// The answer of a daemon that serves, however many it takes.
    ///
    /// # Errors
    /// No answer although the daemon was not ended, or a refusal that does not pass.
    pub(crate) async fn ask(&mut self, ask: &Ask) -> Result<Response<Bytes>, Violation> {
        let budget = Budget::within(PATIENCE);
        loop {
            match self.once(ask).await {
                Err(Trouble::Cut) => {}
                Err(Trouble::Broken(violation)) => return Err(violation),
                Ok(answer) if self.passes(&answer) && !budget.remaining().is_zero() => {
                    tokio::time::sleep(AGAIN).await;
                }
                Ok(answer) => return Ok(answer),
            }
        }
    }

    /// Whether the service asks for a repetition, or must be forgiven.
    pub(crate) fn passes(&self, answer: &Response<Bytes>) -> bool {
        let asks = matches!(
            answer.status(),
            StatusCode::CONFLICT | StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
        ) && answer.headers().contains_key("retry-after");
        asks || (self.daemon.is_faulty() && answer.status().is_server_error())
    }

    /// One try, as soon as a daemon serves.
    pub(crate) async fn once(&mut self, ask: &Ask) -> Result<Response<Bytes>, Trouble> {
        let standing = self.daemon.up().await?;
        let request = ask.request()?;
        let answered =
            Budget::within(ANSWER).run("answer", self.send(request, standing.generation));
        let error = match answered.await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => error,
            Err(expired) => expired.into(),
        };
        if self.daemon.went(standing).await {
            return Err(Trouble::Cut);
        }
        let what = format!("{} {}: {error:#}; the daemon was not ended", ask.method, ask.path);
        Err(Violation::unexpected(what).into())
    }

    async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
        generation: u32,
    ) -> anyhow::Result<Response<Bytes>> {
        let kept = self.kept.take().filter(|(sender, of, used)| {
            *of == generation && used.elapsed() < FRESH && !sender.is_closed()
        });
        let mut sender = match kept {
            Some((sender, ..)) => sender,
            None => connect(self.daemon.access().address).await?,
        };
        sender.ready().await?;
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        self.kept = Some((sender, generation, Instant::now()));
        Ok(Response::from_parts(head, body))
    }
}

/// An answer that was not asked for.
pub(crate) fn refused(what: &str, answer: &Response<Bytes>) -> Violation {
    let text = String::from_utf8_lossy(answer.body());
    let text: String = text.trim().chars().take(300).collect();
    Violation::unexpected(format!("{what}: {} {text}", answer.status()))
}
