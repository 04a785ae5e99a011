//! Calls to the guest agent of one sandbox, through the one port of the service.

mod events;

use std::fmt::Display;
use std::io;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use buffa::Message;
use bytes::{BufMut as _, Bytes, BytesMut};
use guest_wire::ENVD_PORT;
use guest_wire::proto::process::process_event::Event;
use guest_wire::proto::process::{
    ProcessSelector, SendSignalRequest, SendSignalResponse, Signal, StartRequest, process_selector,
};
use guest_wire::rest::TOKEN_HEADER;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use lifecycle::{Budget, TaskGroup};
use model::SandboxId;
use tokio::net::TcpStream;

pub(crate) use events::Events;

/// From the request to the end of an answer, of a call that waits for nobody.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// Of an answer that is read as a whole. The agent lists 250 000 names at once at most, in about a
/// hundred megabytes.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;
/// An answer that says no.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;
/// Seconds between two signs of life of a stream that has nothing to say.
const KEEPALIVE: &str = "15";

/// What goes to the agent.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Where the agent of one sandbox is, and as whom it is asked.
#[derive(Debug, Clone)]
pub(crate) struct Agent {
    /// Host and port of the service.
    pub(crate) authority: String,
    pub(crate) sandbox: SandboxId,
    /// `None`: the sandbox is open to everybody who knows its id.
    pub(crate) token: Option<String>,
    /// Who acts inside; `None` is the template's user.
    pub(crate) user: Option<String>,
    pub(crate) connections: TaskGroup,
}

/// What a call came to if not to its answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    /// The agent says no, or the service in its place.
    #[error("{message}")]
    Refused {
        status: StatusCode,
        /// A word of the Connect protocol.
        code: Option<String>,
        message: String,
    },
    #[error("the connection to sandbox {sandbox} broke ({what})")]
    Broken { sandbox: SandboxId, what: String },
    #[error("sandbox {sandbox} answers what this version does not understand ({what})")]
    Foreign { sandbox: SandboxId, what: String },
}

impl AgentError {
    /// What was asked about is not there.
    pub(crate) fn is_not_found(&self) -> bool {
        self.is("not_found", StatusCode::NOT_FOUND)
    }

    pub(crate) fn is_already_there(&self) -> bool {
        self.is("already_exists", StatusCode::CONFLICT)
    }

    fn is(&self, word: &str, expected: StatusCode) -> bool {
        match self {
            Self::Refused { code: Some(code), .. } => code == word,
            Self::Refused { code: None, status, .. } => *status == expected,
            Self::Broken { .. } | Self::Foreign { .. } => false,
        }
    }

    /// Whether it may be that the sandbox is not there any more, or not running.
    pub(crate) fn may_be_its_end(&self) -> bool {
        match self {
            Self::Refused { status, code, .. } => {
                code.is_none() && *status != StatusCode::NOT_FOUND
            }
            Self::Broken { .. } => true,
            Self::Foreign { .. } => false,
        }
    }
}

impl Agent {
    /// A way to the agent for calls one after another.
    pub(crate) fn line(&self) -> Line {
        Line { agent: self.clone(), sender: None }
    }

    /// Starts a program; its number inside, and what happens from now on. It runs on when the
    /// events are dropped.
    ///
    /// Cancel safety: it may have been started.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub(crate) async fn start(&self, request: &StartRequest) -> Result<(u32, Events), AgentError> {
        let starting = async {
            let mut line = self.line();
            let body = Full::from(envelope(&request.encode_to_vec())?);
            let call = self
                .request(Method::POST, "/process.Process/Start")
                .header(header::CONTENT_TYPE, "application/connect+proto")
                .header("keepalive-ping-interval", KEEPALIVE);
            let response = line.send(call, body.map_err(|never| match never {}).boxed_unsync());
            let response = response.await?;
            let mut events = Events::new(line, response.into_body());
            match events.next().await? {
                Some(Event::Start(start)) => Ok((start.pid, events)),
                _ => Err(self.foreign(&"a program begins with something else than its start")),
            }
        };
        self.in_time(starting).await
    }

    /// Sends the signal to the one process. What it writes on its way out may be lost.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub(crate) async fn signal(&self, pid: u32, signal: Signal) -> Result<(), AgentError> {
        let request = SendSignalRequest {
            process: process(pid).into(),
            signal: signal.into(),
            ..SendSignalRequest::default()
        };
        let _nothing: SendSignalResponse =
            self.line().call("process.Process/SendSignal", &request).await?;
        Ok(())
    }

    /// Gives up after [`ANSWER_LIMIT`].
    pub(crate) async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, AgentError>>,
    ) -> Result<T, AgentError> {
        match Budget::within(ANSWER_LIMIT).run("answer", work).await {
            Ok(done) => done,
            Err(expired) => Err(self.broken(&expired)),
        }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> http::request::Builder {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.authority)
            .header("e2b-sandbox-id", self.sandbox.as_str())
            .header("e2b-sandbox-port", ENVD_PORT)
            .header("connect-protocol-version", "1");
        if let Some(token) = &self.token {
            request = request.header(TOKEN_HEADER, token);
        }
        if let Some(user) = &self.user {
            let name = STANDARD.encode(format!("{user}:"));
            request = request.header(header::AUTHORIZATION, format!("Basic {name}"));
        }
        request
    }

    async fn dial(&self) -> Result<SendRequest<Body>, AgentError> {
        let socket = TcpStream::connect(&self.authority).await.map_err(|e| self.broken(&e))?;
        socket.set_nodelay(true).map_err(|error| self.broken(&error))?;
        let shaken = handshake(TokioIo::new(socket)).await;
        let (sender, connection) = shaken.map_err(|error| self.broken(&error))?;
        self.connections.spawn(tracing::debug_span!("agent"), async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = %observe::chain(&error), "a connection broke");
            }
        });
        Ok(sender)
    }

    pub(crate) fn broken(&self, what: &dyn Display) -> AgentError {
        AgentError::Broken { sandbox: self.sandbox.clone(), what: what.to_string() }
    }

    pub(crate) fn foreign(&self, what: &dyn Display) -> AgentError {
        AgentError::Foreign { sandbox: self.sandbox.clone(), what: what.to_string() }
    }
}

