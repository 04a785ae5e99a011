//! Requests of HTTP/2, side by side: each is a stream of its own on both connections, with its
//! trailers, its end and its pace.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;

use http::header::HOST;
use http::uri::{Authority, PathAndQuery, Scheme as UriScheme};
use http::{Request, Response, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self as client, SendRequest};
use hyper::server::conn::http2 as server;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use lifecycle::Budget;
use model::Scheme;
use tokio::sync::{Mutex, Notify};
use tokio_rustls::{client as tls_client, server as tls_server};

use super::Upstream;
use crate::Refusal;
use crate::beside::Runner;
use crate::http::{HEAD_MAX, REQUEST_LIMIT};
use crate::intercept::Protocol;
use crate::line::Line;
use crate::outside::Outside;
use crate::requests::{Body, broken, check_is_for, refused, set_headers};

/// Requests of one connection at a time.
const STREAMS_MAX: u32 = 100;
/// Bytes of one stream, and of a connection, that one end may have sent and the other not taken:
/// what a program can have us hold that sends and does not read.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Bytes of one stream that wait to be sent.
const SEND_MAX: usize = 64 * 1024;

type Program = tls_server::TlsStream<Line>;

/// Carries the streams of `program` to the server on `stream`, and on others when that one has ended.
pub(super) async fn serve(
    upstream: Arc<Upstream>,
    program: Program,
    stream: tls_client::TlsStream<Outside>,
) {
    let requests = match begin(&upstream.runner, stream).await {
        Ok(requests) => requests,
        Err(refusal) => {
            upstream.shared.refused(&refusal);
            return say(&upstream.runner, program, &refusal).await;
        }
    };
    let runner = upstream.runner();
    let streams = Arc::new(Streams { upstream, requests: Mutex::new(requests) });
    let service = service_fn(|request| {
        let streams = Arc::clone(&streams);
        async move { Box::pin(streams.answer(request)).await }
    });
    let serving = builder(runner).serve_connection(TokioIo::new(program), service);
    if let Err(error) = serving.await {
        tracing::trace!(%error, "requests to the outside are broken off");
    }
}

/// Answers the first request with `refusal`, and asks for no more.
pub(super) async fn say(runner: &Runner, program: Program, refusal: &Refusal) {
    let answered = Notify::new();
    let service = service_fn(|_request| {
        answered.notify_one();
        let answer = refused(refusal);
        async move { Ok::<_, Infallible>(answer) }
    });
    let serving = builder(runner.clone()).serve_connection(TokioIo::new(program), service);
    let all = async {
        let mut serving = pin!(serving);
        tokio::select! {
            biased;
            () = answered.notified() => {}
            ended = serving.as_mut() => return ended,
        }
        serving.as_mut().graceful_shutdown();
        serving.await
    };
    // One that asks for nothing hears nothing.
    match Budget::within(REQUEST_LIMIT).run("a request", all).await {
        Ok(Ok(())) | Err(_) => {}
        Ok(Err(error)) => tracing::trace!(%error, "a program does not hear why it is refused"),
    }
}

fn builder(runner: Runner) -> server::Builder<Runner> {
    let mut builder = server::Builder::new(runner);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(u32::try_from(HEAD_MAX).unwrap_or(u32::MAX))
        .max_send_buf_size(SEND_MAX);
    builder
}

/// Begins to speak HTTP/2 with the server on `stream`.
async fn begin(
    runner: &Runner,
    stream: tls_client::TlsStream<Outside>,
) -> Result<SendRequest<Incoming>, Refusal> {
    let (requests, connection) = client::Builder::new(runner.clone())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(u32::try_from(HEAD_MAX).unwrap_or(u32::MAX))
        .max_send_buf_size(SEND_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(&error))?;
    runner.spawn(async move { drop(connection.await) });
    Ok(requests)
}

#[derive(Debug)]
struct Streams {
    upstream: Arc<Upstream>,
    /// Held only to look at it, and while another connection is made: all wait for that one.
    requests: Mutex<SendRequest<Incoming>>,
}

/// A request that has no answer of the server's.
enum Failure {
    Refused(Refusal),
    /// The server has reset its stream, and so is the program's: with the same code, by which
    /// programs tell what may be sent again.
    Reset(hyper::Error),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Streams {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
        match self.forward(request).await {
            Ok(answer) => Ok(answer.map(BodyExt::boxed)),
            Err(Failure::Reset(error)) => Err(error),
            Err(Failure::Refused(refusal)) => {
                self.upstream.shared.refused(&refusal);
                Ok(refused(&refusal))
            }
        }
    }

    async fn forward(&self, mut request: Request<Incoming>) -> Result<Response<Incoming>, Failure> {
        let name = self.upstream.name();
        check_is_for(&request, name)?;
        let allowed = self.upstream.allowed()?;
        set_headers(&allowed.egress, Scheme::Https, name, &mut request)?;
        *request.uri_mut() = self.absolute(&request)?;
        // The authority is in its place, and the two must not differ.
        drop(request.headers_mut().remove(HOST));
        let mut requests = self.sender().await?;
        match requests.try_send_request(request).await {
            Ok(answer) => Ok(answer),
            Err(mut error) => match error.take_message() {
                // The server has ended the connection in the meantime, and nothing was sent.
                Some(unsent) => {
                    let mut requests = self.sender().await?;
                    requests.send_request(unsent).await.map_err(failure)
                }
                None => Err(failure(error.into_error())),
            },
        }
    }

    /// The request's whole address: that it is for this host is checked, and the port is its own.
    fn absolute(&self, request: &Request<Incoming>) -> Result<Uri, Refusal> {
        let in_header = request.headers().get(HOST).map(|host| host.as_bytes().to_vec());
        let authority = match (request.uri().authority(), in_header) {
            (Some(authority), _) => Ok(authority.clone()),
            (None, Some(host)) => Authority::from_maybe_shared(host),
            (None, None) => Authority::try_from(self.upstream.name().as_str()),
        };
        let path = request.uri().path_and_query().cloned();
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(UriScheme::HTTPS);
        parts.authority = authority.ok();
        parts.path_and_query = Some(path.unwrap_or(PathAndQuery::from_static("/")));
        Uri::from_parts(parts).map_err(|_odd| Refusal::Request("the request names no host"))
    }

    /// Who takes requests now. Of a connection that has ended another takes the place.
    async fn sender(&self) -> Result<SendRequest<Incoming>, Refusal> {
        let mut requests = self.requests.lock().await;
        if requests.is_closed() {
            let allowed = self.upstream.allowed()?;
            let connected = self.upstream.connect(&allowed, &[Protocol::H2]).await?;
            if connected.protocol != Protocol::H2 {
                return Err(Refusal::Dial("the server speaks HTTP/2 no more".into()));
            }
            *requests = begin(&self.upstream.runner, connected.stream).await?;
        }
        Ok(requests.clone())
    }
}

fn failure(error: hyper::Error) -> Failure {
    let cause = std::error::Error::source(&error);
    let reset = cause.and_then(|cause| cause.downcast_ref::<h2::Error>());
    if reset.is_some_and(|reset| reset.is_reset() && reset.is_remote()) {
        return Failure::Reset(error);
    }
    Failure::Refused(broken(&error))
}