/// One connection, made when it is needed and made again when the other side has closed it.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) agent: Agent,
    sender: Option<SendRequest<Body>>,
}

impl Line {
    /// One message for one, in time.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub(crate) async fn call<A: Message>(
        &mut self,
        method: &str,
        message: &impl Message,
    ) -> Result<A, AgentError> {
        let agent = self.agent.clone();
        agent.in_time(self.patient_call(method, message)).await
    }

    /// The same, however long it takes: a program may take its time to read what it is given.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub(crate) async fn patient_call<A: Message>(
        &mut self,
        method: &str,
        message: &impl Message,
    ) -> Result<A, AgentError> {
        let body = Full::from(message.encode_to_vec()).map_err(|never| match never {});
        let call = self
            .agent
            .request(Method::POST, &format!("/{method}"))
            .header(header::CONTENT_TYPE, "application/proto");
        let response = self.send(call, body.boxed_unsync()).await?;
        let answer = self.whole(response, ANSWER_BYTES_MAX).await?;
        A::decode_from_slice(&answer).map_err(|error| self.agent.foreign(&error))
    }

    /// Sends a request; its answer, if that is not a refusal.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub(crate) async fn send(
        &mut self,
        request: http::request::Builder,
        body: Body,
    ) -> Result<Response<Incoming>, AgentError> {
        let request = request.body(body).map_err(|error| self.agent.foreign(&error))?;
        let response = self.exchange(request).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = self.whole(response, REFUSAL_BYTES_MAX).await?;
        Err(refusal(status, &body))
    }

    async fn exchange(&mut self, request: Request<Body>) -> Result<Response<Incoming>, AgentError> {
        let mut request = request;
        if let Some(mut sender) = self.sender.take()
            && sender.ready().await.is_ok()
        {
            match sender.try_send_request(request).await {
                Ok(response) => {
                    self.sender = Some(sender);
                    return Ok(response);
                }
                // Closed meanwhile; nothing was sent.
                Err(mut error) => match error.take_message() {
                    Some(back) => request = back,
                    None => return Err(self.agent.broken(&observe::chain(error.error()))),
                },
            }
        }
        let mut sender = self.agent.dial().await?;
        let sent = sender.send_request(request).await;
        let response = sent.map_err(|error| self.agent.broken(&observe::chain(&error)))?;
        self.sender = Some(sender);
        Ok(response)
    }

    /// Reads an answer that is not long.
    ///
    /// # Errors
    /// It is longer than `limit`, or broke.
    pub(crate) async fn whole(
        &self,
        response: Response<Incoming>,
        limit: usize,
    ) -> Result<Bytes, AgentError> {
        let body = Limited::new(response.into_body(), limit).collect().await;
        body.map(http_body_util::Collected::to_bytes).map_err(|error| self.agent.broken(&error))
    }
}

/// The process of this number.
pub(crate) fn process(pid: u32) -> ProcessSelector {
    ProcessSelector {
        selector: Some(process_selector::Selector::Pid(pid)),
        ..ProcessSelector::default()
    }
}

/// A message as streams have it: flags, length, content.
fn envelope(message: &[u8]) -> Result<Bytes, AgentError> {
    let length = u32::try_from(message.len()).map_err(|_too_long| AgentError::Refused {
        status: StatusCode::PAYLOAD_TOO_LARGE,
        code: None,
        message: "the command line and its variables are too long".to_owned(),
    })?;
    let mut bytes = BytesMut::with_capacity(message.len().saturating_add(5));
    bytes.put_u8(0);
    bytes.put_u32(length);
    bytes.put_slice(message);
    Ok(bytes.freeze())
}

/// The agent says why in `message`, and in `code` a word or its status once more.
fn refusal(status: StatusCode, body: &[u8]) -> AgentError {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |name: &str| body.get(name).and_then(|value| value.as_str()).map(str::to_owned);
    let message = text("message").unwrap_or_else(|| format!("answered with {status}"));
    AgentError::Refused { status, code: text("code"), message }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::{AgentError, refusal};

    #[test]
    fn what_is_not_there_is_known_by_the_word_or_by_the_status() {
        let not_found = StatusCode::NOT_FOUND;
        let by_word = refusal(not_found, br#"{"code":"not_found","message":"no x"}"#);
        assert!(by_word.is_not_found() && by_word.to_string() == "no x");
        let by_status = refusal(not_found, br#"{"code":404,"message":"no x"}"#);
        assert!(by_status.is_not_found());
        let other = refusal(not_found, br#"{"code":"unimplemented","message":"no"}"#);
        assert!(!other.is_not_found());
    }

    #[test]
    fn the_service_in_place_of_an_agent_may_mean_the_end_of_its_sandbox() {
        let gone = refusal(StatusCode::BAD_GATEWAY, br#"{"code":502,"message":"not found"}"#);
        assert!(gone.may_be_its_end());
        let said_no = refusal(StatusCode::BAD_REQUEST, br#"{"code":"invalid_argument"}"#);
        assert!(!said_no.may_be_its_end());
        let AgentError::Refused { message, .. } = said_no else { panic!("{said_no:?}") };
        assert_eq!(message, "answered with 400 Bad Request");
    }
}
